"""Refunds, requested here or made at the provider: recorded before and after the call, merged in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import InvalidInput, OrderNotFound, StateForbids, Unavailable
from flashsale.domain.money import parse_money
from flashsale.domain.payment_errors import NotSupported, RefundNotFound
from flashsale.domain.payments import NoAnswer, NoAnswerKind, Refund, RefundState
from flashsale.domain.refunds import NUMBER_MAX, WantedRefund
from flashsale.runtime.shared_metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.orders import Order
    from flashsale.domain.payments import Intent
    from flashsale.domain.refunds import OrderRefund, RefundTry
    from flashsale.domain.requests import AdminRequest
    from flashsale.settings.groups import PaymentSettings
    from flashsale.usecases.payment_ports import PaymentGateway
    from flashsale.usecases.ports import Orders
    from flashsale.usecases.return_units import ReturnUnits

log = structlog.get_logger(__name__)

WAKE_MAX = 500

DISPUTED = "disputed"
"""The reason of a refund that a dispute blocks."""

REFUNDS = Counter(
    "flashsale_refunds",
    "What became of refunds: succeeded, failed (the money is still taken), bounced (failed after they had succeeded).",
    ["end"],
)
for _end in ("succeeded", "failed", "bounced"):
    REFUNDS.labels(_end)


def late_key(order_id: UUID, number: int = 1) -> str:
    """Return the key of the refund of intent `number`, whose money did not pay its order."""
    return f"{order_id}:refund:late" + (f":{number}" if number > 1 else "")


class Refunds(Protocol):
    """Refunds in Postgres."""

    async def request(
        self, wanted: WantedRefund, *, due_s: float, request: AdminRequest | None = None
    ) -> OrderRefund | None:
        """Write a refund and defer its job, once under the key of a `request`; None if there is no such order.

        Raises:
            InvalidInput, StateForbids, RefundUnderWay, OrderDisputed, RefundTooLarge, KeyReused: nothing was changed.
        """
        ...

    async def withdraw(self, order_id: UUID, number: int, *, request: AdminRequest | None = None) -> OrderRefund:
        """Take back a pending refund that nobody began to make; a repetition changes nothing.

        Raises:
            RefundNotFound, RefundEnded, RefundBegun, KeyReused: nothing was changed.
        """
        ...

    async def request_own(self, order_id: UUID, user_id: UUID, *, due_s: float) -> bool:
        """Write the refund that a buyer asks for and defer its job, once; False if the order is not the buyer's.

        Raises:
            RefundNotOffered, StateForbids, RefundUnderWay, OrderDisputed: nothing was changed.
        """
        ...

    async def of_order(self, order_id: UUID) -> Sequence[OrderRefund]:
        """Read the refunds of an order, the oldest first.

        Raises:
            OrderArchived: if it is in files only.
        """
        ...

    async def begin(self, order_id: UUID, *, due_s: float) -> RefundTry | None:
        """Begin a try of the order's pending refund; None if none is pending."""
        ...

    async def note(self, order_id: UUID, refund: Refund, *, retry_after_s: float | None = None) -> str:
        """Merge the provider's state of a refund; see `note_refund_v2` for the results."""
        ...

    async def miss(self, one: RefundTry, outcome: str, problem: str, *, retry_after_s: float) -> RefundState | None:
        """Write why a try made no refund: `refused`, `unknown` or `unsent`; returns the refund's state."""
        ...

    async def wake(self, *, limit: int, due_s: float) -> int:
        """Defer new jobs for due refunds without a job; returns the number of jobs."""
        ...

    async def paid_by(self, order_id: UUID) -> str | None:
        """Read the provider's id of the intent that paid an order; None if none did."""
        ...

    async def bounce_unused(self, order_id: UUID, reference: str) -> bool:
        """Write that the bank sent back money of an intent that did not pay its order; False if that was written."""
        ...

    async def note_dispute(self, order_id: UUID, *, disputed: bool) -> bool:
        """Write whether the order's charge is disputed; False if that was written before."""
        ...


