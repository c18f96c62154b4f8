"""When the next call to a payment provider may be sent: one row per provider and operation, shared by all processes."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0020"
down_revision = "0019"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("take_turns_v1",)

TABLE = """
CREATE TABLE provider_turns (
    provider text NOT NULL CHECK (length(provider) <= 63),
    operation text NOT NULL CHECK (length(operation) <= 63),
    next_at timestamptz NOT NULL,
    PRIMARY KEY (provider, operation)
) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    """Start with every operation free."""
    op.execute(TABLE)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Forget them."""
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE provider_turns")
