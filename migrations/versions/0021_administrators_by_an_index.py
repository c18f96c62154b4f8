"""The index of the administrators, for databases that ran revision 0014 before that had it."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Make the index unless 0014 made it."""
    op.execute("CREATE INDEX IF NOT EXISTS users_administrators ON users (email) WHERE role = 'admin'")


def downgrade() -> None:
    """Keep it: 0014 drops it."""
