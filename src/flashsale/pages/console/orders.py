"""Orders: the search, and the whole story of one order with what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from uuid import UUID

from flashsale.domain.emails import EMAIL_MAX
from flashsale.domain.errors import InvalidInput, ProductNotFound
from flashsale.domain.orders import OrderFilter, OrderStatus
from flashsale.domain.payments import RefundState
from flashsale.domain.products import PRODUCT_ID_MAX
from flashsale.domain.refunds import REASON_CHARS_MAX
from flashsale.http.routes import found_orders, manual, refunds, story, support
from flashsale.pages.console.forms import id_of, instant_of, number_of, text_of
from flashsale.pages.console.frame import Action, Page, as_in_api, csv_file, see
from flashsale.pages.console.shown import stand
from flashsale.usecases.record_money import MANUAL
from flashsale.usecases.status import SOLD
from flashsale.usecases.story import story_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.money import Money
    from flashsale.domain.orders import FoundOrder
    from flashsale.domain.refunds import OrderRefund
    from flashsale.domain.requests import AdminRequest
    from flashsale.http.messages import Answer
    from flashsale.pages.console.frame import Frame, Visit

LIST = "/console/orders"
ONE = f"{LIST}/{{order_id:uuid}}"
CSV = f"{LIST}.csv"
PAGE = 50
EXPORTED_MAX = 20_000
"""Orders in a file of the console, which is put together in memory; the command line exports any number."""

SEARCHED = ("id", "email", "product", "status", "from", "to")
"""Fields of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Possible:
    """What the state of an order allows; whether the caller may do so is another question."""

    cancel: bool
    refund: bool
    pay: bool
    """Whether an operator may record the payment."""
    returned: Sequence[int]
    """Numbers of the refunds that an operator may record."""


