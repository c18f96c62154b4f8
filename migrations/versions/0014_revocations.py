"""Generations of accounts: what ends tokens before they expire."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0014"
down_revision = "0013"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("raise_generation_v1", "note_revocation_v1")

TABLE = """
-- Accounts whose generation rose, or that were deleted, since the oldest token that may still hold was issued.
CREATE TABLE revocations (
    -- that of an account that may be gone
    user_id uuid PRIMARY KEY,
    -- the lowest generation whose tokens hold
    generation integer NOT NULL,
    revoked_at timestamptz NOT NULL
)
"""


def upgrade() -> None:
    """Start every account with the generation that tokens without one have."""
    op.execute("ALTER TABLE users ADD COLUMN generation integer NOT NULL DEFAULT 0 CHECK (generation >= 0)")
    op.execute(TABLE)
    op.execute("CREATE INDEX revocations_revoked_at ON revocations (revoked_at)")
    # Each process reads the administrators every few seconds.
    op.execute("CREATE INDEX users_administrators ON users (email) WHERE role = 'admin'")
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute("""
        CREATE TRIGGER users_power_changed BEFORE UPDATE ON users
        FOR EACH ROW WHEN (
            old.role <> new.role OR old.password_hash IS DISTINCT FROM new.password_hash
            OR new.generation < old.generation
        ) EXECUTE FUNCTION raise_generation_v1()
    """)
    op.execute("""
        CREATE TRIGGER users_revoked AFTER UPDATE ON users
        FOR EACH ROW WHEN (old.generation <> new.generation) EXECUTE FUNCTION note_revocation_v1()
    """)
    op.execute("""
        CREATE TRIGGER users_deleted AFTER DELETE ON users
        FOR EACH ROW EXECUTE FUNCTION note_revocation_v1()
    """)


def downgrade() -> None:
    """Forget them: tokens end when they expire, and not before."""
    for name in ("users_deleted", "users_revoked", "users_power_changed"):
        op.execute(f"DROP TRIGGER {name} ON users")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP INDEX users_administrators")
    op.execute("DROP TABLE revocations")
    op.execute("ALTER TABLE users DROP COLUMN generation")
