"""Roles of those who look after a sale without all of an administrator's power."""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Allow the new roles, and index everybody who is no buyer: each process reads them every few seconds."""
    op.execute("""
        ALTER TABLE users
        DROP CONSTRAINT users_role_check,
        ADD CONSTRAINT users_role_check CHECK (role IN ('buyer', 'support', 'operator', 'admin'))
    """)
    op.execute("CREATE INDEX users_staff ON users (email) WHERE role <> 'buyer'")


def downgrade() -> None:
    """Make buyers of the new roles: an older process takes nobody's word for a role that it does not know."""
    op.execute("UPDATE users SET role = 'buyer' WHERE role IN ('support', 'operator')")
    op.execute("DROP INDEX users_staff")
    op.execute("""
        ALTER TABLE users
        DROP CONSTRAINT users_role_check,
        ADD CONSTRAINT users_role_check CHECK (role IN ('buyer', 'admin'))
    """)
