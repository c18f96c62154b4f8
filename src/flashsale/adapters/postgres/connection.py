"""A connection that never asks the server to cancel: a cancelled COMMIT may be durable on one machine only.

With a synchronous standby, COMMIT waits until the standby has the transaction. A request to cancel ends only this wait:
the transaction is committed, everybody sees it, and it is lost if the standby takes over (Postgres' `syncrep.c`).
asyncpg sends such a request when a statement exceeds its time-out and when the task that awaits it is cancelled.
Neither needs it: `statement_timeout` ends a slow statement on the server, and does not count the wait in COMMIT.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.transaction import Transaction

if TYPE_CHECKING:
    from typing import Literal

    Isolation = Literal["read_committed", "read_uncommitted", "serializable", "repeatable_read"]
    Base = asyncpg.Connection[asyncpg.Record]
else:
    Base = asyncpg.Connection

WAIT_FOR_STANDBY = "SyncRepWaitForLSN"
"""The server's function that warns of a wait that was cut short. Servers translate the warning, and not this name."""


class NotReplicated(ConnectionError):
    """The primary committed, and the standby may lack the transaction: the wait for the standby was cut short."""


class AbandonedTransaction(Transaction):
    """A transaction that ends with its connection if its task is cancelled.

    Otherwise the cancellation comes late, because ROLLBACK waits until the server has answered the statement before it,
    or is lost, because a failed ROLLBACK replaces it and callers handle failures.
    """

    __slots__ = ()

    async def __aexit__(self, *ended: object) -> None:
        """Roll back, or commit. The server rolls back what has no connection; a COMMIT is no part of the block."""
        if isinstance(ended[1], asyncio.CancelledError):
            # The stubs lack it.
            self._connection.terminate()  # type: ignore[attr-defined]
        else:
            await super().__aexit__(*ended)


class Connection(Base):
    """A connection of this program. The overridden methods are asyncpg's own; tests hold them to its version."""

    __slots__ = ("_cut_short", "_unanswered")

    def __init__(self, *arguments: Any) -> None:
        """Take what asyncpg gives."""
        super().__init__(*arguments)
        self._unanswered = False
        self._cut_short = False

    def _cancel_current_command(self, waiter: asyncio.Future[None], *_: object) -> None:
        """Leave the statement to the server, and tell asyncpg that no request to cancel is on its way."""
        self._unanswered = True
        waiter.set_result(None)

    def transaction(
        self, *, isolation: Isolation | None = None, readonly: bool = False, deferrable: bool = False
    ) -> Transaction:
        """Open a transaction that a cancellation abandons."""
        return AbandonedTransaction(self, isolation, readonly, deferrable)

    def _process_log_message(self, fields: dict[str, str], last_query: str) -> None:
        if fields.get("R") == WAIT_FOR_STANDBY:
            self._cut_short = True
        # The stubs lack it.
        super()._process_log_message(fields, last_query)  # type: ignore[misc]

    def take_unanswered(self) -> bool:
        """Say whether a statement was given up since the last call before the server answered it."""
        unanswered, self._unanswered = self._unanswered, False
        return unanswered

    def take_cut_short(self) -> bool:
        """Say whether a COMMIT since the last call waited for the standby in vain."""
        cut_short, self._cut_short = self._cut_short, False
        return cut_short
