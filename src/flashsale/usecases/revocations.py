"""Revoked tokens: which accounts' tokens ended before they expired, in the memory of each API process.

A token carries the generation that its account had when it was issued. A new password, another role, a sign-out or a
deletion raises the account's generation in Postgres; tokens of a lower one end. Every process hears of it by a
notification, within `live.poll_s` if that was lost, so that a buyer's request asks no database whether its token holds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import FlashSaleError, Unavailable
from flashsale.domain.users import Revocation
from flashsale.usecases.live_changes import Connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flashsale.domain.users import Principal
    from flashsale.usecases.live_changes import Change, LiveFeed

log = structlog.get_logger(__name__)

OVERLAP_S = 60.0
"""How far a poll looks back behind the last one: longer than a transaction that revokes stays open."""

ISSUING_S = 600.0
"""More than the longest time between reading an account and issuing a token for it."""


class RevocationLog(Protocol):
    """Where revocations are kept."""

    async def revocations(self, *, since_s: float) -> Sequence[tuple[Revocation, float]]:
        """Read those of the last `since_s` seconds, with their age in seconds, oldest first."""
        ...


class Revocations:
    """The accounts whose generation rose within the life of a token."""

    def __init__(self, kept: RevocationLog, *, token_s: float, poll_s: float) -> None:
        """Know nothing yet; `token_s` is the longest life of a token."""
        self._log = kept
        self._kept_s = token_s + ISSUING_S
        self._poll_s = poll_s
        self._lowest: dict[int, tuple[int, float]] = {}
        """By user id, as a number: the lowest generation that holds, and until when to remember it; soonest first."""
        self._read_at: float | None = None
        self.risen = asyncio.Event()
        """Set whenever a generation has risen."""

    def holds(self, principal: Principal) -> bool:
        """Say whether tokens of this account and generation hold.

        Raises:
            Unavailable: if the revocations were never read.
        """
        if self._read_at is None:
            raise Unavailable("The revoked tokens have not been read yet; send the same request again.")
        lowest = self._lowest.get(principal.user_id.int)
        return lowest is None or principal.generation >= lowest[0]

    def take(self, revocation: Revocation, *, age_s: float = 0.0) -> None:
        """Note that an account's generation rose, if that is new."""
        user = revocation.user_id.int
        known = self._lowest.get(user)
        if known is not None:
            if known[0] >= revocation.generation:
                return
            del self._lowest[user]
        self._lowest[user] = (revocation.generation, time.monotonic() + self._kept_s - age_s)
        self.risen.set()

    async def refresh(self, *, everything: bool = False) -> None:
        """Read new revocations, or all of them; reading all also removes entries that Postgres no longer has.

        Raises:
            Unavailable: if Postgres is away.
        """
        began = time.monotonic()
        everything = everything or self._read_at is None
        since_s = self._kept_s if everything else began - (self._read_at or 0.0) + OVERLAP_S
        rows = await self._log.revocations(since_s=since_s)
        if everything:
            # After a failover Postgres may lack revocations; entries of this process alone would refuse valid tokens.
            since = began + self._kept_s
            self._lowest = {user: known for user, known in self._lowest.items() if known[1] >= since}
        for revocation, age_s in rows:
            self.take(revocation, age_s=age_s)
        self._read_at = began
        while self._lowest and next(iter(self._lowest.values()))[1] < began:
            del self._lowest[next(iter(self._lowest))]

    async def poll(self) -> None:
        """Read new revocations for ever, in case a notification was lost."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.refresh()
            except FlashSaleError as error:
                log.info("revocations.stale", reason=error.detail)
            except Exception:
                log.exception("revocations.failed")


class RevocationFeed:
    """A live feed that keeps the revocations up to date on its way to the consumer."""

    def __init__(self, feed: LiveFeed, revocations: Revocations) -> None:
        """Wrap a feed."""
        self._feed = feed
        self._revocations = revocations

    @property
    def connected(self) -> bool:
        """Whether the listening connection stands."""
        return self._feed.connected

    async def changes(self) -> AsyncIterator[Change]:
        """Return the feed's changes, each after it was applied to the revocations."""
        async for change in self._feed.changes():
            if isinstance(change, Revocation):
                self._revocations.take(change)
            elif isinstance(change, Connected):
                try:
                    await self._revocations.refresh(everything=True)
                except FlashSaleError as error:
                    log.info("revocations.stale", reason=error.detail)
            yield change
