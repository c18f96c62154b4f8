"""Runs the migrations as the owner of the tables, then `sql/grants.sql`; or prints their SQL (`--sql`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from alembic import context
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine, pool
from sqlalchemy.exc import OperationalError

# The same forms of URLs as in every other process; the revisions themselves import nothing of the program.
from flashsale.adapters.postgres.sessions import BY_INDEX, alter_role, session_settings
from flashsale.settings import read_settings

if TYPE_CHECKING:
    from flashsale.settings.groups import PostgresSettings

LOCK_CLASS = 7001
"""First key of the advisory lock that lets one migration run at a time."""

GRANTS = Path(__file__).parents[1] / "sql" / "grants.sql"

BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
"""A transaction of somebody else holds what this one needs."""

NAMED = "FLASHSALE_POSTGRES__OWNER_URL (or FLASHSALE_POSTGRES__URL)"

ROLES = ("flashsale_api", "flashsale_worker")
"""Under which processes run. They belong to the server, not to one of its databases; nothing is owned by them."""


def run_offline() -> None:
    """Print the SQL."""
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
    if context.get_revision_argument() == context.get_head_revision():
        for role in ROLES:
            print(f"-- Where it is missing: CREATE ROLE {role};")  # noqa: T201
        print(GRANTS.read_text())  # noqa: T201


def connect(url: str) -> psycopg.Connection:
    """Connect by libpq, which reads the URL itself: to the server that takes writes, if the URL names several.

    No statement is prepared under a name, which a pooler could give to another client.
    """
    connection = psycopg.connect(url, target_session_attrs="read-write", prepare_threshold=None)
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        sys.exit(f"{NAMED}: the database's encoding is {encoding}; create it with ENCODING 'UTF8'.")
    return connection


def run_online(settings: PostgresSettings) -> None:
    """Migrate in one transaction; another migration that starts meanwhile waits."""
    named = (settings.owner_url, settings.direct_url, settings.url)
    url = next(filter(None, (one.get_secret_value() for one in named)))
    with connect(url) as driver:
        engine = create_engine("postgresql+psycopg://", creator=lambda: driver, poolclass=pool.StaticPool)
        with engine.connect() as connection:
            context.configure(connection=connection)
            with context.begin_transaction():
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)")
                refuse_newer()
                # What waits for a table makes every later statement on it wait, too.
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(settings.lock_timeout_s * 1000)}")
                context.run_migrations()
                if context.get_context().get_current_revision() == context.get_head_revision():
                    grant(driver, settings)


def refuse_newer() -> None:
    """End with one line if the database has a revision that this release does not know."""
    current = context.get_context().get_current_revision()
    known = {one.revision for one in ScriptDirectory.from_config(context.config).walk_revisions()}
    if current is not None and current not in known:
        sys.exit(
            f"{NAMED}: the database is at revision {current}, which this release does not know; its newest is "
            f"{context.get_head_revision()}. Run the newer release, or restore a backup of this one."
        )


def make_roles(connection: psycopg.Connection) -> None:
    """Create the roles that are missing, if this user may."""
    for role in missing_roles(connection):
        try:
            with connection.transaction():
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        except psycopg.errors.InsufficientPrivilege:
            continue
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            continue  # a migration of another database was faster


def grant(connection: psycopg.Connection, settings: PostgresSettings) -> None:
    """Give the roles their rights, all of them each time: a restored database has none, and roles may be new.

    Without CREATEROLE somebody else creates the roles once; until then processes can only run as the owner.
    """
    make_roles(connection)
    if missing := missing_roles(connection):
        commands = " ".join(f"CREATE ROLE {role};" for role in missing)
        print(f"No rights were granted: let an administrator run {commands} Then migrate again.", file=sys.stderr)  # noqa: T201
        return
    connection.execute(GRANTS.read_bytes())
    if settings.direct_url.get_secret_value():
        set_sessions(connection, settings)
    for role, password in zip(ROLES, (settings.api_password, settings.worker_password), strict=True):
        if plain := password.get_secret_value():
            # Hashed here: a statement may end up in a log.
            hashed = connection.pgconn.encrypt_password(plain.encode(), role.encode(), b"scram-sha-256").decode()
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), hashed))


def set_sessions(connection: psycopg.Connection, settings: PostgresSettings) -> None:
    """Give the sessions of the roles their settings, because a pooler refuses those that a client sends."""
    commands = " ".join(
        alter_role(role, connection.info.dbname, session_settings(settings, BY_INDEX)) for role in ROLES
    )
    try:
        with connection.transaction():
            connection.execute(commands.encode())
    except psycopg.errors.InsufficientPrivilege:
        print(f"The sessions behind the pooler lack settings: let an administrator run {commands}", file=sys.stderr)  # noqa: T201


def missing_roles(connection: psycopg.Connection) -> list[str]:
    """Name the roles that the server does not have."""
    found = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [list(ROLES)]).fetchall()
    return [role for role in ROLES if (role,) not in found]


if context.is_offline_mode():
    run_offline()
else:
    try:
        run_online(read_settings("migrate").postgres)
    except (OperationalError, psycopg.OperationalError) as error:
        if isinstance(getattr(error, "orig", error), BUSY):
            sys.exit(
                "Nothing was changed: a long transaction, such as a full audit or a dump, holds a table that the "
                "migration needs. Migrate again when it has ended."
            )
        said = str(getattr(error, "orig", error)).splitlines()[0]
        sys.exit(f"Postgres refused: {said}. Is it running, and {NAMED} right?")
