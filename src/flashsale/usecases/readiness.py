"""Readiness: whether a process can serve, what is wrong if it cannot, and what to do.

Anybody may ask, at any rate: an answer is cached for a second, and its cost does not depend on the products on sale.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from flashsale.domain.errors import FlashSaleError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flashsale.domain.products import Product
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.live_changes import LiveFeed

log = structlog.get_logger(__name__)

KEPT_S = 1.0
"""How old an answer may be."""

READ_S = 2.0
"""Maximum wait for Postgres and the gate. The caller gives up after 3 s and would get no answer."""

STALE_S = 10.0
"""Stock values that are older than this, in spite of notifications and polls, do not count as live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong."""

    what: str
    todo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Whether a process can serve, and what is wrong."""

    postgres: bool
    """Whether Postgres answers."""
    listening: bool
    gate: Literal["loaded", "bypass", "empty"]
    """empty: no product is known, so there is nothing to load."""
    problems: Sequence[Problem]
    """Why this process cannot sell; empty: ready."""
    notes: Sequence[Problem]
    """Parts that work correctly but more slowly than they should."""


class Truth(Protocol):
    """The questions to Postgres."""

    async def problem(self) -> tuple[bool, Problem | None]:
        """Say whether Postgres answers, and why it cannot take orders: another schema, no writes, no room."""
        ...


class GateLook(Protocol):
    """The questions to the gate."""

    async def unloaded(self, products: Sequence[Product]) -> Sequence[int]:
        """Return the products for which the gate is not loaded: all products if it is down."""
        ...


ENDING = Problem(what="This process was told to stop.", todo="Send requests to another one.")

PROVIDER_AWAY = Problem(
    what="The payment provider is away: orders are accepted, and wait for their payment.",
    todo="Look at the provider's status page; see PaymentsAway in the runbook.",
)


class Readiness:
    """The use case."""

    def __init__(
        self,
        truth: Truth,
        gate: GateLook,
        catalog: Catalog,
        feed: LiveFeed,
        provider_away: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Wire it; `provider_away` says whether a process found the payment provider away."""
        self._provider_away = provider_away
        self._truth = truth
        self._gate = gate
        self._catalog = catalog
        self._feed = feed
        self._ending = False
        self._known: Condition | None = None
        self._read_at = -math.inf
        self._reading: asyncio.Task[Condition] | None = None

    async def __call__(self) -> Condition:
        """Return the condition."""
        condition = await self._condition()
        return replace(condition, problems=[*condition.problems, ENDING]) if self._ending else condition

    async def _condition(self) -> Condition:
        """Return what is known of the servers; concurrent callers share one check."""
        if self._known is not None and time.monotonic() - self._read_at < KEPT_S:
            return self._known
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        # A cancelled caller does not cancel the check for the others.
        return await asyncio.shield(self._reading)

    def end(self) -> None:
        """Be ready no more, whatever the servers say: the process will soon accept no connections."""
        self._ending = True

    async def _read(self) -> Condition:
        began_s = time.monotonic()
        (postgres, problem), (gate, note), away = await asyncio.gather(
            self._look_at_truth(), self._look_at_gate(), self._look_at_provider()
        )
        problems = [] if problem is None else [problem]
        if postgres and (stale := self._staleness()) is not None:
            problems.append(stale)
        notes = [one for one in (note, away) if one is not None]
        if not self._feed.connected:
            notes.append(
                Problem(
                    what="No LISTEN connection: streams follow by a poll.",
                    todo="Look for a pooler in transaction mode, or for connections at their maximum.",
                )
            )
        self._known = Condition(
            postgres=postgres, listening=self._feed.connected, gate=gate, problems=problems, notes=notes
        )
        self._read_at = began_s
        return self._known

    async def _look_at_truth(self) -> tuple[bool, Problem | None]:
        try:
            async with asyncio.timeout(READ_S):
                return await self._truth.problem()
        except TimeoutError:
            todo = "Look at its load and at the network."
            return False, Problem(what=f"Postgres did not answer within {READ_S:g} s.", todo=todo)
        except Exception as error:
            log.exception("readiness.failed")
            return False, Problem(what=f"Postgres could not be asked: {type(error).__name__}.", todo="See the log.")

    async def _look_at_gate(self) -> tuple[Literal["loaded", "bypass", "empty"], Problem | None]:
        products = [] if math.isinf(self._catalog.age_s) else self._catalog.all()
        if not products:
            return "empty", None
        try:
            async with asyncio.timeout(READ_S):
                unloaded = await self._gate.unloaded(products)
        except TimeoutError:
            unloaded = [product.product_id for product in products]
        if not unloaded:
            return "loaded", None
        return "bypass", Problem(
            what=f"The gate is not loaded with {len(unloaded)} of {len(products)} products: Postgres alone decides.",
            todo="Bring Redis back, if it is away; it is loaded by itself.",
        )

    async def _look_at_provider(self) -> Problem | None:
        if self._provider_away is None:
            return None
        try:
            async with asyncio.timeout(READ_S):
                return PROVIDER_AWAY if await self._provider_away() else None
        except (TimeoutError, FlashSaleError):
            # The look at Postgres tells of it.
            return None

    def _staleness(self) -> Problem | None:
        age_s = self._catalog.age_s
        if math.isinf(age_s):
            return Problem(what="The products were not read yet.", todo="Wait a moment; see the log if this stays.")
        if age_s > STALE_S:
            return Problem(
                what=f"Products and stock were last read {age_s:.0f} s ago.", todo="See the log for catalog.stale."
            )
        return None