class RequestRefund:
    """The use cases of administrators, and of buyers where the product allows it. The caller checks who asks."""

    def __init__(self, refunds: Refunds, orders: Orders, *, due_s: float) -> None:
        """A refund whose job is lost is due again after `due_s`."""
        self._refunds = refunds
        self._orders = orders
        self._due_s = due_s

    async def __call__(
        self,
        order_id: UUID,
        *,
        amount: str | None,
        restock: bool,
        reason: str,
        requested_by: UUID,
        request: AdminRequest | None = None,
    ) -> OrderRefund:
        """Request a refund of `amount`, or of the rest of the price; the payment workers make it.

        Raises:
            OrderNotFound: if there is no such order.
            InvalidInput: if the amount cannot be read, or units are to be released without all of the money.
            StateForbids: if the order is not paid or archived, or the money is back already.
            RefundUnderWay: if another refund of the order has not ended.
            OrderDisputed: if the buyer disputes the charge.
            RefundTooLarge: if the refunds would exceed the payment.
            KeyReused: if the key belongs to another request.
        """
        if "\x00" in reason or not reason.strip():
            raise InvalidInput(field="reason", problem="must have visible characters")
        amount_minor = None
        if amount is not None:
            order = (await self._orders.get_many([order_id])).get(order_id)
            if order is None:
                raise OrderNotFound
            amount_minor = parse_money(amount, order.unit_price.currency, field="amount").minor
        wanted = WantedRefund(
            order_id=order_id, amount_minor=amount_minor, restock=restock, reason=reason, requested_by=requested_by
        )
        refund = await self._refunds.request(wanted, due_s=self._due_s, request=request)
        if refund is None:
            await self._refuse_archived(order_id)
            raise OrderNotFound
        log.info("refund.requested", order_id=str(order_id), number=refund.number, minor=refund.amount.minor)
        return refund

    async def withdraw(self, order_id: UUID, number: int, *, request: AdminRequest | None = None) -> OrderRefund:
        """Withdraw a pending refund before the provider is asked for it, or its money is recorded. Nobody is told.

        Raises:
            RefundNotFound: if the order has no such refund.
            RefundEnded: if it is not pending.
            RefundBegun: if its money may be on its way.
            KeyReused: if the key belongs to another request.
        """
        if not 1 <= number <= NUMBER_MAX:
            raise RefundNotFound
        refund = await self._refunds.withdraw(order_id, number, request=request)
        log.info("refund.withdrawn", order_id=str(order_id), number=number)
        return refund

    async def by_buyer(self, order_id: UUID, user_id: UUID) -> Order:
        """Request a refund of all that is left of a buyer's own order; the units are sold again once the money is back.

        A repetition changes nothing. Returns the order.

        Raises:
            OrderNotFound: if it is not the buyer's.
            RefundNotOffered: if the product does not allow it.
            StateForbids: if the order is not paid, or the money is back already.
            RefundUnderWay: if another refund of the order has not ended.
            OrderDisputed: if the buyer disputes the charge.
        """
        if not await self._refunds.request_own(order_id, user_id, due_s=self._due_s):
            await self._refuse_archived(order_id, user_id)
            raise OrderNotFound
        log.info("refund.requested_by_buyer", order_id=str(order_id))
        return (await self._orders.get_many([order_id]))[order_id]

    async def _refuse_archived(self, order_id: UUID, user_id: UUID | None = None) -> None:
        """Say so if an order of which the tables have no row is in files only; to `user_id`, if it is theirs."""
        order = (await self._orders.get_many([order_id])).get(order_id)
        if order is not None and user_id in {None, order.user_id}:
            raise StateForbids(action="refunded", status="archived")

    async def of_order(self, order_id: UUID) -> Sequence[OrderRefund]:
        """Return the refunds of an order, the oldest first.

        Raises:
            OrderNotFound: if there is no such order.
            OrderArchived: if it is in files only.
        """
        found = await self._refunds.of_order(order_id)
        if not found and not await self._orders.get_many([order_id]):
            raise OrderNotFound
        return found


