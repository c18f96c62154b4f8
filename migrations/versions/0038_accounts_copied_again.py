"""Accounts that are copied from another server can be copied again into a database that has them."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0038"
down_revision = "0037"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("merge_account_v1",)

# The process of Postgres that applies copies has an empty path.
OWN_PATH = """
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION merge_account_v1() SET search_path = %I, pg_temp', current_schema());
END $$
"""

TRIGGER = """
CREATE TRIGGER users_merged BEFORE INSERT ON users
FOR EACH ROW EXECUTE FUNCTION merge_account_v1();
ALTER TABLE users ENABLE REPLICA TRIGGER users_merged;
"""


def upgrade() -> None:
    """Let copies merge; registrations wait for a moment, and fire nothing new."""
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(OWN_PATH)
    op.execute(TRIGGER)


def downgrade() -> None:
    """Let a copy only insert: one that begins again stops at the first account that is there."""
    op.execute("DROP TRIGGER users_merged ON users")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
