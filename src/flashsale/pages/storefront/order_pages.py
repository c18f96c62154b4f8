"""A buyer's orders: the list, one order, and the forms that pay, cancel and refund it."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING
from uuid import UUID

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.orders import FINAL, OVER, OrderStatus
from flashsale.domain.payment_errors import NotSupported
from flashsale.http.problems import problem_of
from flashsale.pages.assets import POLICY, policy
from flashsale.pages.session import query_of
from flashsale.pages.storefront.shop import ORDERS, told
from flashsale.pages.storefront.texts import texts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from flashsale.domain.intents import KnownIntent
    from flashsale.domain.orders import Order
    from flashsale.domain.users import Principal
    from flashsale.http.messages import Answer, Request
    from flashsale.http.routing import Direct
    from flashsale.pages.storefront.shop import OwnPage, Shop

    Change = Callable[[UUID, Principal], Awaitable[object]]

ORDER = "/order/{order_id:uuid}"
PAY, CANCEL, REFUND = (f"{ORDER}/{action}" for action in ("pay", "cancel", "refund"))
SHOWN_MAX = 20
"""Orders in a page of the list."""

STRIPE_JS = "https://js.stripe.com/v3/"
WITH_STRIPE = policy(
    script_src="https://js.stripe.com https://*.js.stripe.com",
    frame_src="https://js.stripe.com https://*.js.stripe.com https://hooks.stripe.com",
    connect_src="https://api.stripe.com",
    img_src="https://*.stripe.com",
)
"""The policy of the page with Stripe's element, which Stripe must serve itself."""

STATES = {
    OrderStatus.QUEUED: "accepted",
    OrderStatus.PROCESSING: "accepted",
    OrderStatus.AWAITING_PAYMENT: "accepted",
    OrderStatus.PROCESSING_PAYMENT: "paying",
    OrderStatus.PAYMENT_UNKNOWN: "paying",
    OrderStatus.PAYMENT_FAILED: "declined",
}
"""What a page calls a state of an order; the other states have their own names."""