class MakeRefund:
    """The refund job: one try at the provider for an order's pending refund. Also records refunds made elsewhere."""

    def __init__(
        self,
        refunds: Refunds,
        gateway: PaymentGateway,
        settings: PaymentSettings,
        return_units: ReturnUnits,
        *,
        due_s: float,
    ) -> None:
        """A try whose worker dies is followed by another one after `due_s`."""
        self._refunds = refunds
        self._gateway = gateway
        self._settings = settings
        self._return_units = return_units
        self._due_s = due_s

    async def __call__(self, order_id: UUID) -> None:
        """Make the order's pending refund, if there is one.

        Raises:
            Unavailable: if Postgres is away; the refund gets a new job, under the same key.
        """
        one = await self._refunds.begin(order_id, due_s=self._due_s)
        if one is None:
            log.debug("refund.skipped", order_id=str(order_id))
            return
        pause_s = min(self._settings.retry_s * 2 ** min(one.attempt - 1, 16), self._settings.retry_max_s)
        answer = await self._ask(one)
        if isinstance(answer, Refund):
            await self._note(order_id, answer, retry_after_s=pause_s)
            return
        state = await self._refunds.miss(
            one, answer.kind, answer.reason, retry_after_s=max(pause_s, answer.retry_after_s or 0.0)
        )
        where = {"order_id": str(order_id), "number": one.number, "attempt": one.attempt}
        if answer.kind is NoAnswerKind.REFUSED:
            if state is RefundState.FAILED:
                REFUNDS.labels("failed").inc()
            log.error("refund.refused", reason=answer.reason, state=state, **where)
        else:
            log.warning("refund.not_answered", kind=answer.kind, reason=answer.reason, **where)

    async def note(self, order_id: UUID, seen: Sequence[Refund]) -> None:
        """Merge the provider's states of an order's refunds; repetition, delay and order do not change the result."""
        for refund in seen:
            await self._note(order_id, refund)

    async def note_intent(self, order_id: UUID, intent: Intent, *, of_refunds: bool = False) -> None:
        """Merge the provider's state of an intent: a dispute, and refunds that this system may not know.

        `of_refunds`: the provider told of refunds; one that failed leaves no trace in the intent's own amounts.

        Raises:
            Unavailable: if the refunds cannot be read now; the caller tries again.
        """
        paid_by = await self._refunds.paid_by(order_id)
        is_other = paid_by is not None and paid_by != intent.reference
        if not is_other and await self._refunds.note_dispute(order_id, disputed=intent.disputed):
            log.warning("order.dispute_noted", order_id=str(order_id), disputed=intent.disputed)
        if not intent.refunded_minor and not of_refunds:
            return
        try:
            seen = await self._gateway.refunds(reference=intent.reference, timeout_s=self._settings.timeout_s)
        except NotSupported:
            return
        if isinstance(seen, NoAnswer):
            raise Unavailable(f"The provider does not tell the refunds: {seen.reason}.")
        if paid_by == intent.reference:
            await self.note(order_id, seen)
        # Else it is money that did not pay the order: `SettleIntent` gave it back, or will.
        elif any(_is_late(order_id, one) and one.state is RefundState.FAILED for one in seen) and (
            await self._refunds.bounce_unused(order_id, intent.reference)
        ):
            REFUNDS.labels("bounced").inc()
            log.error("intent.refund_bounced", order_id=str(order_id), reference=intent.reference)

    async def wake(self) -> None:
        """Defer new jobs for pending refunds whose job is lost."""
        woken = await self._refunds.wake(limit=WAKE_MAX, due_s=self._due_s)
        if woken:
            log.info("refunds.woken", refunds=woken)

    async def _ask(self, one: RefundTry) -> Refund | NoAnswer:
        timeout_s = self._settings.timeout_s
        if not one.sent:
            # Look only before the first call. A refund that may have been made is repeated under its key instead.
            try:
                intent = await self._gateway.look_up(
                    order_id=one.order_id, reference=one.reference, timeout_s=timeout_s
                )
            except NotSupported:
                pass
            else:
                if isinstance(intent, NoAnswer):
                    return NoAnswer(kind=NoAnswerKind.UNSENT, reason=intent.reason, retry_after_s=intent.retry_after_s)
                if intent.disputed:
                    await self._refunds.note_dispute(one.order_id, disputed=True)
                    return NoAnswer(kind=NoAnswerKind.REFUSED, reason=DISPUTED)
        return await self._gateway.refund(key=one.key, reference=one.reference, amount=one.amount, timeout_s=timeout_s)

    async def _note(self, order_id: UUID, refund: Refund, *, retry_after_s: float | None = None) -> None:
        result = await self._refunds.note(order_id, refund, retry_after_s=retry_after_s)
        where = {"order_id": str(order_id), "key": refund.key, "reference": refund.reference, "state": refund.state}
        if result == "noted":
            log.info("refund.noted", **where)
            if refund.state is not RefundState.PENDING:
                REFUNDS.labels(refund.state).inc()
            self._return_units.soon()
        elif result == "bounced":
            REFUNDS.labels("bounced").inc()
            log.error("refund.bounced", reason=refund.reason, **where)
        elif result == "known":
            log.debug("refund.known", **where)
        elif result == "unpaid":
            # Money that came after the order's end; `SettleIntent` gives it back.
            log.info("refund.of_ended_order", **where)
        else:
            log.error("refund.not_explained", result=result, **where)


def _is_late(order_id: UUID, refund: Refund) -> bool:
    return refund.key is not None and refund.key.startswith(late_key(order_id))
