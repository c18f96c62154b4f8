"""An archived product may lead to another product than before: a cell that was restored makes it again."""

from __future__ import annotations

from alembic import op

revision = "0040"
down_revision = "0039"

ARCHIVED = """
DROP TRIGGER products_archived ON products;
CREATE TRIGGER products_archived BEFORE UPDATE ON products
FOR EACH ROW WHEN (
    old.archived_at IS NOT NULL AND (
        to_jsonb(old) - '{{epoch,moved_to}}'::text[] <> to_jsonb(new) - '{{epoch,moved_to}}'::text[]
        OR (old.moved_to IS NOT NULL AND {forbidden})
    )
)
EXECUTE FUNCTION refuse_archived_v1()
"""


def upgrade() -> None:
    """Let it change, and never end; products are not changed for a moment."""
    op.execute(ARCHIVED.format(forbidden="new.moved_to IS NULL"))


def downgrade() -> None:
    """Let it be written once."""
    op.execute(ARCHIVED.format(forbidden="old.moved_to IS DISTINCT FROM new.moved_to"))
