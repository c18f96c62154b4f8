"""Refunds that fail are told, refunds that nobody began are withdrawn, and fees are kept."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0034"
down_revision = "0033"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "withdraw_refund_v1",
    "note_refund_v2",
    "note_late_refund_v2",
    "note_failed_refund_v1",
)

# First, and in the order of processes' transactions, which write an order and then, by triggers, the outbox: in another
# order each could wait for the other. The new table refers to `orders`, which can be read meanwhile.
LOCKS = """
LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE payment_intents, refunds, webhook_events, outbox_targets, outbox IN ACCESS EXCLUSIVE MODE
"""

TABLES = """
-- when the provider said that a refund which had succeeded failed: the money is the shop's again, and the buyer's due
ALTER TABLE refunds ADD COLUMN bounced_at timestamptz CHECK (bounced_at IS NULL OR state = 'succeeded');

-- the order that it is about, once the provider told it: a payment on the provider's page has an id of its own
ALTER TABLE webhook_events ADD COLUMN order_id uuid;
CREATE INDEX webhook_events_order ON webhook_events (order_id) WHERE order_id IS NOT NULL;

-- since when it is told of everything that it wants now
ALTER TABLE outbox_targets ADD COLUMN wanted_since timestamptz NOT NULL DEFAULT clock_timestamp();

ALTER TABLE outbox
-- which money did not go back: `refund:` or `intent:` with its number; empty: the message is about something else
ADD COLUMN failed text NOT NULL DEFAULT '',
ADD CONSTRAINT outbox_failed_check CHECK ((failed <> '') = (event = 'order.refund_failed'));

-- What the provider kept of the payment of an order, as the settlement read it.
CREATE TABLE payment_fees (
    order_id uuid PRIMARY KEY REFERENCES orders,
    fee_minor bigint NOT NULL CHECK (fee_minor >= 0),
    currency text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

INDEX = """
CREATE UNIQUE INDEX outbox_told ON outbox (order_id, order_version, back_minor, failed, target_id)
WHERE order_id IS NOT NULL
"""
OLD_INDEX = """
CREATE UNIQUE INDEX outbox_change ON outbox (order_id, order_version, back_minor, target_id)
WHERE order_id IS NOT NULL
"""

LATE = """
DROP TRIGGER payment_intents_told ON payment_intents;
CREATE TRIGGER payment_intents_told
AFTER UPDATE OF state ON payment_intents
FOR EACH ROW WHEN (old.state <> new.state AND new.state = 'refunded')
EXECUTE FUNCTION note_late_refund_v{version}()
"""

# At COMMIT, when the order is what its refunds make of it.
TRIGGERS = """
CREATE CONSTRAINT TRIGGER refunds_told
AFTER UPDATE OF state, bounced_at ON refunds
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (
    (old.state = 'pending' AND new.state = 'failed' AND new.problem IS DISTINCT FROM 'withdrawn')
    OR (old.bounced_at IS NULL AND new.bounced_at IS NOT NULL)
)
EXECUTE FUNCTION note_failed_refund_v1();
CREATE CONSTRAINT TRIGGER payment_intents_kept
AFTER UPDATE OF problem ON payment_intents
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (old.problem IS DISTINCT FROM new.problem AND new.problem = 'refund')
EXECUTE FUNCTION note_failed_refund_v1();
"""


def upgrade() -> None:
    """Add it; nobody is told of what failed before.

    Meanwhile no order changes, and intents, refunds, webhooks and the outbox cannot be read. It reads `webhook_events`
    and `outbox` once, which keep a few days, and waits for each table at most FLASHSALE_POSTGRES__LOCK_TIMEOUT_S.
    """
    op.execute(LOCKS)
    op.execute(TABLES)
    op.execute(INDEX)
    op.execute("DROP INDEX outbox_change")
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(LATE.format(version=2))
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Drop it, with the messages that only it can tell from others; fees can be read from the provider again."""
    op.execute("DROP TRIGGER payment_intents_kept ON payment_intents")
    op.execute("DROP TRIGGER refunds_told ON refunds")
    op.execute(LATE.format(version=1))
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DELETE FROM outbox WHERE failed <> ''")
    op.execute("DELETE FROM outbox_targets WHERE events = ARRAY['order.refund_failed']")
    op.execute("UPDATE outbox_targets SET events = array_remove(events, 'order.refund_failed')")
    op.execute(OLD_INDEX)
    op.execute("DROP INDEX outbox_told")
    op.execute("DROP TABLE payment_fees")
    op.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_failed_check, DROP COLUMN failed")
    op.execute("ALTER TABLE outbox_targets DROP COLUMN wanted_since")
    op.execute("DROP INDEX webhook_events_order")
    op.execute("ALTER TABLE webhook_events DROP COLUMN order_id")
    op.execute("ALTER TABLE refunds DROP COLUMN bounced_at")
