-- The tables that all baselines share. Status: accepted, paying, confirmed, payment_failed, expired.
CREATE TABLE products (
    product_id integer PRIMARY KEY,
    name text NOT NULL,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    stock integer NOT NULL
);

CREATE TABLE orders (
    order_id uuid PRIMARY KEY,
    user_id text NOT NULL,
    product_id integer NOT NULL REFERENCES products,
    quantity integer NOT NULL,
    key text,
    status text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    UNIQUE (user_id, key)
);
