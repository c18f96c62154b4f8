"""Each change of what a page shows of a product or an order is counted and told, not only stock and states."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0035"
down_revision = "0034"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("note_product_v2", "raise_product_version_v1", "raise_order_changes_v1")

# In the order in which an accept takes them.
LOCKS = "LOCK TABLE products, orders IN ACCESS EXCLUSIVE MODE"

COLUMNS = """
-- rises with each change of what is shown of the product
ALTER TABLE products ADD COLUMN version bigint NOT NULL DEFAULT 1 CHECK (version > 0);
-- how often something else than the state changed of what the buyer is shown
ALTER TABLE orders ADD COLUMN changes integer NOT NULL DEFAULT 0;
"""

NOTED = """
DROP TRIGGER products_noted ON products;
CREATE TRIGGER products_noted AFTER INSERT OR UPDATE ON products
FOR EACH ROW EXECUTE FUNCTION note_product_v{version}();
"""

# The epoch is shown to nobody but administrators, and each load of the gate raises it.
TRIGGERS = """
CREATE TRIGGER products_shown BEFORE UPDATE ON products
FOR EACH ROW WHEN (
    to_jsonb(old) - '{epoch,version}'::text[] <> to_jsonb(new) - '{epoch,version}'::text[]
)
EXECUTE FUNCTION raise_product_version_v1();
CREATE TRIGGER orders_shown BEFORE UPDATE OF refunded_minor, pay_requested_at, due_at ON orders
FOR EACH ROW WHEN (
    old.status = new.status
    AND (
        old.refunded_minor <> new.refunded_minor
        OR old.pay_requested_at IS DISTINCT FROM new.pay_requested_at
        OR (
            old.due_at IS DISTINCT FROM new.due_at AND new.pay_requested_at IS NULL
            AND new.status = 'awaiting_payment' AND new.payment_mode = 'by_buyer'
        )
    )
)
EXECUTE FUNCTION raise_order_changes_v1();
"""


def upgrade() -> None:
    """Start to count. No row is written; the check of the new column reads the products, which are few."""
    op.execute(LOCKS)
    op.execute(COLUMNS)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(NOTED.format(version=2))
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Forget the counts: pages of the release before ask again by themselves."""
    op.execute(LOCKS)
    op.execute("DROP TRIGGER orders_shown ON orders")
    op.execute("DROP TRIGGER products_shown ON products")
    op.execute(NOTED.format(version=1))
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("ALTER TABLE orders DROP COLUMN changes")
    op.execute("ALTER TABLE products DROP COLUMN version")
