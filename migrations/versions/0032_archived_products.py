"""Products that are archived, sales that are closed, and an index of the orders that were refunded in part."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0032"
down_revision = "0031"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("close_sale_v1", "archive_product_v1", "refuse_archived_v1")


def upgrade() -> None:
    """Start with no archived product. Orders are not written meanwhile: about a second for each million of them."""
    # A product that is archived is paused, so that processes of the release before accept no order of it.
    op.execute("""
        ALTER TABLE products
        ADD COLUMN archived_at timestamptz,
        ADD CONSTRAINT products_archived_check CHECK (archived_at IS NULL OR paused)
    """)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    # Each load of the gate raises the epoch.
    op.execute("""
        CREATE TRIGGER products_archived BEFORE UPDATE ON products
        FOR EACH ROW WHEN (old.archived_at IS NOT NULL AND to_jsonb(old) - 'epoch' <> to_jsonb(new) - 'epoch')
        EXECUTE FUNCTION refuse_archived_v1()
    """)
    op.execute("""
        CREATE INDEX orders_refunded_in_part ON orders (product_id)
        WHERE refunded_minor > 0 AND status <> 'refunded'
    """)


def downgrade() -> None:
    """Show archived products again; they stay paused."""
    op.execute("DROP INDEX orders_refunded_in_part")
    op.execute("DROP TRIGGER products_archived ON products")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("ALTER TABLE products DROP CONSTRAINT products_archived_check, DROP COLUMN archived_at")
