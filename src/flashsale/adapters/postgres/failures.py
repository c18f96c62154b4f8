"""What a failure of Postgres means: wait, look for another server, change a setting, migrate."""

from __future__ import annotations

import ssl

import asyncpg

SLOW = (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.IdleInTransactionSessionTimeoutError)
"""The server is up; a statement, a lock or a transaction exceeded its timeout."""

READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, asyncpg.TargetServerAttributeNotMatched)
"""The server is up and accepts no writes: it is a standby, or was set to read-only."""

POOLED = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""Prepared statements of several clients are mixed: a pooler gives a session to the next client's transaction."""

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    *SLOW,
    *READ_ONLY,
    *POOLED,
)
"""The server is down, shutting down, out of a resource, too slow or read-only: a later try may succeed."""

PERMANENT = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ClientConfigurationError,
    ssl.SSLCertVerificationError,
)
"""Refusals of a connection that last until a setting of this program or of the server changes."""

OTHER_SCHEMA = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)
"""The database was not migrated, or not to the revision that this program needs."""

UNVERIFIED = "sslmode asks for a verified certificate, and sslrootcert names no file of authorities."

TOLD_MAX = 200

REPEATED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.InvalidCachedStatementError)
"""Lost conflicts with another transaction or with a migration: the statement is sent again immediately."""


class Misconfigured(Exception):
    """A server refuses this process permanently: only a changed setting helps. The text contains no secret."""

    def __init__(self, reason: str, *, setting: str = "FLASHSALE_POSTGRES__URL") -> None:
        """Name the variable that is wrong."""
        super().__init__(reason)
        self.setting = setting


POOLER = (
    "so there is a pooler in front of the server: name the server itself in FLASHSALE_POSTGRES__DIRECT_URL; "
    "see docs/how-to/connect-postgres.md"
)
REFUSED_BY_POOLER = "no such "
"""How errors of PgBouncer begin that do not pass by themselves: no such database, no such user."""


def reason_of(error: BaseException) -> str | None:
    """Return why a connection is refused permanently; None if it may succeed later. It contains no password.

    A host name that does not resolve is no permanent refusal: the name server or the service may still be starting.
    """
    if (reason := _of_pooler(error)) is not None:
        return reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "The server does not speak TLS, which sslmode asks for."
    if isinstance(error, asyncpg.ClientConfigurationError):
        # Its text may hold a part of the URL.
        return UNVERIFIED if "root certificate" in str(error) else "The URL, or a file that it names, cannot be used."
    if isinstance(error, PERMANENT):
        return told(error)
    return None


def _of_pooler(error: BaseException) -> str | None:
    if isinstance(error, POOLED):
        return f"Prepared statements of several clients are mixed, {POOLER}."
    if not isinstance(error, asyncpg.ProtocolViolationError):
        return None
    if "startup parameter" in str(error):
        return f"The settings of the session are refused ({told(error)}), {POOLER}."
    return told(error) if str(error).startswith(REFUSED_BY_POOLER) else None


def told(error: BaseException) -> str:
    """Return the first line of an error's text, or its type."""
    return str(error).partition("\n")[0][:TOLD_MAX] or type(error).__name__


def caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    """Say whether an error, or an error in its chain of causes, is of these kinds."""
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__
    return False
