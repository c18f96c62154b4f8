"""What a failure of Postgres means: wait, look for another server, change a setting, migrate."""

from __future__ import annotations

import ssl

import asyncpg

SLOW = (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.IdleInTransactionSessionTimeoutError)
"""The server is up; a statement, a lock or a transaction exceeded its timeout."""

READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, asyncpg.TargetServerAttributeNotMatched)
"""The server is up and accepts no writes: it is a standby, or was set to read-only."""

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

REPEATED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.InvalidCachedStatementError)
"""Lost conflicts with another transaction or with a migration: the statement is sent again immediately."""


class Misconfigured(Exception):
    """A server refuses this process permanently: only a changed setting helps. The text contains no secret."""


def reason_of(error: BaseException) -> str | None:
    """Return why a connection is refused permanently; None if it may succeed later. It contains no password.

    A host name that does not resolve is no permanent refusal: the name server or the service may still be starting.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "The server does not speak TLS, which sslmode asks for."
    if isinstance(error, asyncpg.ClientConfigurationError):
        return "The URL, or a file that it names, cannot be used."
    if isinstance(error, PERMANENT):
        return str(error).partition("\n")[0]
    return None


def caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    """Say whether an error, or an error in its chain of causes, is of these kinds."""
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__
    return False
