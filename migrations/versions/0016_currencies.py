"""A product's currency is one of ISO 4217, and its price has the decimals of that currency."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0016"
down_revision = "0015"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("currency_known_v1", "refuse_currency_v1")

OTHER_DECIMALS = (
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF",
    "XPF", "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND", "CLF", "UYW",
)  # fmt: skip
"""Currencies with none, three or four decimals, of which older releases stored two."""

# The prices stay as they are: those integers were sent to the payment provider and charged. Whether an administrator
# meant them so nobody can tell, so these products are not sold on until one looked at them.
PAUSE = f"""
SELECT pg_notify('flashsale_products', product_id::text)
FROM products
WHERE NOT paused AND (NOT currency_known_v1(currency) OR currency IN {OTHER_DECIMALS});
UPDATE products SET paused = true
WHERE NOT paused AND (NOT currency_known_v1(currency) OR currency IN {OTHER_DECIMALS});
"""

TRIGGERS = """
CREATE TRIGGER products_currency
BEFORE INSERT OR UPDATE OF currency ON products
FOR EACH ROW EXECUTE FUNCTION refuse_currency_v1();
CREATE TRIGGER products_resumed
BEFORE UPDATE OF paused ON products
FOR EACH ROW WHEN (NOT new.paused) EXECUTE FUNCTION refuse_currency_v1();
"""


def upgrade() -> None:
    """Pause products whose currency is unknown or had the wrong decimals, and let no other be made."""
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(PAUSE)
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Take any code; products that were paused stay so."""
    op.execute("DROP TRIGGER products_resumed ON products; DROP TRIGGER products_currency ON products")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
