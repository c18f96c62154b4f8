"""Runs the migrations against the database named by FLASHSALE_POSTGRES__URL, or prints their SQL (`--sql`)."""

from __future__ import annotations

import os
import sys

import psycopg
from alembic import context
from sqlalchemy import create_engine, pool
from sqlalchemy.exc import OperationalError

# The same forms of URLs as in every other process; the revisions themselves import nothing of the program.
from flashsale.server_urls import check_postgres_url

LOCK_CLASS = 7001
"""First key of the advisory lock that lets one migration run at a time."""

VARIABLE = "FLASHSALE_POSTGRES__URL"


def run_offline() -> None:
    """Print the SQL."""
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def connect(url: str) -> psycopg.Connection:
    """Connect by libpq, which reads the URL itself: to the server that takes writes, if the URL names several."""
    connection = psycopg.connect(url, target_session_attrs="read-write")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        sys.exit(f"{VARIABLE}: the database's encoding is {encoding}: create it with ENCODING 'UTF8'.")
    return connection


def run_online(url: str) -> None:
    """Migrate in one transaction; another migration that starts meanwhile waits."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: connect(url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)")
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
elif url := os.environ.get(VARIABLE):
    try:
        check_postgres_url(url)
        run_online(url)
    except ValueError as error:
        sys.exit(f"{VARIABLE}: {error}")
    except OperationalError as error:
        sys.exit(f"Postgres refused: {str(error.orig).splitlines()[0]}. Is it running, and {VARIABLE} right?")
else:
    sys.exit(f"Set {VARIABLE}, for example postgresql://user:password@127.0.0.1:5432/flashsale")
