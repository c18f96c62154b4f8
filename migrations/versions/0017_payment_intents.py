"""What a payment provider holds for orders whose buyers pay, and the webhooks that it sends."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0017"
down_revision = "0016"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "begin_payments_v4",
    "intent_rank_v1",
    "note_ended_order_v1",
    "defer_intent_jobs_v1",
    "defer_event_jobs_v1",
    "begin_intent_v1",
    "open_intent_v1",
    "merge_intent_v1",
    "take_webhook_v1",
    "wake_payments_v1",
)

TABLES = """
-- What a provider holds for an order: a row is committed before the call that opens it.
CREATE TABLE payment_intents (
    order_id uuid NOT NULL REFERENCES orders,
    -- the key at the provider is <order>:create:<number>; the next comes only after an intent that nobody can pay
    number integer NOT NULL CHECK (number > 0),
    provider text NOT NULL CHECK (length(provider) BETWEEN 1 AND 32),
    -- the provider's id; NULL until an answer names it
    reference text CHECK (length(reference) BETWEEN 1 AND 255),
    -- opening: nobody has its secret yet; lost: opening it had no clear answer, so nobody ever gets its secret
    state text NOT NULL DEFAULT 'opening' CHECK (
        state IN ('opening', 'open', 'lost', 'authorized', 'cancelled', 'captured', 'refunded')
    ),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    -- what the buyer's page needs to pay
    client_secret text,
    page_url text,
    -- how what the provider holds differs from the order; such money never confirms it
    problem text CHECK (problem IN ('amount', 'refund')),
    -- what was left of the buyer's time when the payment was asked for: waiting for the provider does not use it up
    window_left interval NOT NULL,
    -- looks since the state changed: each further one comes later
    looks integer NOT NULL DEFAULT 0 CHECK (looks >= 0),
    -- when it is looked at again; NULL once nothing more can come of it
    due_at timestamptz,
    job_id bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (order_id, number),
    CHECK (due_at IS NOT NULL OR state IN ('cancelled', 'captured', 'refunded')),
    CHECK (due_at IS NULL OR state NOT IN ('cancelled', 'refunded')),
    CHECK (reference IS NOT NULL OR state IN ('opening', 'lost'))
);
CREATE UNIQUE INDEX payment_intents_reference ON payment_intents (provider, reference);
CREATE INDEX payment_intents_due ON payment_intents (due_at) WHERE due_at IS NOT NULL;

-- Webhooks that were received and checked, each once.
CREATE TABLE webhook_events (
    provider text NOT NULL CHECK (length(provider) BETWEEN 1 AND 32),
    event_id text NOT NULL CHECK (length(event_id) BETWEEN 1 AND 255),
    type text NOT NULL CHECK (length(type) BETWEEN 1 AND 255),
    -- the intent that it speaks of; nothing else of it is believed
    reference text CHECK (length(reference) BETWEEN 1 AND 255),
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- when a job is made for it again; NULL once it was taken
    due_at timestamptz,
    taken_at timestamptz,
    job_id bigint,
    PRIMARY KEY (provider, event_id),
    CHECK ((due_at IS NULL) = (taken_at IS NOT NULL))
);
CREATE INDEX webhook_events_due ON webhook_events (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_events_waiting ON webhook_events (provider, reference) WHERE taken_at IS NULL;
-- A webhook about an order that was paid asks nobody.
CREATE INDEX payment_attempts_captured ON payment_attempts (reference) WHERE outcome = 'captured';
CREATE INDEX webhook_events_received ON webhook_events (received_at);
"""

TRIGGER = """
CREATE TRIGGER orders_ended AFTER UPDATE OF status ON orders
FOR EACH ROW WHEN (
    old.status <> new.status AND new.status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed')
) EXECUTE FUNCTION note_ended_order_v1()
"""


def upgrade() -> None:
    """Create the tables and the functions; orders of processes of the old code have no intents."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGER)


def downgrade() -> None:
    """Drop them: what the provider still holds must be cancelled there by hand."""
    op.execute("DROP TRIGGER orders_ended ON orders")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP INDEX payment_attempts_captured")
    op.execute("DROP TABLE webhook_events, payment_intents")
