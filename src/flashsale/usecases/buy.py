"""Buy: turn a request into a durable order, or refuse it definitely."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING

from flashsale.domain.errors import (
    CoolingDown,
    InvalidInput,
    KeyReused,
    LimitReached,
    PriceChanged,
    ProductNotFound,
    RateLimited,
    Refused,
    SaleEnded,
    SaleNotStarted,
    SoldOut,
    Unauthenticated,
    Unavailable,
)
from flashsale.domain.gate import Admission
from flashsale.domain.money import parse_money
from flashsale.domain.products import QUANTITY_MAX
from flashsale.domain.requests import Accepted, AcceptOutcome, BuyRequest, Proposal, Verdict, order_id_at
from flashsale.runtime.logs import current_request_id
from flashsale.runtime.tracing import CURRENT
from flashsale.usecases.batching import QUEUES_MAX
from flashsale.usecases.catalog import stopped
from flashsale.usecases.confirm import Confirm
from flashsale.usecases.limit_ids import LimitIds
from flashsale.usecases.propose import Propose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from flashsale.domain.errors import FlashSaleError
    from flashsale.domain.products import Product
    from flashsale.settings.groups import AcceptSettings, GateSettings
    from flashsale.usecases.catalog import Catalog
    from flashsale.usecases.load_gate import LoadGate
    from flashsale.usecases.ports import Acceptance, Gate
    from flashsale.usecases.return_units import ReturnUnits

BUYS, ATTEMPTS = "buys", "buy-attempts"
"""Names of the rate limits in the RateLimit fields."""

TRIES_MAX = 100_000
"""Maximum number of keys with a running request in one process."""


def _price_changed(product: Product) -> PriceChanged:
    return PriceChanged(price=str(product.price), currency=product.price.currency)


CONCLUSIONS: Mapping[AcceptOutcome, Callable[[Product], FlashSaleError]] = {
    AcceptOutcome.SOLD_OUT: lambda _: SoldOut(),
    AcceptOutcome.KEY_REUSED: lambda _: KeyReused(),
    AcceptOutcome.LIMIT_REACHED: lambda product: LimitReached(product.limit_per_buyer),
    AcceptOutcome.PRICE_CHANGED: _price_changed,
    AcceptOutcome.NOT_STARTED: lambda product: SaleNotStarted(product.starts_at),
    AcceptOutcome.ENDED: lambda _: SaleEnded(),
    AcceptOutcome.PAUSED: stopped,
    AcceptOutcome.UNKNOWN_PRODUCT: lambda product: ProductNotFound(product.product_id),
    AcceptOutcome.UNKNOWN_USER: lambda _: Unauthenticated("This account does not exist.", unknown=True),
}
"""The error for each outcome without an order; any other outcome means that nothing is decided."""

_NOT_KNOWN = frozenset({AcceptOutcome.PRICE_CHANGED, AcceptOutcome.NOT_STARTED, AcceptOutcome.PAUSED})
"""Outcomes that tell terms which the process did not know: it would have refused the request by itself."""


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
        cell: int = 0,
    ) -> None:
        """Wire it. A proposal waits up to `busy_s` for a product that is being changed; order ids name the `cell`."""
        self._cell = cell
        self._catalog = catalog
        self._gate = gate
        self._load_gate = load_gate
        self._return_units = return_units
        self._settings = gate_settings
        self._tries: Counter[tuple[UUID, str]] = Counter()
        """Running requests by key."""
        self.confirm = Confirm(
            catalog=catalog,
            acceptance=acceptance,
            waiting_max=waiting_max,
            queue_max=accept.queue_max * QUEUES_MAX,
            # The gate counts attempts, so with that limit each buy must reach the gate.
            remembers=not gate_settings.attempts_per_minute,
        )
        self._limit_ids = LimitIds(acceptance, queue_max=accept.queue_max * QUEUES_MAX)
        self.propose = Propose(
            gate=gate, acceptance=acceptance, accept=accept, lease_s=gate_settings.lease_s, busy_s=busy_s
        )

    async def close(self) -> None:
        """Wait for the running requests, and give their undecided leases back."""
        await self.propose.close()

    async def __call__(self, request: BuyRequest) -> Accepted:
        """Claim units for the request and give what its 202 says; a repeated key gives the first one's.

        Raises:
            InvalidInput: if the quantity is not 1 to QUANTITY_MAX, or the expected price is none of the currency.
            ProductNotFound, SoldOut, LimitReached, NotOnSale, PriceChanged, KeyReused, RateLimited: as they say.
            Unauthenticated: if the user does not exist any more, or not yet in this cell.
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
                # Another request under the key runs and may be accepted, which would make this refusal false.
                raise Unavailable from None
            raise
        finally:
            self._tries[key] -= 1
            if not self._tries[key]:
                del self._tries[key]

    async def _buy(self, request: BuyRequest) -> Accepted:
        product = await self._catalog.get(request.product_id)
        product_id = product.product_id
        if request.expected_price is not None and (changed := await self._price_changed(request, product)) is not None:
            return await self.confirm.refuse(request, changed)
        if self._catalog.is_fresh and (closed := self._catalog.closed(product_id)) is not None:
            return await self.confirm.refuse(request, closed)
        if self.confirm.is_sold_out(product_id):
            if request.key is None:
                raise SoldOut
            if (kept := await self.confirm.kept_or_sold_out(request)) is not None:
                return kept
        if await self.confirm.too_many_wait(product_id):
            return await self.confirm.refuse(request, Unavailable("Too many orders wait; try again.", retry_after_s=2))
        # Reserved before the gate is asked, so that every lease has a place in the queue to Postgres.
        with self.propose.lanes.place(product_id) as queue:
            # The id of every proposal of this request says when it began (see accept_orders_v5).
            began_ms = time.time_ns() // 1_000_000
            for _ in range(2):
                proposal = await self._admit(request, product, order_id_at(began_ms, os.urandom(10), self._cell))
                if isinstance(proposal, Accepted):
                    return proposal
                verdict = await self.propose(queue, proposal)
                if verdict.outcome is not AcceptOutcome.STALE_EPOCH:
                    return _conclude(verdict, await self._as_judged(product, verdict))
                # The gate was reloaded after it admitted the request, so the lease's epoch is old: ask it once more.
                self._load_gate.soon(product_id)
                await self._catalog.refresh(product.product_id)
                product = await self._catalog.get(product_id)
        raise Unavailable

    async def _price_changed(self, request: BuyRequest, product: Product) -> PriceChanged | None:
        """Return the refusal if the product has another price than the buyer expects, after another look at Postgres.

        Raises:
            InvalidInput: if what the buyer expects is no price in the product's currency.
        """
        expected_minor = _expected_minor(request, product)
        if expected_minor != product.price.minor:
            # The buyer may know of a change before this process does.
            await self._catalog.refresh(product.product_id)
            product = await self._catalog.get(product.product_id)
        return None if expected_minor == product.price.minor else _price_changed(product)

    async def _as_judged(self, product: Product, verdict: Verdict) -> Product:
        """Return the product as Postgres saw it, if the process would not have asked Postgres by what it knew."""
        if verdict.outcome not in _NOT_KNOWN:
            return product
        await self._catalog.refresh(product.product_id)
        return await self._catalog.get(product.product_id)

    async def _admit(self, request: BuyRequest, product: Product, order_id: UUID) -> Proposal | Accepted:
        """Ask the gate; return the proposal for Postgres, or the order that exists under the request's key.

        The buyer gets a refusal of the gate only if Postgres confirms it.
        """
        asked_s = time.monotonic()
        admitted = await self._gate.admit(product, order_id, await self._limit_ids.as_the_gate_knows(product, request))
        # Half of the lease is left for the transaction.
        send_by_s = asked_s + self._settings.lease_s / 2
        if admitted.admission is Admission.RATE_LIMITED:
            settings, window_s = self._settings, admitted.window_s
            policy, most = BUYS, settings.rate_limit
            if window_s != settings.rate_window_s:
                policy, most = ATTEMPTS, settings.attempts_per_minute
            raise RateLimited(policy=policy, limit=most, window_s=window_s, retry_after_s=admitted.retry_after_s)
        if admitted.admission is Admission.SOLD_OUT:
            if (kept := await self.confirm.kept_or_sold_out(request, asked_s)) is not None:
                return kept
            # Postgres has free units that the gate does not count: their return is pending, or its process died.
            self._return_units.soon()
            if admitted.leases:
                return await self.confirm.until_decided(request)
        if (
            admitted.admission is Admission.LIMIT_REACHED
            and (refusal := await self.confirm.over_limit(request)) is not None
        ):
            return await self.confirm.refuse(request, refusal)
        # Postgres did not confirm the gate's refusal, so Postgres decides without a lease.
        return Proposal(
            admitted.order_id,
            request,
            admitted.epoch,
            send_by_s,
            current_request_id(),
            _expected_minor(request, product),
            CURRENT.get(None),
        )


def _expected_minor(request: BuyRequest, product: Product) -> int | None:
    if request.expected_price is None:
        return None
    return parse_money(request.expected_price, product.price.currency, field="expectedPrice").minor


def _conclude(verdict: Verdict, product: Product) -> Accepted:
    if verdict.accepted is not None:
        return verdict.accepted
    if verdict.cools_until is not None:
        raise CoolingDown(verdict.cools_until)
    error = CONCLUSIONS.get(verdict.outcome)
    raise Unavailable if error is None else error(product)
