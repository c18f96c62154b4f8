"""Accepts that wait for no product, say what they saw, and let no refusal become untrue."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = (
    "note_raised_stock_v1",
    "note_released_buyer_v1",
    "accept_orders_v2",
    "void_requests_v2",
)

COLUMNS = """
-- When the free units last rose from none, and from fewer than one order may hold.
ALTER TABLE product_live
ADD COLUMN above_zero_at timestamptz NOT NULL DEFAULT '-infinity',
ADD COLUMN raised_at timestamptz NOT NULL DEFAULT '-infinity';
-- When the buyer's units last fell.
ALTER TABLE buyer_units ADD COLUMN released_at timestamptz NOT NULL DEFAULT '-infinity';
"""

TRIGGERS = """
CREATE TRIGGER product_live_raised
BEFORE UPDATE OF free ON product_live
FOR EACH ROW WHEN (new.free > old.free AND old.free < 100)
EXECUTE FUNCTION note_raised_stock_v1();
CREATE TRIGGER buyer_units_released
BEFORE UPDATE OF units ON buyer_units
FOR EACH ROW WHEN (new.units < old.units)
EXECUTE FUNCTION note_released_buyer_v1();
"""


def upgrade() -> None:
    """Add the instants, what notes them, and the functions that read them."""
    op.execute(COLUMNS)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Take them away."""
    op.execute("DROP TRIGGER buyer_units_released ON buyer_units; DROP TRIGGER product_live_raised ON product_live")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("ALTER TABLE buyer_units DROP COLUMN released_at")
    op.execute("ALTER TABLE product_live DROP COLUMN above_zero_at, DROP COLUMN raised_at")
