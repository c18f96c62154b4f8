"""Payment attempts that never reached the gateway: they are no tries, and end no order."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("begin_payments_v2", "finish_payments_v2")

OUTCOMES = ("captured", "declined", "cancelled", "unknown", "superseded")


def _allow(*outcomes: str) -> None:
    listed = ", ".join(f"'{outcome}'" for outcome in outcomes)
    op.execute(
        "ALTER TABLE payment_attempts DROP CONSTRAINT payment_attempts_outcome_check, "
        f"ADD CONSTRAINT payment_attempts_outcome_check CHECK (outcome IN ({listed}))"
    )


def upgrade() -> None:
    """Allow the outcome, and add the functions beside those that processes of the old code still call."""
    _allow(*OUTCOMES, "unsent")
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Drop the functions; an attempt that was not sent counts as one without an answer again."""
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("UPDATE payment_attempts SET outcome = 'unknown' WHERE outcome = 'unsent'")
    _allow(*OUTCOMES)
