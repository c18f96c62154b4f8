"""Users, products, units, orders, payments, the job queue, and the functions that move them."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "order_transition_allowed_v1",
    "guard_order_transition_v1",
    "notify_orders_v1",
    "change_stock_v1",
    "release_units_v1",
    "defer_order_job_v1",
    "defer_payment_jobs_v1",
    "accept_orders_v1",
    "void_requests_v1",
    "process_orders_v1",
    "end_orders_v1",
    "request_payment_v1",
    "begin_payments_v1",
    "finish_payments_v1",
    "sweep_orders_v1",
    "begin_gate_load_v1",
    "create_product_v1",
    "set_allotment_v1",
)

TABLES = """
CREATE TABLE users (
    user_id uuid PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    email text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    -- argon2id in PHC form; NULL: nobody can log in (buyers made in bulk)
    password_hash text,
    role text NOT NULL DEFAULT 'buyer' CHECK (role IN ('buyer', 'admin')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE products (
    product_id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    price_minor bigint NOT NULL CHECK (price_minor > 0),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    allotment integer NOT NULL CHECK (allotment BETWEEN 0 AND 1000000),
    payment_mode text NOT NULL CHECK (payment_mode IN ('automatic', 'by_buyer')),
    payment_window_s integer NOT NULL CHECK (payment_window_s BETWEEN 1 AND 86400),
    limit_per_buyer integer CHECK (limit_per_buyer BETWEEN 1 AND 1000000),
    starts_at timestamptz,
    ends_at timestamptz,
    paused boolean NOT NULL DEFAULT false,
    epoch bigint NOT NULL DEFAULT 1 CHECK (epoch > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (ends_at > starts_at)
);

-- One row per product that every change of its free units updates last before COMMIT.
CREATE TABLE product_live (
    product_id integer PRIMARY KEY REFERENCES products,
    free integer NOT NULL CHECK (free >= 0),
    version bigint NOT NULL DEFAULT 1,
    -- the unit that the last claim ended with: where the next one begins to look
    claim_hand integer NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

-- Every order id that anybody proposed, exactly once: an order, or void for ever.
CREATE TABLE requests (
    order_id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('order', 'void')),
    user_id uuid,
    key text CHECK (octet_length(key) BETWEEN 1 AND 255),
    fingerprint bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (kind = 'void' OR user_id IS NOT NULL)
);
CREATE UNIQUE INDEX requests_user_key ON requests (user_id, key) WHERE kind = 'order' AND key IS NOT NULL;

CREATE TABLE buyer_units (
    product_id integer NOT NULL REFERENCES products,
    user_id uuid NOT NULL REFERENCES users,
    units integer NOT NULL CHECK (units >= 0),
    PRIMARY KEY (product_id, user_id)
) WITH (fillfactor = 70);

CREATE TABLE orders (
    -- that of a request: the audit checks it, because a key would look up and lock the row that was written just before
    order_id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    product_id integer NOT NULL,
    product_name text NOT NULL,
    quantity integer NOT NULL CHECK (quantity BETWEEN 1 AND 100),
    unit_price_minor bigint NOT NULL CHECK (unit_price_minor > 0),
    currency text NOT NULL,
    payment_mode text NOT NULL,
    status text NOT NULL CHECK (status IN (
        'queued', 'processing', 'awaiting_payment', 'processing_payment', 'payment_unknown', 'confirmed',
        'payment_failed', 'expired', 'cancelled', 'failed', 'refund_pending', 'refunded'
    )),
    version integer NOT NULL DEFAULT 1 CHECK (version > 0),
    -- number of payment attempts begun; only the outcome of the newest may move the order
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    pay_requested_at timestamptz,
    -- when a sweep looks at the order again; NULL only in final states
    due_at timestamptz,
    job_id bigint,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- and so to users and products, whose rows would be locked for each order
    FOREIGN KEY (product_id, user_id) REFERENCES buyer_units,
    CHECK (
        (due_at IS NULL)
        = (status IN ('confirmed', 'payment_failed', 'expired', 'cancelled', 'failed', 'refunded'))
    )
) WITH (fillfactor = 70);
CREATE INDEX orders_due ON orders (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE units (
    product_id integer NOT NULL REFERENCES products,
    unit_no integer NOT NULL CHECK (unit_no > 0),
    order_id uuid REFERENCES orders,
    PRIMARY KEY (product_id, unit_no)
) WITH (fillfactor = 50);
CREATE INDEX units_free ON units (product_id, unit_no) WHERE order_id IS NULL;
CREATE INDEX units_order ON units (order_id) WHERE order_id IS NOT NULL;

CREATE TABLE order_events (
    -- that of an order; as above
    order_id uuid NOT NULL,
    version integer NOT NULL,
    status text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (order_id, version)
);

-- One row per try, committed before the gateway is called.
CREATE TABLE payment_attempts (
    order_id uuid NOT NULL REFERENCES orders,
    attempt integer NOT NULL CHECK (attempt > 0),
    gateway_key text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    outcome text CHECK (outcome IN ('captured', 'declined', 'cancelled', 'unknown', 'superseded')),
    reference text,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (order_id, attempt),
    CHECK ((outcome IS NULL) = (finished_at IS NULL))
);
CREATE UNIQUE INDEX payment_attempts_open ON payment_attempts (order_id) WHERE outcome IS NULL;

-- Units that an order gave back and that the gate has not been told of.
CREATE TABLE gate_returns (
    order_id uuid PRIMARY KEY REFERENCES orders,
    product_id integer NOT NULL REFERENCES products,
    epoch bigint NOT NULL,
    user_id uuid NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0)
);
CREATE INDEX gate_returns_product ON gate_returns (product_id);
"""

TRIGGERS = """
CREATE TRIGGER orders_transition
BEFORE UPDATE OF status ON orders
FOR EACH ROW WHEN (old.status IS DISTINCT FROM new.status)
EXECUTE FUNCTION guard_order_transition_v1();
"""

TABLE_NAMES = (
    "gate_returns",
    "payment_attempts",
    "order_events",
    "units",
    "orders",
    "buyer_units",
    "requests",
    "product_live",
    "products",
    "users",
)

DROP_QUEUE = """
DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs, procrastinate_workers CASCADE;
DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = current_schema()::regnamespace AND p.proname LIKE 'procrastinate\\_%'
    LOOP
        EXECUTE 'DROP FUNCTION ' || one || ' CASCADE';
    END LOOP;
END;
$$;
DROP TYPE procrastinate_job_to_defer_v1, procrastinate_job_status, procrastinate_job_event_type;
"""


def upgrade() -> None:
    """Create everything."""
    op.execute((SQL / "vendor" / "procrastinate_3_10.sql").read_text())
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Drop everything, the data too."""
    for name in TABLE_NAMES:
        op.execute(f"DROP TABLE {name}")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute(DROP_QUEUE)
