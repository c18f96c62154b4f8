"""Buy: from a request to a durable order, or to a definite no."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from flashsale.domain.errors import (
    InvalidInput,
    KeyReused,
    LimitReached,
    ProductNotFound,
    RateLimited,
    Refused,
    SaleEnded,
    SaleNotStarted,
    SalePaused,
    SoldOut,
    Unauthenticated,
    Unavailable,
)
from flashsale.domain.gate import Admission
from flashsale.domain.products import QUANTITY_MAX
from flashsale.domain.requests import Accepted, AcceptOutcome, BuyRequest, Proposal, Verdict, order_id_at
from flashsale.usecases.batching import QUEUES_MAX, Batcher, Lanes
from flashsale.usecases.give_up import GiveUp
from flashsale.usecases.ports import CommitUnknown, PoisonBatch, Seen
from flashsale.usecases.rates import Rate

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from flashsale.domain.errors import FlashSaleError
    from flashsale.domain.products import Product
    from flashsale.settings import AcceptSettings, GateSettings
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.ports import Acceptance, Gate
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

RETRY_PAUSES_S = (0.0, 0.01, 0.05)
"""Before a proposal is made again because the units it needs are locked by others just now."""

DECIDED_PAUSES_S = (0.02, 0.05, 0.1, 0.2)
"""Before it is looked again whether others got the last units, before a 503."""

BUSY_PAUSE_S, BUSY_PAUSE_MAX_S = 0.01, 0.1
"""Pause before a product that is being changed is asked for again, the first and the longest."""

LOOKUP_BATCH_MAX = 256

SOLD_OUT_S = 0.25
"""How long "not one unit" is repeated without asking again, unless units are known to be free before."""

RECOUNT_S = 0.2
"""Shortest time between two counts of the orders that wait, when there seem to be too many."""

BUYS, ATTEMPTS = "buys", "buy-attempts"
"""Names of the rate limits in the RateLimit fields."""

UNKNOWN = 0
"""Stands for all unknown products where a buyer's requests are counted."""

TRIES_MAX = 100_000
"""Keys whose running requests a process remembers."""


