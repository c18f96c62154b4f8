"""A buyer's use cases for an order after its 202: look at it, pay it, cancel it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.contextvars import bind_contextvars

from flashsale.domain.errors import Forbidden, OrderNotFound, StateForbids
from flashsale.domain.orders import Order, OrderStatus
from flashsale.usecases.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from flashsale.domain.intents import KnownIntent
    from flashsale.domain.requests import AdminRequest
    from flashsale.domain.users import Principal
    from flashsale.usecases.open_intent import OpenIntent
    from flashsale.usecases.ports import Orders
    from flashsale.usecases.return_units import ReturnUnits

LOOKUP_BATCH_MAX = 256
LOOKUP_QUEUE_MAX = 10_000

PAYING = frozenset({OrderStatus.AWAITING_PAYMENT, OrderStatus.PROCESSING_PAYMENT, OrderStatus.PAYMENT_UNKNOWN})
"""States in which a repeated payment request gets the answer of the first."""


class BuyerOrders:
    """The use cases of buyers, and of their support; concurrent reads of one process share a round trip."""

    def __init__(
        self,
        orders: Orders,
        return_units: ReturnUnits,
        require_staff: Callable[[Principal], Awaitable[None]],
        *,
        payment_due_s: float,
        open_intent: OpenIntent | None = None,
        by_hand: bool = False,
    ) -> None:
        """A payment whose job is lost is due again after `payment_due_s`.

        `open_intent`: how a buyer pays at the provider; None: the provider takes the buyer's payment from a job alone,
        or `by_hand`: an operator records the payment.
        """
        self._orders = orders
        self._open_intent = open_intent
        self._by_hand = by_hand
        self._require_staff = require_staff
        self._return_units = return_units
        self._payment_due_s = payment_due_s
        self._reading: Batcher[UUID, Order | None] = Batcher(
            self._read, batch_max=LOOKUP_BATCH_MAX, queue_max=LOOKUP_QUEUE_MAX
        )

    async def get(self, order_id: UUID, principal: Principal) -> Order:
        """Return an order to its owner or staff.

        Raises:
            OrderNotFound: for everybody else, whether the order exists or not.
            Unauthenticated: if the order is another buyer's, and the token of staff has ended.
        """
        order = await self._reading.submit(order_id)
        if order is None:
            raise OrderNotFound
        if order.user_id != principal.user_id:
            try:
                await self._require_staff(principal)
            except Forbidden:
                raise OrderNotFound from None
        return order

    async def of_buyer(self, principal: Principal, *, before: UUID | None, limit: int) -> Sequence[Order]:
        """Return the caller's own orders, newest first, from before an order id."""
        return await self._orders.of_buyer(principal.user_id, before=before, limit=limit)

    async def pay(self, order_id: UUID, principal: Principal) -> tuple[Order, KnownIntent | None]:
        """Ask for the payment of an order that waits for its buyer; asking again changes nothing.

        Returns the order, and under which intent the buyer pays; None if a job charges or an operator records.

        Raises:
            OrderNotFound: if it is not the caller's.
            StateForbids: if it does not wait for payment, or its payment window is over.
            Unavailable: if the provider does not answer now; the buyer asks again.
        """
        order = await self._own(order_id, principal)
        if self._by_hand:
            if order.pay_by is None and not (order.payment_requested and order.status in PAYING):
                raise StateForbids(action="paid", status=order.status)
            return order, None
        if self._open_intent is not None:
            intent = await self._open_intent(order_id)
            order = await self._own(order_id, principal)
            if intent is None or order.status not in PAYING:
                raise StateForbids(action="paid", status=order.status)
            return order, intent
        return await self._request_payment(order_id, principal), None

    async def _request_payment(self, order_id: UUID, principal: Principal) -> Order:
        if not await self._orders.request_payment(order_id, due_s=self._payment_due_s):
            order = await self._own(order_id, principal)
            if order.status not in PAYING or not order.payment_requested:
                raise StateForbids(action="paid", status=order.status)
            return order
        return await self._own(order_id, principal)

    async def cancel(self, order_id: UUID, principal: Principal) -> Order:
        """Cancel an order that waits for payment; its units are released.

        Raises:
            OrderNotFound: if it is not the caller's.
            StateForbids: if its payment was asked for, or it does not wait for payment.
        """
        await self._own(order_id, principal)
        ended = await self._orders.end([order_id], OrderStatus.CANCELLED)
        if ended:
            self._return_units.soon()
        order = await self._own(order_id, principal)
        if not ended and order.status is not OrderStatus.CANCELLED:
            raise StateForbids(action="cancelled", status=order.status)
        return order

    async def cancel_for_buyer(self, order_id: UUID, request: AdminRequest) -> Order:
        """Cancel an order that waits for payment, as support does; a cancelled one stays as it is.

        Raises:
            OrderNotFound: if there is none.
            StateForbids: as for `cancel`.
            KeyReused: if the request's key belongs to another request.
        """
        bind_contextvars(order_id=str(order_id))
        ended = await self._orders.cancel(order_id, request)
        if ended:
            self._return_units.soon()
        order = await self._reading.submit(order_id)
        if order is None:
            raise OrderNotFound
        if not ended and order.status is not OrderStatus.CANCELLED:
            raise StateForbids(action="cancelled", status=order.status)
        return order

    async def _own(self, order_id: UUID, principal: Principal) -> Order:
        bind_contextvars(order_id=str(order_id))
        order = await self._reading.submit(order_id)
        if order is None or order.user_id != principal.user_id:
            raise OrderNotFound
        return order

    async def _read(self, order_ids: list[UUID]) -> Sequence[Order | None]:
        found = await self._orders.get_many(order_ids)
        return [found.get(order_id) for order_id in order_ids]
