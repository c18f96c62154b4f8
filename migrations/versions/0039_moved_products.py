"""Products that move to another cell: what left, what arrived, and where a product went."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0039"
down_revision = "0038"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("leave_cell_v1", "enter_cell_v1")

TABLES = """
-- A product whose free units left for another cell (`flashsale cells move`).
CREATE TABLE product_departures (
    product_id integer PRIMARY KEY,
    move_id uuid NOT NULL UNIQUE,
    to_cell integer NOT NULL CHECK (to_cell >= 0),
    units integer NOT NULL CHECK (units > 0),
    -- whether it was paused before
    paused boolean NOT NULL,
    left_at timestamptz NOT NULL
);

-- A product that was made of another cell's, with the units that left there.
CREATE TABLE product_arrivals (
    product_id integer PRIMARY KEY,
    move_id uuid NOT NULL UNIQUE,
    from_product_id integer NOT NULL UNIQUE,
    units integer NOT NULL CHECK (units > 0),
    arrived_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- the product of another cell that it became
ALTER TABLE products
ADD COLUMN moved_to integer,
ADD CONSTRAINT products_moved_check CHECK (moved_to IS NULL OR archived_at IS NOT NULL);
"""

# Each load of the gate raises the epoch. Where an archived product went is written once.
ARCHIVED = """
DROP TRIGGER products_archived ON products;
CREATE TRIGGER products_archived BEFORE UPDATE ON products
FOR EACH ROW WHEN (
    old.archived_at IS NOT NULL AND (
        to_jsonb(old) - '{epoch,moved_to}'::text[] <> to_jsonb(new) - '{epoch,moved_to}'::text[]
        OR (old.moved_to IS NOT NULL AND old.moved_to IS DISTINCT FROM new.moved_to)
    )
)
EXECUTE FUNCTION refuse_archived_v1()
"""

ARCHIVED_BEFORE = """
DROP TRIGGER products_archived ON products;
CREATE TRIGGER products_archived BEFORE UPDATE ON products
FOR EACH ROW WHEN (old.archived_at IS NOT NULL AND to_jsonb(old) - 'epoch' <> to_jsonb(new) - 'epoch')
EXECUTE FUNCTION refuse_archived_v1()
"""


def upgrade() -> None:
    """Start without a moved product; products are not changed for a moment."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(ARCHIVED)


def downgrade() -> None:
    """Drop them, unless a product moved: nothing of the older schema could tell where its units are."""
    op.execute("""
        DO $$ BEGIN
            LOCK TABLE products, product_departures, product_arrivals IN ACCESS EXCLUSIVE MODE;
            IF EXISTS (SELECT 1 FROM product_departures) OR EXISTS (SELECT 1 FROM product_arrivals) THEN
                RAISE EXCEPTION 'products moved between cells: the schema before cannot tell where';
            END IF;
        END $$
    """)
    op.execute(ARCHIVED_BEFORE)
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("ALTER TABLE products DROP CONSTRAINT products_moved_check, DROP COLUMN moved_to")
    op.execute("DROP TABLE product_arrivals, product_departures")
