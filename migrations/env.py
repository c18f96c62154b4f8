"""Runs the migrations as the owner of the tables, then `sql/grants.sql`; or prints their SQL (`--sql`)."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from alembic import context
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine, pool
from sqlalchemy.exc import OperationalError

# The same forms of URLs as in every other process; the revisions themselves import nothing of the program.
from flashsale.adapters.postgres.sessions import BY_INDEX, alter_role, session_settings
from flashsale.settings import read_settings

if TYPE_CHECKING:
    from sqlalchemy import Executable

    from flashsale.settings.groups import PostgresSettings

ALONE = "SELECT pg_advisory_xact_lock(7001, 0)"
"""Takes the lock that lets one migration run at a time."""

GRANTS = Path(__file__).parents[1] / "sql" / "grants.sql"

BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
"""A transaction of somebody else holds what this one needs."""

PAUSE_MAX_S = 60.0

HELD = "a long transaction, such as a full audit or a dump, holds a table that the migration needs"

NAMED = "FLASHSALE_POSTGRES__OWNER_URL (or FLASHSALE_POSTGRES__URL)"

ROLES = ("flashsale_api", "flashsale_worker")
"""Under which processes run. They belong to the server, not to one of its databases; nothing is owned by them."""


class AsWritten(PostgresqlImpl):
    """Prints SQL as it is written; alembic itself would print each % twice, and four blanks for a tabulator."""

    __dialect__ = "postgresql"

    def execute(self, sql: Executable | str, execution_options: dict[str, Any] | None = None) -> None:
        """Print a statement, or run it."""
        if self.as_sql and isinstance(sql, str):
            self.static_output(f"{sql.strip()}{self.command_terminator}")
        else:
            super().execute(sql, execution_options)


def run_offline(settings: PostgresSettings) -> None:
    """Print the SQL of one transaction, with the limits of a migration that runs here."""
    context.configure(dialect_name="postgresql", literal_binds=True)
    context.static_output("-- psql --set ON_ERROR_STOP=1: the first error ends it, and nothing is changed.")
    with context.begin_transaction():
        context.execute(ALONE)
        context.execute(lock_timeout(settings))
        context.run_migrations()
        if context.get_revision_argument() == context.get_head_revision():
            for role in ROLES:
                context.static_output(f"-- Where it is missing: CREATE ROLE {role};")
            context.static_output(GRANTS.read_text())


def lock_timeout(settings: PostgresSettings) -> str:
    """Return the statement that bounds each wait for a table, because every later statement on it waits, too."""
    return f"SET LOCAL lock_timeout = {round(settings.lock_timeout_s * 1000)}"


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
                connection.exec_driver_sql(ALONE)
                refuse_newer()
                connection.exec_driver_sql(lock_timeout(settings))
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


def migrate(settings: PostgresSettings) -> None:
    """Migrate, and try again while another transaction holds what the migration needs: buys go on between two tries."""
    for number in range(1, settings.migration_tries + 1):
        try:
            run_online(settings)
        except (OperationalError, psycopg.OperationalError) as error:
            refused: BaseException = getattr(error, "orig", error)
            if not isinstance(refused, BUSY):
                said = str(refused).splitlines()[0]
                sys.exit(f"Postgres refused: {said}. Is it running, and {NAMED} right?")
            tried = f"Try {number} of {settings.migration_tries}: nothing was changed, because {HELD}."
            if number == settings.migration_tries:
                sys.exit(f"{tried} Migrate again when it has ended.")
            pause_s = min(settings.migration_pause_s * 2 ** (number - 1), PAUSE_MAX_S)
            print(f"{tried} The next try is in {pause_s:g} s.", file=sys.stderr, flush=True)  # noqa: T201
            time.sleep(pause_s)
        else:
            return


if context.is_offline_mode():
    # It connects to no database, so it needs no secret.
    run_offline(read_settings("offline").postgres)
else:
    migrate(read_settings("migrate").postgres)
