"""Up to 10,000,000 units of a product: rows of units are a pool, made and deleted in chunks beside the sale."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "tend_units_v1",
    "claim_units_v1",
    "begin_gate_load_v2",
    "create_product_v2",
    "set_allotment_v2",
    "change_allotment_v1",
)

UP = """
-- How many units of a product have no row yet; negative: how many free rows are too many. A row of its own, because
-- whoever makes rows holds it meanwhile.
CREATE TABLE unit_pools (
    product_id integer PRIMARY KEY REFERENCES products,
    unmade integer NOT NULL
);
CREATE INDEX unit_pools_open ON unit_pools (product_id) WHERE unmade <> 0;
INSERT INTO unit_pools (product_id, unmade) SELECT product_id, 0 FROM products;
-- More than half of the time that a row takes; who makes rows holds the row of a pool, which points at a product.
ALTER TABLE units DROP CONSTRAINT units_product_id_fkey;

ALTER TABLE products
DROP CONSTRAINT products_allotment_check,
ADD CONSTRAINT products_allotment_check CHECK (allotment BETWEEN 0 AND 10000000);
"""

# The earlier functions know no unit without a row.
DOWN = """
SELECT tend_units_v1(product_id, abs(unmade)) FROM unit_pools WHERE unmade <> 0;
DROP TABLE unit_pools;
ALTER TABLE units ADD CONSTRAINT units_product_id_fkey FOREIGN KEY (product_id) REFERENCES products;

ALTER TABLE products
DROP CONSTRAINT products_allotment_check,
ADD CONSTRAINT products_allotment_check CHECK (allotment BETWEEN 0 AND 1000000);
"""


def upgrade() -> None:
    """Add the pools; every unit that exists has its row."""
    op.execute(UP)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Make the rows that are missing and drop the pools; an allotment above the earlier maximum refuses."""
    op.execute(DOWN)
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
