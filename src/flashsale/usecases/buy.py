"""Buy: from a request to a durable order, or to a definite no."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import (
    InvalidInput,
    KeyReused,
    LimitReached,
    ProductNotFound,
    RateLimited,
    SaleEnded,
    SaleNotStarted,
    SalePaused,
    SoldOut,
    Unauthenticated,
    Unavailable,
)
from flashsale.domain.products import QUANTITY_MAX
from flashsale.domain.requests import Accepted, AcceptOutcome, order_id_at
from flashsale.usecases.batching import Batcher
from flashsale.usecases.ports import Admission, CommitUnknown, PoisonBatch, Proposal, Verdict

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from uuid import UUID

    from flashsale.domain.errors import FlashSaleError
    from flashsale.domain.products import Product
    from flashsale.domain.requests import BuyRequest
    from flashsale.settings import AcceptSettings, GateSettings
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.ports import Acceptance, Admitted, Gate
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

RETRIES_MAX = 3
"""How often a proposal is made again because the units it needs are locked by others just now."""

LOOKUP_BATCH_MAX = 256

SOLD_OUT_S = 0.25
"""How long the gate's "not one unit" is repeated without asking it again, unless units are known to be free before."""


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
    ) -> None:
        """Wire it."""
        self._catalog = catalog
        self._gate = gate
        self._acceptance = acceptance
        self._load_gate = load_gate
        self._return_units = return_units
        self._settings = gate_settings
        self._waiting_max = waiting_max
        self._rate = LocalRate(limit=gate_settings.rate_limit, window_s=gate_settings.rate_window_s)
        self._sold_out_until_s: dict[int, float] = {}
        self.accepting: Batcher[Proposal, Verdict] = Batcher(
            self._accept,
            batch_max=accept.batch_max,
            queue_max=accept.queue_max,
            lanes=accept.lanes,
            rivals=_rivals,
        )
        self._looking_up: Batcher[BuyRequest, Verdict | None] = Batcher(
            self._acceptance.replays, batch_max=LOOKUP_BATCH_MAX, queue_max=accept.queue_max
        )

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
        product = await self._catalog.get(request.product_id)
        if (closed := self._catalog.closed(product.product_id)) is not None:
            return await self._refuse(request, closed)
        self._rate.check(request.user_id, product.product_id)
        if self._is_sold_out(product.product_id):
            return await self._refuse(request, SoldOut())
        if self._catalog.waiting(product.product_id) > self._waiting_max:
            return await self._refuse(request, Unavailable("Too many orders wait; try again.", retry_after_s=2))
        for _ in range(2):
            asked_s = time.monotonic()
            admitted = await self._gate.admit(
                product, order_id_at(time.time_ns() // 1_000_000, os.urandom(10)), request
            )
            if admitted.admission is not Admission.ADMITTED and admitted.admission is not Admission.BYPASS:
                return await self._reject(request, product, admitted, asked_s)
            verdict = await self._propose(Proposal(order_id=admitted.order_id, request=request, epoch=admitted.epoch))
            if verdict.outcome is not AcceptOutcome.STALE_EPOCH:
                return self._conclude(verdict, product)
            # The gate was loaded again between its answer and Postgres': admitted once more under the new epoch.
            self._load_gate.soon(product.product_id)
            await self._catalog.refresh()
            product = await self._catalog.get(request.product_id)
        raise Unavailable

    async def _propose(self, proposal: Proposal) -> Verdict:
        verdict = await self.accepting.submit(proposal)
        for _ in range(RETRIES_MAX):
            if verdict.outcome is not AcceptOutcome.RETRY:
                break
            verdict = await self.accepting.submit(proposal)
        if proposal.epoch is None:
            return verdict
        if verdict.outcome is AcceptOutcome.ACCEPTED:
            self._gate.settle(proposal.request.product_id, proposal.order_id)
        else:
            await self._tell_gate(proposal, verdict)
        return verdict

    async def _tell_gate(self, proposal: Proposal, verdict: Verdict) -> None:
        """Settle the lease of a refused proposal, or give it back; only a void proposal's lease may be given back."""
        product_id, order_id = proposal.request.product_id, proposal.order_id
        outcome = verdict.outcome
        if outcome is AcceptOutcome.SOLD_OUT:
            # Sold out although leased: the gate counted too many, so these units are not given back.
            self._gate.drop(product_id, order_id)
        elif outcome is AcceptOutcome.REPLAYED:
            if verdict.accepted is not None and verdict.accepted.order_id == order_id:
                self._gate.settle(product_id, order_id)
            else:
                self._gate.give_back(product_id, order_id)
        elif outcome is AcceptOutcome.RETRY or outcome is AcceptOutcome.KEY_REUSED:
            # Not known to be void: a reused key may have led to the lease of a request that stands.
            await self._give_up(proposal)
        else:
            self._gate.give_back(product_id, order_id)

    async def _give_up(self, proposal: Proposal) -> None:
        try:
            void = (await self._acceptance.void([proposal.order_id]))[proposal.order_id]
        except Unavailable:
            # The lease passes its deadline and the reconciliation asks again.
            return
        if void:
            self._gate.give_back(proposal.request.product_id, proposal.order_id)
        else:
            self._gate.settle(proposal.request.product_id, proposal.order_id)

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

    async def _reject(self, request: BuyRequest, product: Product, admitted: Admitted, asked_s: float) -> Accepted:
        if admitted.admission is Admission.RATE_LIMITED:
            settings, window_s = self._settings, admitted.window_s
            limit = settings.rate_limit if window_s == settings.rate_window_s else settings.attempts_per_minute
            raise RateLimited(limit=limit, window_s=window_s, retry_after_s=admitted.retry_after_s)
        if admitted.admission is Admission.LIMIT_REACHED:
            return await self._refuse(request, LimitReached(product.limit_per_buyer))
        if self._catalog.stock(product.product_id).free:
            # Free, but not at the gate: on its way there, or whoever released it died before it told the gate.
            self._return_units.soon()
        if request.quantity == 1 and not self._settings.attempts_per_minute:
            self._sold_out_until_s[product.product_id] = asked_s + SOLD_OUT_S
        return await self._refuse(request, SoldOut())

    async def _refuse(self, request: BuyRequest, refusal: FlashSaleError) -> Accepted:
        """Refuse, unless the key belongs to an accepted request: that one is answered again."""
        if request.key is not None:
            verdict = await self._looking_up.submit(request)
            if verdict is not None:
                if verdict.accepted is None:
                    raise KeyReused
                return verdict.accepted
        try:
            raise refusal
        finally:
            # Or the exception and this frame, which know each other, stay until they are collected, with the request.
            del refusal

    async def _accept(self, proposals: list[Proposal]) -> Sequence[Verdict]:
        # Sorted as the function asks: locks are taken in (user, key) order in every process.
        places = sorted(range(len(proposals)), key=lambda i: _lock_order(proposals[i]))
        verdicts = await self._accept_sorted([proposals[i] for i in places])
        answers: list[Verdict] = list(verdicts)
        for place, verdict in zip(places, verdicts, strict=True):
            answers[place] = verdict
        return answers

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
            return [Verdict(outcome=AcceptOutcome.RETRY, accepted=None) for _ in proposals]

    async def _void_poison(self, proposal: Proposal, *, unknown_user: bool) -> Verdict:
        await self._acceptance.void([proposal.order_id])
        outcome = AcceptOutcome.UNKNOWN_USER if unknown_user else AcceptOutcome.VOIDED
        return Verdict(outcome=outcome, accepted=None)

    async def _resolve_unknown(self, proposals: list[Proposal]) -> list[Verdict]:
        """Find out whether a lost COMMIT happened: void every id, which waits for it, and see which stand.

        Raises:
            Unavailable: if Postgres stays away; leases then pass their deadlines and are reconciled.
        """
        order_ids = [proposal.order_id for proposal in proposals]
        voids = await self._acceptance.void(order_ids)
        accepted = await self._acceptance.accepted([order_id for order_id in order_ids if not voids[order_id]])
        verdicts = []
        for proposal in proposals:
            kept = accepted.get(proposal.order_id)
            outcome = AcceptOutcome.VOIDED if kept is None else AcceptOutcome.ACCEPTED
            verdicts.append(Verdict(outcome=outcome, accepted=kept))
        return verdicts


class LocalRate:
    """The rate limit as far as one process sees it: the gate counts over all of them, but is not always asked."""

    def __init__(self, *, limit: int, window_s: int) -> None:
        """Start empty; a limit of 0 is none."""
        self._limit = limit
        self._window_s = window_s
        self._window = 0
        self._counts: dict[tuple[UUID, int], int] = {}

    def check(self, user_id: UUID, product_id: int) -> None:
        """Count a request; `RateLimited` if it is one too many."""
        if not self._limit:
            return
        # The gate's windows, so that nobody is refused here whom the gate would let pass.
        now = time.time()
        if (window := int(now // self._window_s)) != self._window:
            self._window = window
            self._counts.clear()
        key = user_id, product_id
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count > self._limit:
            left_s = int(self._window_s - now % self._window_s) + 1
            raise RateLimited(limit=self._limit, window_s=self._window_s, retry_after_s=left_s)


def _rivals(proposal: Proposal) -> Sequence[Hashable]:
    request = proposal.request
    # By number: ids themselves are hashed, and compared below, in Python.
    user = request.user_id.int
    of_product = (user, request.product_id)
    return (of_product,) if request.key is None else (of_product, (user, request.key))


def _lock_order(proposal: Proposal) -> tuple[int, str]:
    return proposal.request.user_id.int, proposal.request.key or ""
