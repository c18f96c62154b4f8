"""Password hashes that the database user of the API reads one by one, by a function, and in no other way."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("password_hash_v1",)


def upgrade() -> None:
    """Add the function; `sql/grants.sql`, which follows each upgrade, says who may call it."""
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Drop it."""
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
