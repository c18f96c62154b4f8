"""Idempotency keys of administrators, with the answers that are given again."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"

TABLE = """
CREATE TABLE admin_requests (
    user_id uuid NOT NULL,
    key text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 16),
    product_id integer,
    status smallint,
    tag text,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT admin_requests_pkey PRIMARY KEY (user_id, key),
    CONSTRAINT admin_requests_answer_check CHECK (num_nulls(status, tag, body) IN (0, 3))
)
"""


def upgrade() -> None:
    """Add the table; the rows are few, and deleted after a day."""
    op.execute(TABLE)
    op.execute("CREATE INDEX admin_requests_created_at_idx ON admin_requests (created_at)")


def downgrade() -> None:
    """Drop the table: a request that is repeated after this is carried out again."""
    op.execute("DROP TABLE admin_requests")
