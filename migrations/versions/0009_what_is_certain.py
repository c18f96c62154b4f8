"""What is certain is told from what is not: calls that were made, units that were there, proposals in flight."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("note_raised_stock_v2", "void_requests_v3", "begin_payments_v3")

TABLES = """
-- Whether the attempt's call to the gateway was about to be made; the first attempt of an order does not say so.
ALTER TABLE payment_attempts ADD COLUMN sent boolean NOT NULL DEFAULT false;
-- [q]: when the free units of a product rose last from fewer than q to at least q. No row: never.
CREATE TABLE stock_raises (
    product_id integer PRIMARY KEY REFERENCES products,
    raised_at timestamptz [] NOT NULL CHECK (cardinality(raised_at) = 100)
);
LOCK product_live IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO stock_raises (product_id, raised_at)
SELECT
    l.product_id,
    greatest(l.above_zero_at, 'epoch') || array_fill(greatest(l.raised_at, 'epoch'), ARRAY[99])
FROM product_live AS l;
"""


def _note_raises(function: str) -> None:
    op.execute(f"""
DROP TRIGGER product_live_raised ON product_live;
CREATE TRIGGER product_live_raised
BEFORE UPDATE OF free ON product_live
FOR EACH ROW WHEN (new.free > old.free AND old.free < 100)
EXECUTE FUNCTION {function}();
""")


def upgrade() -> None:
    """Add the new columns, triggers and functions; the old functions stay."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    _note_raises("note_raised_stock_v2")


def downgrade() -> None:
    """Take them away."""
    _note_raises("note_raised_stock_v1")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE stock_raises; ALTER TABLE payment_attempts DROP COLUMN sent")
