"""Each time that money of an order is given back is told: a part of it, or what came after the order's end."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0031"
down_revision = "0030"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("note_order_event_v2", "note_late_refund_v1")

COLUMN = """
ALTER TABLE outbox
-- 0: the order moved. Otherwise: money was given back and the order did not move; what of it was back by then
ADD COLUMN back_minor bigint NOT NULL DEFAULT 0,
ADD CONSTRAINT outbox_back_check CHECK (back_minor = 0 OR (back_minor > 0 AND event = 'order.refunded'))
"""

INDEX = """
CREATE UNIQUE INDEX outbox_change ON outbox (order_id, order_version, back_minor, target_id)
WHERE order_id IS NOT NULL
"""
OLD_INDEX = "CREATE UNIQUE INDEX outbox_order ON outbox (order_id, order_version, target_id) WHERE order_id IS NOT NULL"

TRIGGERS = """
DROP TRIGGER orders_told ON orders;
CREATE TRIGGER orders_told
AFTER UPDATE OF status, refunded_minor ON orders
FOR EACH ROW WHEN (
    (old.status <> new.status AND new.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'refunded'))
    OR (old.refunded_minor < new.refunded_minor AND new.status <> 'refunded')
)
EXECUTE FUNCTION note_order_event_v2();
CREATE TRIGGER payment_intents_told
AFTER UPDATE OF state ON payment_intents
FOR EACH ROW WHEN (old.state <> new.state AND new.state = 'refunded')
EXECUTE FUNCTION note_late_refund_v1();
"""
OLD_TRIGGER = """
CREATE TRIGGER orders_told
AFTER UPDATE OF status ON orders
FOR EACH ROW WHEN (
    old.status <> new.status
    AND new.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'refunded')
)
EXECUTE FUNCTION note_order_event_v1()
"""


def upgrade() -> None:
    """Add it; nobody is told of what was given back before. The outbox, which keeps a few days, is locked meanwhile."""
    op.execute(COLUMN)
    op.execute(INDEX)
    op.execute("DROP INDEX outbox_order")
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Drop it, with the messages that only it can tell from others."""
    op.execute("DROP TRIGGER payment_intents_told ON payment_intents")
    op.execute("DROP TRIGGER orders_told ON orders")
    op.execute(OLD_TRIGGER)
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DELETE FROM outbox WHERE back_minor > 0")
    op.execute(OLD_INDEX)
    op.execute("DROP INDEX outbox_change")
    op.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_back_check, DROP COLUMN back_minor")
