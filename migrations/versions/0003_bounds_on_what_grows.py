"""Indexes and totals by which nothing that runs for ever reads all history."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "first_order_id_v1",
    "carry_orders_v1",
    "note_reopened_order_v1",
)

TABLES = """
-- Void rows are deleted once nobody can propose their ids any more.
CREATE INDEX requests_void ON requests (order_id) WHERE kind = 'void';

-- Of the jobs that ended without success only the newest of each queue are kept.
CREATE INDEX jobs_ended ON procrastinate_jobs (queue_name, id) WHERE status IN ('failed', 'cancelled', 'aborted');

-- Lists of orders of a product or in a status.
CREATE INDEX orders_final ON orders (product_id, status, order_id) WHERE due_at IS NULL;

-- What the final orders up to the mark add up to: they are not read again.
CREATE TABLE order_totals (
    product_id integer NOT NULL,
    status text NOT NULL,
    currency text NOT NULL,
    orders bigint NOT NULL,
    units bigint NOT NULL,
    value_minor bigint NOT NULL,
    PRIMARY KEY (product_id, status, currency)
) WITH (fillfactor = 50);

-- The last order id that the totals have passed.
CREATE TABLE order_mark (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    order_id uuid NOT NULL
) WITH (fillfactor = 10);
INSERT INTO order_mark (order_id) VALUES ('00000000-0000-0000-0000-000000000000');

-- Orders up to the mark that the totals do not count as what they are.
CREATE TABLE order_stragglers (
    order_id uuid PRIMARY KEY,
    -- the status in which the totals count the order; NULL: they do not count it
    counted text
);
"""

TRIGGERS = """
CREATE TRIGGER orders_reopened
AFTER UPDATE OF status ON orders
FOR EACH ROW WHEN (old.due_at IS NULL)
EXECUTE FUNCTION note_reopened_order_v1();
"""


def upgrade() -> None:
    """Create them; the totals are carried forward by the maintenance worker."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Drop them; nothing is lost, because the totals are sums of what is there."""
    op.execute("DROP TRIGGER orders_reopened ON orders")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE order_stragglers, order_mark, order_totals")
    op.execute("DROP INDEX orders_final, jobs_ended, requests_void")
