"""Refunds: whole or in part, with or without the units, each at most once under its key."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0019"
down_revision = "0018"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "order_transition_allowed_v2",
    "guard_order_transition_v2",
    "defer_refund_jobs_v1",
    "settle_refunds_v1",
    "request_refund_v1",
    "begin_refund_v1",
    "note_refund_v1",
    "miss_refund_v1",
    "wake_refunds_v1",
)

TABLES = """
ALTER TABLE orders
-- of the price, what is back
ADD COLUMN refunded_minor bigint NOT NULL DEFAULT 0,
-- whether a refunded order's units were released
ADD COLUMN restocked boolean NOT NULL DEFAULT false,
-- whether the provider holds the money because the buyer disputes the charge
ADD COLUMN disputed boolean NOT NULL DEFAULT false,
ADD CONSTRAINT orders_refunded_check CHECK (refunded_minor BETWEEN 0 AND unit_price_minor * quantity),
ADD CONSTRAINT orders_restocked_check CHECK (status = 'refunded' OR NOT restocked);

CREATE INDEX orders_restocked ON orders (product_id) INCLUDE (quantity) WHERE restocked;

CREATE TABLE refunds (
    order_id uuid NOT NULL REFERENCES orders,
    number integer NOT NULL CHECK (number > 0),
    -- under which the provider refunds once; NULL: made at the provider, not here
    refund_key text,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    -- whether the units are released with the money
    restock boolean NOT NULL,
    reason text NOT NULL,
    -- the account that asked for it
    requested_by uuid,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'succeeded', 'failed')),
    -- number of tries begun; of these the newest may end it without a refund
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    -- whether a call may have been made
    sent boolean NOT NULL DEFAULT false,
    -- the provider's id
    reference text,
    -- what kept it from succeeding last
    problem text,
    due_at timestamptz,
    job_id bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    CONSTRAINT refunds_pkey PRIMARY KEY (order_id, number),
    CONSTRAINT refunds_key_check CHECK ((refund_key IS NULL) = (requested_by IS NULL)),
    CONSTRAINT refunds_reference_check CHECK (state <> 'succeeded' OR reference IS NOT NULL),
    CONSTRAINT refunds_due_check CHECK ((state = 'pending') = (due_at IS NOT NULL)),
    CONSTRAINT refunds_finished_check CHECK ((state = 'pending') = (finished_at IS NULL))
);
CREATE UNIQUE INDEX refunds_open ON refunds (order_id) WHERE state = 'pending';
CREATE UNIQUE INDEX refunds_key ON refunds (refund_key);
CREATE INDEX refunds_due ON refunds (due_at) WHERE due_at IS NOT NULL;

-- The refund that the request of a key made.
ALTER TABLE admin_requests ADD COLUMN refund_number integer;
"""

TRIGGER = """
DROP TRIGGER orders_transition ON orders;
CREATE TRIGGER orders_transition
BEFORE UPDATE OF status ON orders
FOR EACH ROW WHEN (old.status IS DISTINCT FROM new.status)
EXECUTE FUNCTION guard_order_transition_v{version}()
"""


def upgrade() -> None:
    """Add what refunds need; an order that is there was never refunded."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGER.format(version=2))


def downgrade() -> None:
    """Drop it, unless money was given back: nothing of the older schema could tell which."""
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM refunds) THEN
                RAISE EXCEPTION 'there are refunds: the schema before them cannot tell what was paid back';
            END IF;
        END $$
    """)
    op.execute(TRIGGER.format(version=1))
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("ALTER TABLE admin_requests DROP COLUMN refund_number")
    op.execute("DROP TABLE refunds")
    op.execute("DROP INDEX orders_restocked")
    op.execute(
        "ALTER TABLE orders DROP CONSTRAINT orders_restocked_check, DROP CONSTRAINT orders_refunded_check, "
        "DROP COLUMN disputed, DROP COLUMN restocked, DROP COLUMN refunded_minor"
    )
