"""What goes over the wire when a buyer pays, and what a payment provider is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from flashsale.http.fields import shown
from flashsale.http.schemas import OrderOut, Out, order_fields

if TYPE_CHECKING:
    from flashsale.domain.intents import KnownIntent
    from flashsale.domain.orders import Order


class PaymentOut(OrderOut, kw_only=True):
    """An order whose payment was asked for, and what the buyer's page needs to pay it."""

    client_secret: Annotated[
        str | None,
        shown(
            "What the payment provider's element in the page needs; null: the payment begins by itself, or on a page.",
            "pi_3Q_secret_4711",
        ),
    ]
    payment_url: Annotated[
        str | None,
        shown("The payment provider's page, on which the buyer pays; null: there is none.", "https://pay.example/c/1"),
    ]


class WebhookOut(Out):
    """A webhook that is durable here."""

    received: Annotated[Literal[True], shown("Always true.", True)] = True


def payment_out(order: Order, intent: KnownIntent | None) -> PaymentOut:
    """Render an order whose payment was asked for."""
    return PaymentOut(
        **order_fields(order),  # type: ignore[arg-type]
        client_secret=None if intent is None else intent.client_secret,
        payment_url=None if intent is None else intent.page_url,
    )