class Orders:
    """The pages and actions."""

    def __init__(self, frame: Frame) -> None:
        """Use a frame."""
        self._frame = frame
        self._services = frame.services

    def pages(self) -> list[Page]:
        """Return the pages."""
        return [
            Page(path=LIST, right=as_in_api(found_orders.LIST_ORDERS), view=self.search),
            Page(path=CSV, right=as_in_api(found_orders.EXPORT), view=self.export),
            Page(path=ONE, right=as_in_api(story.STORY), view=self.one),
        ]

    def actions(self) -> list[Action]:
        """Return the actions."""
        paid, returned = as_in_api(manual.RECORD_PAYMENT), as_in_api(manual.RECORD_REFUND)
        return [
            Action(path=f"{ONE}/cancel", right=as_in_api(support.CANCEL), act=self.cancel, form=self.one),
            Action(path=f"{ONE}/refund", right=as_in_api(refunds.REFUND), act=self.refund, form=self.one),
            Action(path=f"{ONE}/paid", right=paid, act=self.paid, form=self.one),
            Action(path=f"{ONE}/refunds/{{number:int}}/paid", right=returned, act=self.returned, form=self.one),
        ]

    async def search(self, visit: Visit) -> Answer:
        """Find orders, the newest first; an id leads to its order."""
        asked = {name: visit.query.get(name, "").strip() for name in SEARCHED}
        found: Sequence[FoundOrder] = []
        files = None
        try:
            order_id = id_of(asked["id"], "id")
            if order_id is not None:
                return see(f"{LIST}/{order_id}")
            before = id_of(visit.query.get("before", ""), "before")
            wanted = _wanted(asked)
            found = await self._services.find_orders(wanted, before=before, limit=PAGE)
            if not found and wanted.product_id is not None and wanted.email is None:
                files = await self._files(wanted.product_id)
        except InvalidInput as error:
            visit = replace(visit, error=error)
        kept = {name: value for name, value in asked.items() if value}
        more = urlencode({**kept, "before": str(found[-1].order.order_id)}) if len(found) == PAGE else None
        return self._frame.render(
            visit,
            "orders.html",
            at=datetime.now(UTC),
            stand=stand(found, visit.error),
            found=found,
            files=files,
            asked=asked,
            more=more,
            export=urlencode(_exported(asked)),
            statuses=list(OrderStatus),
        )

    async def _files(self, product_id: int) -> str | None:
        """Return where the orders of a product are that left the database."""
        try:
            return (await self._services.read_products.one(product_id)).files
        except ProductNotFound:
            return None

    async def export(self, visit: Visit) -> Answer:
        """Return the orders of a search as a file, whole or not at all."""
        asked = {name: visit.query.get(name, "").strip() for name in SEARCHED}
        parts: list[bytes] = []
        count = 0
        async for page in self._services.find_orders.pages(_wanted(asked)):
            count += len(page)
            if count > EXPORTED_MAX:
                raise InvalidInput(
                    field="search",
                    problem=f"fits more than {EXPORTED_MAX} orders: narrow it, or run `flashsale orders export`",
                )
            parts.append(found_orders.rendered_orders(page, found_orders.ExportFormat.CSV, names=not parts))
        return csv_file("orders.csv", b"".join(parts))

    async def one(self, visit: Visit) -> Answer:
        """Show the story of an order."""
        order_id = UUID(visit.ids["order_id"])
        told = await story_of(self._services.stories, order_id)
        given_back = await self._services.refunds.of_order(order_id)
        by_hand = self._services.settings.payments.provider == MANUAL
        return self._frame.render(
            visit,
            "order.html",
            at=datetime.now(UTC),
            stand=stand(told, given_back),
            told=told,
            total=told.unit_price.times(told.quantity),
            refunds=given_back,
            left=_left(told.unit_price.times(told.quantity), given_back),
            possible=_possible(told.status, given_back, by_hand=by_hand),
        )

    async def cancel(self, visit: Visit, request: AdminRequest) -> str:
        """Cancel an order that waits for payment."""
        order_id = UUID(visit.ids["order_id"])
        await self._services.orders.cancel_for_buyer(order_id, request)
        return f"{LIST}/{order_id}?done=cancelled"

    async def refund(self, visit: Visit, request: AdminRequest) -> str:
        """Give money back: what is left, or a part."""
        order_id = UUID(visit.ids["order_id"])
        reason = text_of(visit.field("reason"), "reason", most=REASON_CHARS_MAX)
        if reason is None:
            raise InvalidInput(field="reason", problem="must say why the money is given back")
        await self._services.refunds(
            order_id,
            amount=visit.field("amount") or None,
            restock="restock" in visit.form,
            reason=reason,
            requested_by=visit.user.user_id,
            request=request,
        )
        by_hand = self._services.settings.payments.provider == MANUAL
        return f"{LIST}/{order_id}?done={'owed' if by_hand else 'refunding'}"

    async def paid(self, visit: Visit, request: AdminRequest) -> str:
        """Record the payment of an order, which came outside."""
        order_id = UUID(visit.ids["order_id"])
        await self._services.record_money.payment(
            order_id,
            reference=visit.field("reference"),
            amount=visit.field("amount"),
            currency=visit.field("currency"),
            recorded_by=visit.user.user_id,
            request=request,
        )
        return f"{LIST}/{order_id}?done=recorded"

    async def returned(self, visit: Visit, request: AdminRequest) -> str:
        """Record that the money of a refund was given back outside."""
        order_id = UUID(visit.ids["order_id"])
        await self._services.record_money.refund(
            order_id,
            visit.number("number"),
            reference=visit.field("reference"),
            recorded_by=visit.user.user_id,
            request=request,
        )
        return f"{LIST}/{order_id}?done=returned"


def _wanted(asked: Mapping[str, str]) -> OrderFilter:
    """Return what a search looks for.

    Raises:
        InvalidInput: with the first field that cannot be read.
    """
    status = asked["status"]
    if status and status not in set(OrderStatus):
        raise InvalidInput(field="status", problem=f"must be one of {', '.join(OrderStatus)}")
    return OrderFilter(
        email=text_of(asked["email"], "email", most=EMAIL_MAX),
        product_id=number_of(asked["product"], "product", most=PRODUCT_ID_MAX),
        status=OrderStatus(status) if status else None,
        created_from=instant_of(asked["from"], "from"),
        created_to=instant_of(asked["to"], "to"),
    )


def _exported(asked: Mapping[str, str]) -> dict[str, str]:
    """Return the same search without an id: the query of the export."""
    return {name: value for name, value in asked.items() if value and name != "id"}


def _left(total: Money, given_back: Sequence[OrderRefund]) -> str:
    """Return what can still be given back, as a form holds it."""
    gone = sum(one.amount.minor for one in given_back if one.state is not RefundState.FAILED)
    return str(type(total)(minor=max(0, total.minor - gone), currency=total.currency))


def _possible(status: OrderStatus, given_back: Sequence[OrderRefund], *, by_hand: bool) -> Possible:
    pending = [one.number for one in given_back if one.state is RefundState.PENDING]
    return Possible(
        cancel=status is OrderStatus.AWAITING_PAYMENT,
        refund=status in SOLD and not pending,
        pay=by_hand and status is OrderStatus.AWAITING_PAYMENT,
        returned=pending if by_hand else [],
    )
