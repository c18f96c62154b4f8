"""The id of the HTTP request that made an order, which log lines carry, and the price that a buy expects."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0033"
down_revision = "0032"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("accept_orders_v5",)


def upgrade() -> None:
    """Start without the ids of earlier requests. No row is written again.

    Buys wait while this waits for the transactions that read the table, at most FLASHSALE_POSTGRES__LOCK_TIMEOUT_S.
    """
    op.execute("ALTER TABLE requests ADD COLUMN request_id text")
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Forget them."""
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("ALTER TABLE requests DROP COLUMN request_id")
