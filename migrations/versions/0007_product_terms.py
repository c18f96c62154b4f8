"""The terms that products had, since when: what the audit judges orders by."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("keep_product_terms_v1",)

TERMS = """
name, price_minor, currency, allotment, payment_mode, payment_window_s, limit_per_buyer, starts_at, ends_at, paused
"""

TABLE = """
-- What a product's terms were from an instant until the next row's; written by a trigger, never changed.
CREATE TABLE product_terms (
    -- that of a product, whose row a trigger that comes before it cannot refer to: the audit checks it
    product_id integer NOT NULL,
    valid_from timestamptz NOT NULL,
    name text NOT NULL,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    allotment integer NOT NULL,
    payment_mode text NOT NULL,
    payment_window_s integer NOT NULL,
    limit_per_buyer integer,
    starts_at timestamptz,
    ends_at timestamptz,
    paused boolean NOT NULL,
    PRIMARY KEY (product_id, valid_from)
)
"""

# Every change of the terms set updated_at, also before this revision: what a product's terms are now, they are since.
FIRST = (
    f"INSERT INTO product_terms (product_id, valid_from, {TERMS}) SELECT product_id, updated_at, {TERMS} FROM products"
)


def upgrade() -> None:
    """Keep terms from now on; what they were before a product's last change is not known."""
    op.execute(TABLE)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    changed = ", ".join(f"{{0}}.{name.strip()}" for name in TERMS.split(","))
    op.execute(f"""
        CREATE TRIGGER products_changed BEFORE UPDATE ON products
        FOR EACH ROW WHEN (({changed.format("old")}) IS DISTINCT FROM ({changed.format("new")}))
        EXECUTE FUNCTION keep_product_terms_v1()
    """)
    op.execute("""
        CREATE TRIGGER products_created BEFORE INSERT ON products
        FOR EACH ROW EXECUTE FUNCTION keep_product_terms_v1()
    """)
    op.execute(FIRST)


def downgrade() -> None:
    """Forget them."""
    op.execute("DROP TRIGGER products_created ON products")
    op.execute("DROP TRIGGER products_changed ON products")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE product_terms")
