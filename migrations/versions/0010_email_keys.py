"""One account for each e-mail address, in whatever form it is written."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("email_key_v1",)

# NULL: lower(email) is the key, as it was for every account before. Of accounts whose addresses turn out to be one, the
# plain one has the key, else the oldest; the others keep lower(email), and log in as before.
FILL = """
WITH keyed AS (
    SELECT
        user_id, email_key_v1(email) AS key,
        row_number() OVER (
            PARTITION BY email_key_v1(email) ORDER BY lower(email) = email_key_v1(email) DESC, created_at, user_id
        ) AS place
    FROM users
)
UPDATE users AS u
SET email_key = k.key
FROM keyed AS k
WHERE u.user_id = k.user_id AND k.place = 1 AND k.key <> lower(u.email)
"""


def upgrade() -> None:
    """Add the key, and the index that keeps it unique, also for accounts that older processes make."""
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute("ALTER TABLE users ADD COLUMN email_key text")
    op.execute(FILL)
    op.execute("CREATE UNIQUE INDEX users_email_key ON users (coalesce(email_key, lower(email)))")


def downgrade() -> None:
    """Take it away: addresses that differ in more than case are different ones again."""
    op.execute("ALTER TABLE users DROP COLUMN email_key")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
