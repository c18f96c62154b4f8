"""Buyers set a new password by a code that they get by e-mail."""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"

UP = """
-- A buyer's request for a new password: the last one of each account, for a day. The code itself is only in the e-mail.
CREATE TABLE password_resets (
    user_id uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    -- the account's when it asked: a new password in the meantime ends the code
    generation integer NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- when the e-mail is sent next; NULL: it was sent
    due_at timestamptz DEFAULT clock_timestamp(),
    -- SHA-256 of the newest code, and until when the code may be used; NULL: none was made
    digest bytea UNIQUE,
    expires_at timestamptz,
    CHECK ((digest IS NULL) = (expires_at IS NULL))
);
CREATE INDEX password_resets_due ON password_resets (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX password_resets_requested ON password_resets (requested_at);
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(UP)


def downgrade() -> None:
    """Drop it, with the codes that were not used."""
    op.execute("DROP TABLE password_resets")
