"""Send proposals to Postgres in batches, and tell the gate the outcome of their leases."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import Unavailable
from flashsale.domain.requests import AcceptOutcome, Proposal, Verdict
from flashsale.runtime.logs import lines_of_orders
from flashsale.usecases.batching import Batcher, Lanes
from flashsale.usecases.give_up import GiveUp
from flashsale.usecases.ports import CommitUnknown, PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from flashsale.settings.groups import AcceptSettings
    from flashsale.usecases.ports import Acceptance, Gate

log = structlog.get_logger(__name__)

RETRY_PAUSES_S = (0.0, 0.01, 0.05)
"""Pauses before a proposal is sent again because other transactions hold the units that it needs."""

BUSY_PAUSE_S, BUSY_PAUSE_MAX_S = 0.01, 0.1
"""First and maximum pause before a proposal for a product that is being changed is sent again."""

_BUSY = Verdict(outcome=AcceptOutcome.BUSY, accepted=None)

_UNDECIDED = frozenset({AcceptOutcome.RETRY, AcceptOutcome.BUSY, AcceptOutcome.KEY_REUSED})
"""Outcomes after which a proposal is not known to be void: a reused key may have the lease of an accepted request."""


class Propose:
    """The use case. A caller takes a place in its product's queue before it asks the gate; see `Lanes`."""

    def __init__(
        self, *, gate: Gate, acceptance: Acceptance, accept: AcceptSettings, lease_s: float, busy_s: float
    ) -> None:
        """Keep the parts. A proposal waits up to `busy_s` for a product that is being changed."""
        self._gate = gate
        self._acceptance = acceptance
        self._busy_s = busy_s
        self._transactions = asyncio.Semaphore(accept.transactions)
        self.giving_up = GiveUp(gate, acceptance, lease_s=lease_s)
        self.lanes: Lanes[Proposal, Verdict] = Lanes(
            self._accept,
            batch_max=accept.batch_max,
            queue_max=accept.queue_max,
            lanes=accept.lanes,
            rivals=_rivals,
        )

    async def close(self) -> None:
        """Wait for the running proposals, and give their undecided leases back."""
        await self.lanes.drain()
        await self.giving_up.close()

    async def __call__(self, queue: Batcher[Proposal, Verdict], proposal: Proposal) -> Verdict:
        """Return Postgres' verdict on a proposal; its lease is settled or given back.

        Raises:
            Unavailable: if Postgres did not decide in time.
        """
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
        """Settle a lease, or give it back; only the lease of a void proposal may be given back."""
        product_id, order_id = proposal.request.product_id, proposal.order_id
        outcome = verdict.outcome
        if outcome is AcceptOutcome.ACCEPTED:
            self._gate.settle(product_id, order_id)
        elif outcome is AcceptOutcome.SOLD_OUT:
            # A leased request found too few units, so the gate counted too many: give back only what Postgres has free.
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

    async def _accept(self, proposals: list[Proposal]) -> Sequence[Verdict]:
        # The SQL function requires this order: every process takes locks in the order of (user, key).
        places = sorted(range(len(proposals)), key=lambda i: _lock_order(proposals[i]))
        answers = [_BUSY] * len(proposals)
        pause_s, until_s = BUSY_PAUSE_S, time.monotonic() + self._busy_s
        while True:
            async with self._transactions:
                now_s = time.monotonic()
                # A lease of this age may be given back before its order is made.
                places = [place for place in places if proposals[place].send_by_s > now_s]
                if not places:
                    return answers
                verdicts = await self._accept_sorted([proposals[i] for i in places])
            accepted = []
            for place, verdict in zip(places, verdicts, strict=True):
                answers[place] = verdict
                if verdict.outcome is AcceptOutcome.ACCEPTED:
                    accepted.append((proposals[place].order_id, proposals[place].origin))
            for orders in lines_of_orders(accepted):
                log.info("orders.accepted", orders=orders)
            # Only later proposals of the same product wait during this time.
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
            # The other half may be committed: propose this half again, under the same ids.
            return [Verdict(outcome=AcceptOutcome.RETRY, accepted=None)] * len(proposals)

    async def _void_poison(self, proposal: Proposal, *, unknown_user: bool) -> Verdict:
        voids = await self._acceptance.void([proposal.order_id])
        if not voids.get(proposal.order_id):
            # Another process sends this proposal to Postgres, or has done so.
            return _BUSY
        outcome = AcceptOutcome.UNKNOWN_USER if unknown_user else AcceptOutcome.VOIDED
        return Verdict(outcome=outcome, accepted=None)

    async def _resolve_unknown(self, proposals: list[Proposal]) -> list[Verdict]:
        """Find out whether an unanswered COMMIT happened: void every id, which waits for it, and see which are orders.

        An id that is still in flight is proposed again, under the same id.

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


def _rivals(proposal: Proposal) -> Sequence[Hashable]:
    request = proposal.request
    # Integers, because hashing and comparing UUID objects runs in Python.
    user = request.user_id.int
    of_product = (user, request.product_id)
    return (of_product,) if request.key is None else (of_product, (user, request.key))


def _lock_order(proposal: Proposal) -> tuple[int, str]:
    return proposal.request.user_id.int, proposal.request.key or ""
