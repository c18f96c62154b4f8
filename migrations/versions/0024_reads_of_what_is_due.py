"""Periodic work finds what is due by an index, and the audit of each minute reads no refunds of long ago."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0024"
down_revision = "0023"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("wake_payments_v2", "wake_refunds_v2", "carry_orders_v2", "note_restocked_order_v1")

RESTOCKS = """
-- Per product, the units of refunded orders that were released.
CREATE TABLE product_restocks (
    product_id integer PRIMARY KEY REFERENCES products,
    units bigint NOT NULL CHECK (units > 0)
) WITH (fillfactor = 50)
"""

# The trigger waits for the refunds that are under way and keeps later ones away until the sums are there.
TRIGGER = """
CREATE TRIGGER orders_restock
AFTER UPDATE OF restocked ON orders
FOR EACH ROW WHEN (new.restocked AND NOT old.restocked)
EXECUTE FUNCTION note_restocked_order_v1()
"""

SUMS = """
INSERT INTO product_restocks (product_id, units)
SELECT o.product_id, sum(o.quantity) FROM orders AS o WHERE o.restocked GROUP BY o.product_id
"""


def upgrade() -> None:
    """Add the functions, and the sums of what was released so far."""
    op.execute(RESTOCKS)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGER)
    op.execute(SUMS)


def downgrade() -> None:
    """Drop them: the orders have what the sums are made of."""
    op.execute("DROP TRIGGER orders_restock ON orders")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE product_restocks")
