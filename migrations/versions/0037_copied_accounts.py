"""Revocations of accounts that are copied from another server: a cell's processes hear of them too."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0037"
down_revision = "0036"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("note_revocation_v2",)

# The process of Postgres that applies copies has an empty path.
OWN_PATH = """
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION note_revocation_v2() SET search_path = %I, pg_temp', current_schema());
END $$
"""

TRIGGERS = """
DROP TRIGGER users_revoked ON users;
CREATE TRIGGER users_revoked AFTER UPDATE ON users
FOR EACH ROW WHEN (old.generation <> new.generation) EXECUTE FUNCTION {function}();
DROP TRIGGER users_deleted ON users;
CREATE TRIGGER users_deleted AFTER DELETE ON users
FOR EACH ROW EXECUTE FUNCTION {function}();
"""

# Copies of changes fire no other trigger.
ALWAYS = """
ALTER TABLE users ENABLE ALWAYS TRIGGER users_revoked;
ALTER TABLE users ENABLE ALWAYS TRIGGER users_deleted;
"""


def upgrade() -> None:
    """Replace the triggers of two kinds of changes to accounts; registrations wait for a moment."""
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(OWN_PATH)
    op.execute(TRIGGERS.format(function="note_revocation_v2"))
    op.execute(ALWAYS)


def downgrade() -> None:
    """Put the older ones back."""
    op.execute(TRIGGERS.format(function="note_revocation_v1"))
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
