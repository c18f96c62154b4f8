"""What a page of the payment provider needs, and the webhooks of an order by an index."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0028"
down_revision = "0027"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("begin_intent_v2",)


def upgrade() -> None:
    """Add them. Webhooks wait for the index: less than a second for each hundred thousand that are kept."""
    op.execute("CREATE INDEX webhook_events_reference ON webhook_events (provider, reference)")
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Drop them."""
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP INDEX webhook_events_reference")
