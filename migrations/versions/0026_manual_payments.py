"""Payments and refunds that an operator records, and products whose buyers may ask for their money back."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0026"
down_revision = "0025"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "create_product_v6",
    "record_payment_v1",
    "record_refund_v1",
    "request_own_refund_v1",
)

TABLES = """
ALTER TABLE products
-- whether the buyer of a paid order may ask for the money back
ADD COLUMN refundable_by_buyer boolean NOT NULL DEFAULT false;

-- The book of the provider `manual`: money that an operator saw come, or gave back.
CREATE TABLE manual_entries (
    order_id uuid NOT NULL REFERENCES orders,
    -- 0: the payment of the order; else the refund of this number
    number integer NOT NULL CHECK (number >= 0),
    -- what identifies the money outside, such as the text of a bank transfer
    reference text NOT NULL CHECK (length(reference) BETWEEN 1 AND 255),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    -- the administrator who recorded it
    recorded_by uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT manual_entries_pkey PRIMARY KEY (order_id, number)
);
-- One transfer pays one order.
CREATE UNIQUE INDEX manual_entries_reference ON manual_entries (reference) WHERE number = 0;
"""


def upgrade() -> None:
    """Add them; no product that exists allows its buyers to ask for refunds."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Drop them, unless money was recorded: nothing of the older schema could tell who saw it."""
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM manual_entries) THEN
                RAISE EXCEPTION 'there are payments that an operator recorded: the schema before cannot keep them';
            END IF;
        END $$
    """)
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE manual_entries")
    op.execute("ALTER TABLE products DROP COLUMN refundable_by_buyer")
