"""The time line of the database: what is added to versions, so that they rise although a restore takes them back."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("adopt_timeline_v1",)

TABLE = """
-- One row. Every version of a product's stock or of an order that leaves the database is the row's own plus `base`.
CREATE TABLE timeline (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- microseconds from 1970 to the beginning of this time line; 0 in a database that is older than time lines
    base bigint NOT NULL CHECK (base >= 0),
    -- which server process and which copy of the data it belongs to; empty: none yet
    life text NOT NULL DEFAULT ''
);
-- Processes of the release before show plain versions: beside them, and where they were seen, the base is 0. An empty
-- database may have taken the place of another one, whose versions clients have seen.
INSERT INTO timeline (base)
SELECT CASE
    WHEN EXISTS (SELECT FROM products) THEN 0 ELSE (extract(EPOCH FROM clock_timestamp()) * 1000000)::bigint
END;
"""


def upgrade() -> None:
    """Create the table, its row, and the function that keeps it."""
    op.execute(TABLE)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())


def downgrade() -> None:
    """Drop both: versions are plain counts again."""
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE timeline")
