"""Cool-downs: units that a buyer held and did not pay for count toward the limit for a while."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0025"
down_revision = "0024"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "hold_email_roots_v2",
    "keep_product_terms_v3",
    "note_cooldown_v1",
    "create_product_v5",
    "accept_orders_v4",
)

UP = """
ALTER TABLE products ADD COLUMN cooldown_s integer NOT NULL DEFAULT 0 CHECK (cooldown_s BETWEEN 0 AND 86400);
ALTER TABLE product_terms ADD COLUMN cooldown_s integer NOT NULL DEFAULT 0;
-- Units of orders that ended unpaid, and until when they count; after that instant they count no more.
ALTER TABLE buyer_units ADD COLUMN cooling integer NOT NULL DEFAULT 0 CHECK (cooling >= 0);
ALTER TABLE buyer_units ADD COLUMN cools_until timestamptz;
-- Until when the gate counts the units for the buyer; NULL: they count no more.
ALTER TABLE gate_returns ADD COLUMN cools_until timestamptz;
"""

TRIGGER = """
CREATE TRIGGER gate_returns_cooling BEFORE INSERT ON gate_returns
FOR EACH ROW EXECUTE FUNCTION note_cooldown_v1();
"""

DOWN = """
ALTER TABLE gate_returns DROP COLUMN cools_until;
ALTER TABLE buyer_units DROP COLUMN cools_until;
ALTER TABLE buyer_units DROP COLUMN cooling;
ALTER TABLE product_terms DROP COLUMN cooldown_s;
ALTER TABLE products DROP COLUMN cooldown_s;
"""

TERMS = (
    "name", "price_minor", "currency", "allotment", "payment_mode", "payment_window_s", "limit_per_buyer", "starts_at",
    "ends_at", "paused", "limit_per",
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
    """Add cool-downs; products that are there have none."""
    op.execute(UP)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGER)
    _keep_terms("keep_product_terms_v3", *TERMS, "cooldown_s")


def downgrade() -> None:
    """Forget them."""
    _keep_terms("keep_product_terms_v2", *TERMS)
    op.execute("DROP TRIGGER gate_returns_cooling ON gate_returns")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute(DOWN)
