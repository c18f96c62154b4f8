"""The trail of administration: who changed what, when and from where; rows are added and never changed."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0023"
down_revision = "0022"

SQL = Path(__file__).parents[2] / "sql"

FUNCTIONS = ("note_action_v1", "changed_values_v1", "note_product_v1", "note_account_v1", "keep_trail_v1")

TABLE = """
CREATE TABLE admin_trail (
    trail_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- the account that acted, which may be gone; NULL: no account, as on the command line
    user_id uuid,
    -- the account's e-mail root at that time; `cli`: the command line; `system`: anything else
    actor text NOT NULL,
    -- the client's address; of the command line, the user and the machine; otherwise the database's user
    origin text NOT NULL,
    -- the operation's name in the API reference, the command, or the statement and its table
    action text NOT NULL,
    -- `product/7`, `order/<id>` or `account/<id>`
    object text NOT NULL,
    -- the values that changed, before and after; NULL: there was, or is, no such object
    old jsonb,
    new jsonb,
    request_id text
);
CREATE INDEX admin_trail_object ON admin_trail (object, trail_id);
CREATE INDEX admin_trail_actor ON admin_trail (actor, trail_id);
"""

TRIGGERS = """
CREATE TRIGGER admin_trail_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON admin_trail
FOR EACH STATEMENT EXECUTE FUNCTION keep_trail_v1();
CREATE TRIGGER products_noted AFTER INSERT OR UPDATE ON products
FOR EACH ROW EXECUTE FUNCTION note_product_v1();
CREATE TRIGGER users_added AFTER INSERT ON users
FOR EACH ROW WHEN (new.role <> 'buyer') EXECUTE FUNCTION note_account_v1();
CREATE TRIGGER users_changed AFTER UPDATE ON users
FOR EACH ROW WHEN (old.role <> 'buyer' OR new.role <> 'buyer') EXECUTE FUNCTION note_account_v1();
CREATE TRIGGER users_removed AFTER DELETE ON users
FOR EACH ROW WHEN (old.role <> 'buyer') EXECUTE FUNCTION note_account_v1();
"""


def upgrade() -> None:
    """Start an empty trail; processes of the release before act as `system`."""
    op.execute(TABLE)
    for name in FUNCTIONS:
        op.execute((SQL / "functions" / f"{name}.sql").read_text())
    op.execute(TRIGGERS)


def downgrade() -> None:
    """Drop the trail."""
    for name, table in (
        ("users_removed", "users"),
        ("users_changed", "users"),
        ("users_added", "users"),
        ("products_noted", "products"),
    ):
        op.execute(f"DROP TRIGGER {name} ON {table}")
    op.execute("DROP TABLE admin_trail")
    for name in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {name}")
