"""Whether a listening connection hears: a notification to ourselves, sent in another session."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.errors import Unavailable
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/sessions.sql")

EVERY_S = 5.0
"""How often to send a notification."""

HEARD_S = 2.0
"""How long it may take. A commit may wait for a standby before it notifies."""


class Deaf(OSError):
    """LISTEN was accepted, and no notification arrives: a pooler gives the session to others after each transaction."""


class Hearing:
    """Sends notifications on a channel of its own through the pool, and hears them on the listening connection.

    A connection on which LISTEN succeeded may hear nothing, and the listening session itself would hear its own
    notification even through a pooler, in the answer to its statement.
    """

    def __init__(self, database: Database) -> None:
        """Send through this pool."""
        self._database = database
        self._channel = f"flashsale_echo_{secrets.token_hex(8)}"
        self._heard = asyncio.Event()

    async def listen(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Listen on the channel."""
        await connection.add_listener(self._channel, lambda *_: self._heard.set())

    async def watch(self, heard: Callable[[], None]) -> None:
        """Call `heard` each time that a notification arrives; ends only by an exception.

        Begin when everything is listened to: until the first notification, no statement may run on the listening
        connection. Through a pooler, its answer could bring the notification along.

        While none can be sent, nobody knows whether the connection hears.

        Raises:
            Deaf: if a notification was sent and did not arrive.
        """
        while True:
            self._heard.clear()
            try:
                await self._database.fetch(QUERIES["echo"], self._channel)
            except (Unavailable, PoisonBatch):
                await asyncio.sleep(EVERY_S)
                continue
            try:
                async with asyncio.timeout(HEARD_S):
                    await self._heard.wait()
            except TimeoutError:
                raise Deaf(
                    "no notification arrives: name the server itself in FLASHSALE_POSTGRES__DIRECT_URL"
                ) from None
            heard()
            await asyncio.sleep(EVERY_S)
