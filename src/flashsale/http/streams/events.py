"""The events of streams, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated

from flashsale.domain.orders import OrderStatus
from flashsale.http.fields import (
    ORDER_ID,
    OrderId,
    ProductId,
    shown,
)
from flashsale.http.schemas import Out, ProductTerms


class StockEvent(Out):
    """The data of an event of a product's stream; the event's id is the version."""

    product_id: ProductId
    stock: Annotated[int, shown("How many units are free.", 412, ge=0)]
    version: Annotated[int, shown("Rises with every change of `stock`.", 88, ge=0)]


class ProductEvent(ProductTerms):
    """The data of an event `product` of a product's stream, which has no id."""


class OrderEvent(Out):
    """The data of an event of an order's stream; the event's id is the version."""

    order_id: OrderId
    status: Annotated[OrderStatus, shown("The order's state.", "confirmed")]
    version: Annotated[int, shown("Rises with every change of the order's state.", 5, ge=0)]


class ChangedEvent(Out):
    """The data of an event `changed` of an order's stream, which has no id: ask for the order again."""

    order_id: OrderId
    changes: Annotated[
        int,
        shown("Rises with every change of what an answer with the order shows, other than its state.", 1, ge=0),
    ]


class TokenExpiredEvent(Out):
    """The data of the event that ends a stream whose token has expired."""

    order_id: OrderId
    renew_at: Annotated[str, shown("Where to get another token.", f"/api/order/{ORDER_ID}/stream-token")]
