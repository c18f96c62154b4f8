"""The settings of each session: time limits, plans, isolation. A pooler may keep them from the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.failures import POOLER
from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from flashsale.settings.groups import PostgresSettings

QUERIES = load("queries/sessions.sql")

ENCODING = "UTF8"
"""The only encoding of a database that holds every name; others fail at the first one outside ASCII, or earlier."""

FREELY = {"enable_seqscan": "on", "enable_mergejoin": "on"}

BY_INDEX = dict.fromkeys(FREELY, "off")
"""Postgres keeps a statement's plan until the tables' statistics are updated, about a minute later. A plan
of the first second of a sale, for tables of a few rows, would read whole tables while they grow to 100,000 rows."""


def session_settings(settings: PostgresSettings, plans: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of each session, times in milliseconds."""
    limits = {
        "statement_timeout": settings.statement_timeout_s,
        "lock_timeout": settings.lock_timeout_s,
        "idle_in_transaction_session_timeout": settings.idle_transaction_timeout_s,
    }
    return {
        **{name: str(round(limit_s * 1000)) for name, limit_s in limits.items()},
        "jit": "off",
        **plans,
        # Statements take a lock, then read: a snapshot from before the lock would miss the rival's changes.
        "default_transaction_isolation": "read committed",
    }


def _lacks(name: str, found: str | None, wanted: str) -> bool:
    """Say whether a session lacks a setting.

    A time limit that the pooler's role has may be another one. But `statement_timeout` may not be longer than this
    process waits: it would give statements up that the server still runs.
    """
    if not name.endswith("_timeout"):
        return found != wanted
    return found in {None, "0"} or (name == "statement_timeout" and int(found) > int(wanted))


def alter_role(role: str, database: str, wanted: Mapping[str, str]) -> str:
    """Return the statements that give a role's sessions settings."""
    quoted = ['"' + name.replace('"', '""') + '"' for name in (role, database)]
    return " ".join(
        f"ALTER ROLE {quoted[0]} IN DATABASE {quoted[1]} SET {name} = '{value}';" for name, value in wanted.items()
    )


async def read_session(connection: asyncpg.Connection[asyncpg.Record], wanted: Mapping[str, str]) -> Mapping[str, str]:
    """Read the session's values of the wanted settings, its user and its database."""
    rows = await connection.fetch(QUERIES["settings_of_session"].text, [*wanted])
    return {row["name"]: row["setting"] for row in rows}


def problem_of(found: Mapping[str, str], wanted: Mapping[str, str], *, pooled: bool) -> str | None:
    """Say what a session lacks and what to do; None if nothing. `pooled`: its settings are those of its role."""
    lacking = {name: value for name, value in wanted.items() if _lacks(name, found.get(name), value)}
    if not lacking:
        return None
    if not pooled:
        return f"The server does not get the settings of the session, {POOLER}."
    commands = alter_role(found["current_user"], found["current_database"], lacking)
    return f"The sessions behind the pooler lack settings: {commands} Then RECONNECT in the pooler."
