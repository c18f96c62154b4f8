"""Books by day, by indexes of the money that moved, and the erasure of a buyer's personal data."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0030"
down_revision = "0029"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("erase_buyer_v1",)

# The triggers that the function fires look names up by the caller's path, unless the function has one of its own.
OWN_PATH = """
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION erase_buyer_v1(uuid) SET search_path = %I, pg_temp', current_schema());
END $$
"""


def upgrade() -> None:
    """Add them. Payments are not written meanwhile: about a second for each million of them."""
    op.execute("CREATE INDEX payment_attempts_taken ON payment_attempts (finished_at) WHERE outcome = 'captured'")
    op.execute("CREATE INDEX refunds_given ON refunds (finished_at) WHERE state = 'succeeded'")
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(OWN_PATH)


def downgrade() -> None:
    """Drop them; what was erased stays erased."""
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP INDEX refunds_given")
    op.execute("DROP INDEX payment_attempts_taken")
