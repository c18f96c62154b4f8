"""Batch jobs whose notifications have any number of rows, and that leave out what they cannot move."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "notify_rows_v1",
    "notify_orders_v2",
    "change_stock_v2",
    "release_units_v2",
    "end_orders_v2",
    "process_orders_v2",
    "sweep_orders_v2",
    "postpone_order_v1",
)

TABLES = """
-- Orders that Postgres refused to move. A row counts while the order has that version, and goes when it has another.
CREATE TABLE postponed_orders (
    order_id uuid PRIMARY KEY,
    version integer NOT NULL,
    -- what was refused, and what Postgres said
    job text NOT NULL,
    problem text NOT NULL,
    times integer NOT NULL DEFAULT 1,
    -- no batch takes the order before
    until timestamptz NOT NULL,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


def upgrade() -> None:
    """Add the functions beside those that processes of the old code still call."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Drop them."""
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE postponed_orders")
