"""Sales whose rows were moved to files: where the files are, and what stays of each order and of the money."""

from __future__ import annotations

from alembic import op

revision = "0036"
down_revision = "0035"

TABLES = """
-- A sale whose rows leave, or have left, the tables (`flashsale archive`). No foreign key: it would lock the products.
CREATE TABLE sale_archives (
    product_id integer PRIMARY KEY,
    -- machine and folder of the files
    place text NOT NULL,
    -- how many orders the files have
    orders bigint NOT NULL CHECK (orders >= 0),
    -- SHA-256 of each part of the files whose rows are gone, in the order of the parts
    digests bytea [] NOT NULL DEFAULT '{}',
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- when the last row was gone; NULL: some are left
    ended_at timestamptz CHECK (ended_at >= begun_at)
);

-- What stays of an order whose rows are in files.
CREATE TABLE archived_orders (
    order_id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    product_id integer NOT NULL,
    product_name text NOT NULL,
    quantity integer NOT NULL,
    unit_price_minor bigint NOT NULL,
    currency text NOT NULL,
    status text NOT NULL CHECK (
        status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded')
    ),
    version integer NOT NULL,
    changes integer NOT NULL,
    refunded_minor bigint NOT NULL,
    restocked boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX archived_orders_of_buyer ON archived_orders (user_id, order_id);
CREATE INDEX archived_orders_refunded_in_part ON archived_orders (product_id)
WHERE refunded_minor > 0 AND status <> 'refunded';

-- The money of orders whose rows are in files, by the quarter of an hour in which it moved: each time zone's days are
-- whole numbers of these.
CREATE TABLE archived_money (
    product_id integer NOT NULL,
    currency text NOT NULL,
    -- the beginning of the quarter of an hour
    at timestamptz NOT NULL,
    payments integer NOT NULL,
    revenue_minor bigint NOT NULL,
    refunds integer NOT NULL,
    refunded_minor bigint NOT NULL,
    -- of how many of the payments the provider's fee is known, and what these fees add up to
    fees integer NOT NULL,
    fees_minor bigint NOT NULL,
    PRIMARY KEY (product_id, currency, at)
);
CREATE INDEX archived_money_at ON archived_money (at);
"""


def upgrade() -> None:
    """Start without an archive. No table that a sale uses is locked."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop them, unless the rows of a sale left the tables: nothing of the older schema could tell where they are."""
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM sale_archives) THEN
                RAISE EXCEPTION 'there are archived sales: the schema before cannot tell where their orders are';
            END IF;
        END $$
    """)
    op.execute("DROP TABLE archived_money, archived_orders, sale_archives")