class Buy:
    """The use case. One instance per process: its batches gather what the process has in flight."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        gate: Gate,
        acceptance: Acceptance,
        load_gate: LoadGate,
        return_units: ReturnUnits,
        accept: AcceptSettings,
        gate_settings: GateSettings,
        waiting_max: int,
        busy_s: float,
    ) -> None:
        """Wire it; a product that somebody changes is waited for up to `busy_s`."""
        self._catalog = catalog
        self._gate = gate
        self._acceptance = acceptance
        self._load_gate = load_gate
        self._return_units = return_units
        self._settings = gate_settings
        self._waiting_max = waiting_max
        self._busy_s = busy_s
        self.rate = Rate(BUYS, limit=gate_settings.rate_limit, window_s=gate_settings.rate_window_s)
        """The rate limit as far as this process sees it: the gate counts over all of them, but is not always asked."""
        self._sold_out_until_s: dict[int, float] = {}
        self._tries: Counter[tuple[UUID, str]] = Counter()
        """Running requests by key."""
        self._transactions = asyncio.Semaphore(accept.transactions)
        self.giving_up = GiveUp(gate, acceptance, lease_s=gate_settings.lease_s)
        self.accepting: Lanes[Proposal, Verdict] = Lanes(
            self._accept,
            batch_max=accept.batch_max,
            queue_max=accept.queue_max,
            lanes=accept.lanes,
            rivals=_rivals,
        )
        batch_max, queue_max = LOOKUP_BATCH_MAX, accept.queue_max * QUEUES_MAX
        self._looking = Batcher[BuyRequest, Seen](acceptance.look, batch_max=batch_max, queue_max=queue_max)
        self._counting = Batcher[int, int](acceptance.free, batch_max=batch_max, queue_max=queue_max)
        self._holding = Batcher[tuple[int, UUID], int](acceptance.held, batch_max=batch_max, queue_max=queue_max)
        self._recounting = Batcher[int, None](self._recount, batch_max=batch_max, queue_max=queue_max)
        self._recounted_s = float("-inf")

    def rate_key(self, user_id: UUID, product_id: int) -> tuple[int, int]:
        """Give the key under which a buyer's requests for a product are counted."""
        # By number: an id itself is hashed in Python.
        return user_id.int, product_id if product_id in self._catalog else UNKNOWN

    async def close(self) -> None:
        """Finish what is on its way, and give back what it leased."""
        await self.accepting.drain()
        await self.giving_up.close()

    async def __call__(self, request: BuyRequest) -> Accepted:
        """Claim units for the request and give what its 202 says; a repeated key gives the first one's.

        Raises:
            InvalidInput: if the quantity is not 1 to QUANTITY_MAX.
            ProductNotFound, SoldOut, LimitReached, NotOnSale, KeyReused, RateLimited: as they say.
            Unauthenticated: if the user does not exist any more.
            Unavailable: if nobody could decide in time; the same request again finds out what was decided.
        """
        if not 1 <= request.quantity <= QUANTITY_MAX:
            raise InvalidInput(field="quantity", problem=f"must be 1 to {QUANTITY_MAX}")
        if request.key is None:
            return await self._buy(request)
        key = request.user_id, request.key
        if len(self._tries) >= TRIES_MAX:
            raise Unavailable
        self._tries[key] += 1
        try:
            return await self._buy(request)
        except Refused:
            if self._tries[key] > 1:
                # Another request under the key is under way and may be accepted: then this refusal were not true.
                raise Unavailable from None
            raise
        finally:
            self._tries[key] -= 1
            if not self._tries[key]:
                del self._tries[key]

    async def _buy(self, request: BuyRequest) -> Accepted:
        # Before anything is looked up: a refusal, and a repeated answer, cost no more than a buy.
        self.rate.check(self.rate_key(request.user_id, request.product_id))
        product = await self._catalog.get(request.product_id)
        product_id = product.product_id
        if (closed := self._catalog.closed(product_id)) is not None:
            return await self._refuse(request, closed)
        if self._is_sold_out(product_id):
            if request.key is None:
                raise SoldOut
            if (kept := await self._kept_or_sold_out(request)) is not None:
                return kept
        if self._catalog.waiting(product_id) > self._waiting_max and await self._too_many_wait(product_id):
            return await self._refuse(request, Unavailable("Too many orders wait; try again.", retry_after_s=2))
        # Before the gate is asked: what it leases can be taken to Postgres.
        with self.accepting.place(product_id) as queue:
            # The id of every proposal of this request says when it began (see accept_orders_v2).
            began_ms = time.time_ns() // 1_000_000
            for _ in range(2):
                proposal = await self._admit(request, product, order_id_at(began_ms, os.urandom(10)))
                if isinstance(proposal, Accepted):
                    return proposal
                verdict = await self._propose(queue, proposal)
                if verdict.outcome is not AcceptOutcome.STALE_EPOCH:
                    return self._conclude(verdict, product)
                # The gate was loaded again between its answer and Postgres': admitted once more under the new epoch.
                self._load_gate.soon(product_id)
                await self._catalog.refresh(product.product_id)
                product = await self._catalog.get(product_id)
        raise Unavailable

    async def _admit(self, request: BuyRequest, product: Product, order_id: UUID) -> Proposal | Accepted:
        """Ask the gate, and give what is proposed to Postgres, or what stands under the request's key.

        A no of the gate is passed on only if Postgres confirms it.
        """
        asked_s = time.monotonic()
        admitted = await self._gate.admit(product, order_id, request)
        # Half of the lease is left for the transaction.
        send_by_s = asked_s + self._settings.lease_s / 2
        if admitted.admission is Admission.RATE_LIMITED:
            settings, window_s = self._settings, admitted.window_s
            policy, most = BUYS, settings.rate_limit
            if window_s != settings.rate_window_s:
                policy, most = ATTEMPTS, settings.attempts_per_minute
            raise RateLimited(policy=policy, limit=most, window_s=window_s, retry_after_s=admitted.retry_after_s)
        if admitted.admission is Admission.SOLD_OUT:
            if (kept := await self._kept_or_sold_out(request, asked_s)) is not None:
                return kept
            # Free, but not at the gate: on its way there, or whoever released it died before it told the gate.
            self._return_units.soon()
            if admitted.leases:
                return await self._until_decided(request)
        elif admitted.admission is Admission.LIMIT_REACHED:
            held = await self._holding.submit((product.product_id, request.user_id))
            limit = product.limit_per_buyer
            if limit is not None and held + request.quantity > limit:
                return await self._refuse(request, LimitReached(limit))
        # What the gate refused and Postgres may not, Postgres itself decides, without a lease.
        return Proposal(order_id=admitted.order_id, request=request, epoch=admitted.epoch, send_by_s=send_by_s)

    async def _until_decided(self, request: BuyRequest) -> Accepted:
        """Wait a moment for the requests that hold leases on the last units: most are decided at once."""
        for pause_s in DECIDED_PAUSES_S:
            await asyncio.sleep(pause_s)
            if (kept := await self._kept_or_sold_out(request)) is not None:
                return kept
        raise Unavailable("The last units are being decided on; send the same request again.")

    async def _propose(self, queue: Batcher[Proposal, Verdict], proposal: Proposal) -> Verdict:
        product_id, order_id = proposal.request.product_id, proposal.order_id
        try:
            verdict = await queue.submit(proposal)
            for pause_s in RETRY_PAUSES_S:
                if verdict.outcome is not AcceptOutcome.RETRY:
                    break
                await asyncio.sleep(pause_s)
                verdict = await queue.submit(proposal)
        except BaseException:
            if proposal.epoch is not None:
                self.giving_up.soon(product_id, order_id)
            raise
        if proposal.epoch is not None:
            self._tell_gate(proposal, verdict)
        return verdict

    def _tell_gate(self, proposal: Proposal, verdict: Verdict) -> None:
        """Settle a lease, or give it back; only a void proposal's lease may be given back."""
        product_id, order_id = proposal.request.product_id, proposal.order_id
        outcome = verdict.outcome
        if outcome is AcceptOutcome.ACCEPTED:
            self._gate.settle(product_id, order_id)
        elif outcome is AcceptOutcome.SOLD_OUT:
            # Sold out although leased: the gate counted too many, so only what Postgres sees is given back.
            self._gate.drop(product_id, order_id, visible=verdict.visible)
        elif outcome is AcceptOutcome.LIMIT_REACHED:
            self._gate.give_back(product_id, order_id, held=verdict.held)
        elif outcome is AcceptOutcome.REPLAYED and verdict.accepted is not None:
            if verdict.accepted.order_id == order_id:
                self._gate.settle(product_id, order_id)
            else:
                self._gate.give_back(product_id, order_id)
        elif outcome in _UNDECIDED:
            self.giving_up.soon(product_id, order_id)
        else:
            self._gate.give_back(product_id, order_id)

    def _conclude(self, verdict: Verdict, product: Product) -> Accepted:
        outcome = verdict.outcome
        if verdict.accepted is not None:
            return verdict.accepted
        if outcome is AcceptOutcome.SOLD_OUT:
            raise SoldOut
        if outcome is AcceptOutcome.KEY_REUSED:
            raise KeyReused
        if outcome is AcceptOutcome.LIMIT_REACHED:
            raise LimitReached(product.limit_per_buyer)
        if outcome is AcceptOutcome.NOT_STARTED:
            raise SaleNotStarted
        if outcome is AcceptOutcome.ENDED:
            raise SaleEnded
        if outcome is AcceptOutcome.PAUSED:
            raise SalePaused
        if outcome is AcceptOutcome.UNKNOWN_PRODUCT:
            raise ProductNotFound(product.product_id)
        if outcome is AcceptOutcome.UNKNOWN_USER:
            raise Unauthenticated("This account does not exist.")
        raise Unavailable

    def _is_sold_out(self, product_id: int) -> bool:
        said_lately = time.monotonic() < self._sold_out_until_s.get(product_id, 0.0)
        return said_lately and not self._catalog.stock(product_id).free

    async def _kept_or_sold_out(self, request: BuyRequest, asked_s: float | None = None) -> Accepted | None:
        """Give what stands under the request's key; None if enough units are free in Postgres.

        Raises:
            SoldOut: if fewer units than the request asks for are free at an instant after the request came.
        """
        product_id = request.product_id
        if request.key is None:
            free = await self._counting.submit(product_id)
        else:
            seen = await self._looking.submit(request)
            if seen.verdict is not None:
                return _replayed(seen.verdict)
            free = seen.free
        if free < request.quantity:
            if not free and asked_s is not None and not self._settings.attempts_per_minute:
                self._sold_out_until_s[product_id] = asked_s + SOLD_OUT_S
            raise SoldOut
        return None

    async def _too_many_wait(self, product_id: int) -> bool:
        """Count the orders that wait: what was sold since they were counted is known in units only."""
        await self._recounting.submit(product_id)
        return self._catalog.waiting(product_id) > self._waiting_max

    async def _recount(self, products: list[int]) -> Sequence[None]:
        await asyncio.sleep(self._recounted_s + RECOUNT_S - time.monotonic())
        self._recounted_s = time.monotonic()
        await self._catalog.count_waiting()
        return [None] * len(products)

    async def _refuse(self, request: BuyRequest, refusal: FlashSaleError) -> Accepted:
        """Refuse, unless the key belongs to an accepted request: that one is answered again."""
        if request.key is not None:
            seen = await self._looking.submit(request)
            if seen.verdict is not None:
                return _replayed(seen.verdict)
        try:
            raise refusal
        finally:
            # Or the exception and this frame, which know each other, stay until they are collected, with the request.
            del refusal

    async def _accept(self, proposals: list[Proposal]) -> Sequence[Verdict]:
        # Sorted as the function asks: locks are taken in (user, key) order in every process.
        places = sorted(range(len(proposals)), key=lambda i: _lock_order(proposals[i]))
        answers = [_BUSY] * len(proposals)
        pause_s, until_s = BUSY_PAUSE_S, time.monotonic() + self._busy_s
        while True:
            async with self._transactions:
                now_s = time.monotonic()
                # A lease that is as old as this may have been given up when its order is made.
                places = [place for place in places if proposals[place].send_by_s > now_s]
                if not places:
                    return answers
                verdicts = await self._accept_sorted([proposals[i] for i in places])
            for place, verdict in zip(places, verdicts, strict=True):
                answers[place] = verdict
            # Only the proposals behind these wait meanwhile, and they are of the same product.
            places = [place for place in places if answers[place].outcome is AcceptOutcome.BUSY]
            if not places or now_s > until_s:
                return answers
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, BUSY_PAUSE_MAX_S)

    async def _accept_sorted(self, proposals: list[Proposal]) -> list[Verdict]:
        try:
            return list(await self._acceptance.accept(proposals))
        except CommitUnknown:
            return await self._resolve_unknown(proposals)
        except PoisonBatch as poison:
            if len(proposals) > 1:
                middle = len(proposals) // 2
                return [*await self._accept_half(proposals[:middle]), *await self._accept_half(proposals[middle:])]
            log.error("buy.poison", order_id=str(proposals[0].order_id), problem=str(poison))  # noqa: TRY400
            return [await self._void_poison(proposals[0], unknown_user=poison.unknown_user)]

    async def _accept_half(self, proposals: list[Proposal]) -> list[Verdict]:
        try:
            return await self._accept_sorted(proposals)
        except Unavailable:
            # The other half may stand: this one is proposed again, under the same ids.
            return [Verdict(outcome=AcceptOutcome.RETRY, accepted=None)] * len(proposals)

    async def _void_poison(self, proposal: Proposal, *, unknown_user: bool) -> Verdict:
        voids = await self._acceptance.void([proposal.order_id])
        if not voids.get(proposal.order_id):
            # Another process takes it to Postgres, or has.
            return _BUSY
        outcome = AcceptOutcome.UNKNOWN_USER if unknown_user else AcceptOutcome.VOIDED
        return Verdict(outcome=outcome, accepted=None)

    async def _resolve_unknown(self, proposals: list[Proposal]) -> list[Verdict]:
        """Find out whether a lost COMMIT happened: void every id, which waits for it, and see which stand.

        What is in flight even then is proposed again, under the same id.

        Raises:
            Unavailable: if Postgres stays away; leases then pass their deadlines and are reconciled.
        """
        order_ids = [proposal.order_id for proposal in proposals]
        voids = await self._acceptance.void(order_ids)
        accepted = await self._acceptance.accepted([order_id for order_id, is_void in voids.items() if not is_void])
        verdicts = []
        for proposal in proposals:
            if proposal.order_id not in voids:
                verdicts.append(_BUSY)
                continue
            kept = accepted.get(proposal.order_id)
            outcome = AcceptOutcome.VOIDED if kept is None else AcceptOutcome.ACCEPTED
            verdicts.append(Verdict(outcome=outcome, accepted=kept))
        return verdicts


_BUSY = Verdict(outcome=AcceptOutcome.BUSY, accepted=None)

_UNDECIDED = frozenset({AcceptOutcome.RETRY, AcceptOutcome.BUSY, AcceptOutcome.KEY_REUSED})
"""Not known to be void: a reused key may have led to the lease of a request that stands."""


def _replayed(verdict: Verdict) -> Accepted:
    if verdict.accepted is None:
        raise KeyReused
    return verdict.accepted


def _rivals(proposal: Proposal) -> Sequence[Hashable]:
    request = proposal.request
    # By number: ids themselves are hashed, and compared below, in Python.
    user = request.user_id.int
    of_product = (user, request.product_id)
    return (of_product,) if request.key is None else (of_product, (user, request.key))


def _lock_order(proposal: Proposal) -> tuple[int, str]:
    return proposal.request.user_id.int, proposal.request.key or ""
