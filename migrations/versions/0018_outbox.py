"""The outbox: what a shop's endpoints and its buyers are told, written with the change that it tells of."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0018"
down_revision = "0017"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("note_order_event_v1", "note_sold_out_v1")

TABLES = """
-- Who is told: `mail` (the buyers), and endpoints of the shop.
CREATE TABLE outbox_targets (
    target_id text PRIMARY KEY,
    -- NULL: the buyer, by e-mail
    url text,
    -- what signs the messages to an endpoint
    secret text,
    events text[] NOT NULL CHECK (cardinality(events) > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((url IS NULL) = (target_id = 'mail') AND (secret IS NULL) = (url IS NULL))
);

-- A row per message and target.
CREATE TABLE outbox (
    message_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    target_id text NOT NULL,
    event text NOT NULL,
    -- NULL with order_version: the event is one of a product
    order_id uuid,
    order_version integer,
    product_id integer NOT NULL,
    -- what the message says, as it was when it was written
    facts jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- when it is sent next; also until when a try that was begun may take. NULL: it ended
    due_at timestamptz DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    outcome text CHECK (outcome IN ('delivered', 'dead')),
    ended_at timestamptz,
    -- from when on it tries again, after a person said so
    resent_at timestamptz,
    -- why the last try failed
    problem text,
    CHECK ((order_id IS NULL) = (order_version IS NULL)),
    CHECK ((due_at IS NULL) = (outcome IS NOT NULL) AND (due_at IS NULL) = (ended_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX outbox_order ON outbox (order_id, order_version, target_id) WHERE order_id IS NOT NULL;
CREATE UNIQUE INDEX outbox_product ON outbox (product_id, target_id) WHERE due_at IS NOT NULL AND order_id IS NULL;
CREATE INDEX outbox_due ON outbox (target_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX outbox_ended ON outbox (outcome, ended_at) WHERE due_at IS NULL;
"""

TRIGGERS = """
CREATE TRIGGER orders_told
AFTER UPDATE OF status ON orders
FOR EACH ROW WHEN (
    old.status <> new.status
    AND new.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'refunded')
)
EXECUTE FUNCTION note_order_event_v1();
CREATE TRIGGER product_live_sold_out
AFTER UPDATE OF free ON product_live
FOR EACH ROW WHEN (old.free > 0 AND new.free = 0)
EXECUTE FUNCTION note_sold_out_v1();
"""


def upgrade() -> None:
    """Create it; nobody is told of what happened before."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Drop it, with the messages that were not sent."""
    op.execute("DROP TRIGGER product_live_sold_out ON product_live")
    op.execute("DROP TRIGGER orders_told ON orders")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE outbox, outbox_targets")
