"""Buyers list their own orders, by an index."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Make the index. Orders are not written meanwhile: about a second for each million of them.

    Accepts read products before they write orders, and later revisions change products and users. So these are locked
    first: otherwise an accept and the migration wait for each other.
    """
    op.execute("LOCK TABLE products, users IN ACCESS EXCLUSIVE MODE")
    op.execute("CREATE INDEX orders_of_buyer ON orders (user_id, order_id)")


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP INDEX orders_of_buyer")
