"""Limits per e-mail root: what a product's limit counts, and accepts that ask it."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "email_root_v1",
    "limit_id_v1",
    "hold_email_roots_v1",
    "limit_older_accepts_v1",
    "keep_product_terms_v2",
    "create_product_v3",
    "accept_orders_v3",
)

UP = """
ALTER TABLE products
ADD COLUMN limit_per text NOT NULL DEFAULT 'account' CHECK (limit_per IN ('account', 'email_root'));
ALTER TABLE product_terms ADD COLUMN limit_per text NOT NULL DEFAULT 'account';
-- What the limit counts instead of the account; NULL where it counts accounts. The default stands for accepts that do
-- not write the column; a trigger replaces it, so it is never stored.
ALTER TABLE buyer_units ADD COLUMN limit_id uuid;
ALTER TABLE buyer_units ALTER COLUMN limit_id SET DEFAULT '00000000-0000-0000-0000-000000000000';
CREATE INDEX buyer_units_limit ON buyer_units (product_id, limit_id) WHERE limit_id IS NOT NULL;
"""

LIMIT_OLDER = """
CREATE TRIGGER buyer_units_limited
BEFORE INSERT ON buyer_units
FOR EACH ROW WHEN (new.limit_id = '00000000-0000-0000-0000-000000000000')
EXECUTE FUNCTION limit_older_accepts_v1();
"""

DOWN = """
DROP INDEX buyer_units_limit;
ALTER TABLE buyer_units DROP COLUMN limit_id;
ALTER TABLE product_terms DROP COLUMN limit_per;
ALTER TABLE products DROP COLUMN limit_per;
"""

TERMS = (
    "name", "price_minor", "currency", "allotment", "payment_mode", "payment_window_s", "limit_per_buyer", "starts_at",
    "ends_at", "paused",
)  # fmt: skip


def _keep_terms(function: str, *terms: str) -> None:
    changed = ", ".join(f"{{0}}.{name}" for name in terms)
    op.execute(f"""
        DROP TRIGGER products_changed ON products;
        DROP TRIGGER products_created ON products;
        CREATE TRIGGER products_changed BEFORE UPDATE ON products
        FOR EACH ROW WHEN (({changed.format("old")}) IS DISTINCT FROM ({changed.format("new")}))
        EXECUTE FUNCTION {function}();
        CREATE TRIGGER products_created BEFORE INSERT ON products
        FOR EACH ROW EXECUTE FUNCTION {function}();
    """)


def upgrade() -> None:
    """Add what a limit counts; products that are there count accounts, as before."""
    op.execute(UP)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(LIMIT_OLDER)
    _keep_terms("keep_product_terms_v2", *TERMS, "limit_per")


def downgrade() -> None:
    """Count accounts only."""
    _keep_terms("keep_product_terms_v1", *TERMS)
    op.execute("DROP TRIGGER buyer_units_limited ON buyer_units")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute(DOWN)
