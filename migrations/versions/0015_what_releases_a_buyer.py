"""An accept that takes back what it has just counted releases nothing."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"

TRIGGER = """
CREATE TRIGGER buyer_units_released
BEFORE UPDATE OF units ON buyer_units
FOR EACH ROW WHEN ({released})
EXECUTE FUNCTION note_released_buyer_v1()
"""


def upgrade() -> None:
    """Leave out the rows that the same transaction wrote: an accept counts a proposal before it may refuse it."""
    op.execute("DROP TRIGGER buyer_units_released ON buyer_units")
    op.execute(TRIGGER.format(released="new.units < old.units AND old.xmin <> pg_current_xact_id()::xid"))


def downgrade() -> None:
    """Note each decrease as a release again."""
    op.execute("DROP TRIGGER buyer_units_released ON buyer_units")
    op.execute(TRIGGER.format(released="new.units < old.units"))
