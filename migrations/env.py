"""Runs the migrations against the database named by FLASHSALE_POSTGRES__URL, or prints their SQL (`--sql`)."""

from __future__ import annotations

import os
import sys

from alembic import context
from sqlalchemy import create_engine, pool
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

LOCK_CLASS = 7001
"""First key of the advisory lock that lets one migration run at a time."""


def run_offline() -> None:
    """Print the SQL."""
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online(url: str) -> None:
    """Migrate in one transaction; whoever starts at the same time waits."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)")
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
elif url := os.environ.get("FLASHSALE_POSTGRES__URL"):
    try:
        run_online(url)
    except ArgumentError:
        sys.exit("FLASHSALE_POSTGRES__URL is no URL such as postgresql://user:password@127.0.0.1:5432/flashsale")
    except OperationalError as error:
        sys.exit(f"Postgres refused: {str(error.orig).splitlines()[0]}. Is it running, and the URL right?")
else:
    sys.exit("Set FLASHSALE_POSTGRES__URL, for example postgresql://user:password@127.0.0.1:5432/flashsale")