class OrderPages:
    """The pages of orders."""

    def __init__(self, shop: Shop) -> None:
        """Keep the shop."""
        self._shop = shop
        self._services = shop.services

    def routes(self) -> list[Direct]:
        """Make the routes."""
        own = self._shop.own
        return self._shop.routes(
            [
                ("GET", ORDERS, own(self.orders)),
                ("GET", ORDER, own(self.order)),
                ("POST", PAY, own(self.pay)),
                ("POST", CANCEL, own(self._changed_by(self._services.orders.cancel))),
                ("POST", REFUND, own(self._changed_by(self._refund))),
                *(("GET", form, self._of_form) for form in (PAY, CANCEL, REFUND)),
            ]
        )

    async def orders(self, request: Request, principal: Principal) -> Answer:
        """List the buyer's orders, newest first, from before an order."""
        before = _uuid(query_of(request).get("before", ""))
        found = await self._services.orders.of_buyer(principal, before=before, limit=SHOWN_MAX + 1)
        shown = [(one, told_as(one)) for one in found[:SHOWN_MAX]]
        more = len(found) > SHOWN_MAX
        kept = "" if before is None else f"before={before}"
        return self._shop.page(request, "orders.html", orders=shown, more=more, kept=kept)

    async def order(self, request: Request, principal: Principal) -> Answer:
        """Show an order."""
        return await self._shown(request, principal)

    async def _of_form(self, request: Request) -> Answer:
        """Lead a browser that asks for the path of a form to the page of the order, which has the form."""
        return self._shop.redirect(request, _path(request))

    async def pay(self, request: Request, principal: Principal) -> Answer:
        """Ask for the payment, and show how to pay at the provider."""
        try:
            order, intent = await self._services.orders.pay(order_id(request), principal)
        except FlashSaleError as error:
            return await self._refused(request, principal, error)
        if intent is None:
            return self._shop.redirect(request, _path(request))
        if intent.page_url is None and not (intent.client_secret and self._shop.settings.stripe.publishable_key):
            cannot = NotSupported(provider=self._shop.settings.payments.provider, call="payments in a page")
            return await self._refused(request, principal, cannot)
        return self._payment(request, order, intent)

    def _changed_by(self, change: Change) -> OwnPage:
        async def serve(request: Request, principal: Principal) -> Answer:
            try:
                await change(order_id(request), principal)
            except FlashSaleError as error:
                return await self._refused(request, principal, error)
            return self._shop.redirect(request, _path(request))

        return serve

    async def _refund(self, wanted: UUID, principal: Principal) -> None:
        await self._services.refunds.by_buyer(wanted, principal.user_id)

    async def _shown(
        self, request: Request, principal: Principal, *, problem: str = "", status: HTTPStatus = HTTPStatus.OK
    ) -> Answer:
        """Show an order as it is now; `problem`: why a form changed nothing."""
        order = await self._services.orders.get(order_id(request), principal)
        now = self._services.catalog.now
        token, _ = self._shop.parts.tokens.issue_stream(principal, order.order_id)
        provider = self._shop.settings.payments.provider
        return self._shop.page(
            request,
            "order.html",
            status=status,
            order=order,
            told_as=told_as(order),
            state=state_of(order),
            final=order.status in FINAL,
            over=order.status in OVER,
            own=order.user_id == principal.user_id,
            by_hand=provider == "manual",
            leaves=provider == "stripe",
            hint=self._shop.settings.pages.payment_hint,
            refundable=await self._refundable(order),
            stream=f"/sse/orders/{order.order_id}?token={token}&details=true",
            now=now,
            left="" if order.pay_by is None else _left(order.pay_by, now),
            problem=problem,
            path=_path(request),
        )

    async def _refused(self, request: Request, principal: Principal, error: FlashSaleError) -> Answer:
        """Show why a form changed nothing, with the order as it is now."""
        status = HTTPStatus(problem_of(error).status)
        if status is not HTTPStatus.CONFLICT:
            raise error
        return await self._shown(request, principal, problem=told(texts_of(request), error), status=status)

    def _payment(self, request: Request, order: Order, intent: KnownIntent) -> Answer:
        """Show how to pay at the provider: on its page, or in its element."""
        now = self._services.catalog.now
        return self._shop.page(
            request,
            "pay.html",
            policy=WITH_STRIPE if intent.page_url is None else POLICY,
            order=order,
            now=now,
            left="" if order.pay_by is None else _left(order.pay_by, now),
            page_url=intent.page_url,
            client_secret=intent.client_secret,
            publishable_key=self._shop.settings.stripe.publishable_key,
            stripe_js=STRIPE_JS,
            path=_path(request),
        )

    async def _refundable(self, order: Order) -> bool:
        if order.status is not OrderStatus.CONFIRMED:
            return False
        try:
            return (await self._services.catalog.get(order.product_id)).refundable_by_buyer
        except FlashSaleError:
            return False


def _left(until: datetime, now: datetime) -> str:
    """Write the time until an instant, as the script does."""
    seconds = max(0, math.ceil((until - now).total_seconds()))
    hours, minutes = divmod(seconds // 60, 60)
    return f"{f'{hours}:' if hours else ''}{minutes:02}:{seconds % 60:02}"


def state_of(order: Order) -> str:
    """Return what a page calls the state of an order."""
    if order.pay_by is not None:
        return "pay"
    return STATES.get(order.status, order.status.value)


def told_as(order: Order) -> str:
    """Return the end of the keys of texts that tell of an order."""
    if order.pay_by is not None:
        return "pay"
    return order.status.value


def order_id(request: Request) -> UUID:
    """Return the id in the path of an order's page."""
    return UUID(request.path.split("/")[2])


def _path(request: Request) -> str:
    return f"/order/{order_id(request)}"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
