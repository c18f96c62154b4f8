"""The files of an archived sale: what the manifest says, and what is wrong with an order's rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from flashsale.domain.orders import FINAL, RELEASING, TRANSITIONS, OrderStatus
from flashsale.domain.requests import BuyRequest

PROGRAM, KIND, FORMAT = "flashsale", "sale", 1

PAID = frozenset({OrderStatus.CONFIRMED, OrderStatus.REFUNDED})
"""Final states whose orders were paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file of an archive holds: compressed lines of JSON, or one JSON document."""

    name: str
    lines: int
    file_bytes: int
    file_digest: str
    """SHA-256 of the file."""
    content_digest: str
    """SHA-256 of what the file holds, without compression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of a sale's orders, in the order of their ids, and what others were told of them."""

    first: UUID
    last: UUID
    orders: FileFacts
    messages: FileFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The orders of a sale in one state and currency."""

    status: OrderStatus
    currency: str
    orders: int
    units: int
    value_minor: int
    refunded_minor: int
    """What of the value is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archive is: the fields of `manifest.json`."""

    program: str
    kind: str
    format: int
    version: str
    """The release that wrote it."""
    schema_revision: str
    """The newest migration of the database; the rows have the columns of that schema."""
    product_id: int
    product_name: str
    made_at: datetime
    product: FileFacts
    parts: tuple[Part, ...]
    totals: tuple[Total, ...]
    """As the database summed them."""

    @property
    def orders(self) -> int:
        """Return how many orders the archive has."""
        return sum(part.orders.lines for part in self.parts)


Document = dict[str, Any]
"""All rows of an order, as `documents` in sql/queries/archive.sql reads them."""


def is_final(document: Document) -> bool:
    """Whether the order and its refunds are final, and nothing is due."""
    order = document["order"]
    return (
        order["status"] in FINAL
        and order["due_at"] is None
        and all(refund["state"] in {"succeeded", "failed"} for refund in document["refunds"])
        and all(intent["due_at"] is None for intent in document["intents"])
    )


def is_told_by_events(document: Document) -> bool:
    """Whether the events have no gap, follow the transition table in time, and end with the order's state."""
    order, events = document["order"], document["events"]
    return (
        [event["version"] for event in events] == list(range(1, order["version"] + 1))
        and events[0]["status"] == OrderStatus.QUEUED
        and events[-1]["status"] == order["status"]
        and all((one["status"], other["status"]) in TRANSITIONS for one, other in pairwise(events))
        and all(_at(one["at"]) <= _at(other["at"]) for one, other in pairwise(events))
        and _at(order["created_at"]) <= _at(events[0]["at"])
        and _at(events[-1]["at"]) == _at(order["updated_at"])
    )


def is_asked_for(document: Document) -> bool:
    """Whether the order has its request: of its account, with the fingerprint of what was bought if it has a key."""
    order, request = document["order"], document["request"]
    wanted = BuyRequest(
        user_id=UUID(order["user_id"]), product_id=order["product_id"], quantity=order["quantity"], key=request["key"]
    )
    return (
        (request["order_id"], request["user_id"], request["kind"]) == (order["order_id"], order["user_id"], "order")
        and (request["key"] is None) == (request["fingerprint"] is None)
        and request["fingerprint"] in {None, "\\x" + wanted.fingerprint().hex()}
        and timedelta(0) <= _at(order["created_at"]) - _at(request["created_at"]) <= timedelta(minutes=1)
    )


def is_paid_right(document: Document) -> bool:
    """Whether a paid order has one captured attempt over its price, and any other order none."""
    order, attempts, fee = document["order"], document["attempts"], document["fee"]
    captured = [attempt for attempt in attempts if attempt["outcome"] == "captured"]
    return (
        len(captured) == (order["status"] in PAID)
        and (order["status"] != OrderStatus.PAYMENT_FAILED or attempts[-1]["outcome"] in {"declined", "cancelled"})
        and (fee is None or (bool(captured) and fee["fee_minor"] >= 0))
        and all(_is_of_order(attempt, order) for attempt in attempts)
        and all(attempt["reference"] for attempt in captured)
        and all(one["attempt"] < other["attempt"] for one, other in pairwise(attempts))
        and (attempts[-1]["attempt"] if attempts else 0) == order["attempt"]
        and all(
            record["number"] > 0 or record["reference"] == captured[0]["reference"] for record in document["records"]
        )
    )


def _is_of_order(attempt: Document, order: Document) -> bool:
    price = order["unit_price_minor"] * order["quantity"]
    return (
        (attempt["amount_minor"], attempt["currency"]) == (price, order["currency"])
        and attempt["gateway_key"].partition(":")[0] == order["order_id"]
        and _at(order["created_at"]) <= _at(attempt["begun_at"]) <= _at(attempt["finished_at"])
        and (attempt["attempt"] == order["attempt"]) >= (attempt["outcome"] == "captured")
    )


def is_refunded_right(document: Document) -> bool:
    """Whether what is back is the sum of the refunds that succeeded: the whole price if and only if it is refunded."""
    order, refunds = document["order"], document["refunds"]
    given = [refund for refund in refunds if refund["state"] == "succeeded"]
    price = order["unit_price_minor"] * order["quantity"]
    return (
        order["refunded_minor"] == sum(refund["amount_minor"] for refund in given)
        and (order["refunded_minor"] == price) == (order["status"] == OrderStatus.REFUNDED)
        and 0 <= order["refunded_minor"] <= price
        and all(refund["currency"] == order["currency"] for refund in refunds)
        and all(refund["amount_minor"] > 0 and refund["restock"] in {True, False} for refund in refunds)
        and all(
            _at(order["created_at"]) <= _at(refund["created_at"]) <= _at(refund["finished_at"]) for refund in refunds
        )
        and [refund["number"] for refund in refunds] == list(range(1, len(refunds) + 1))
        and order["restocked"] is any(refund["restock"] for refund in given)
        and (not refunds or order["status"] in PAID)
    )


def holds_units(document: Document) -> int:
    """Return how many units the order holds at its end."""
    order = document["order"]
    return 0 if order["status"] in RELEASING or order["restocked"] else order["quantity"]


def has_its_terms(document: Document, terms: list[Document]) -> bool:
    """Whether the order has the terms that were valid when it was made, and was made while the sale was open."""
    order = document["order"]
    at = _at(order["created_at"])
    valid = [one for one in terms if _at(one["valid_from"]) <= at]
    if not valid:
        return True  # it is from before terms were kept
    last = valid[-1]
    return (
        (order["product_name"], order["unit_price_minor"], order["currency"], order["payment_mode"])
        == (last["name"], last["price_minor"], last["currency"], last["payment_mode"])
        and not last["paused"]
        and (last["starts_at"] is None or _at(last["starts_at"]) <= at)
        and (last["ends_at"] is None or at < _at(last["ends_at"]))
    )


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


ORDER_RULES = {
    "A2": ("Each order, its refunds and its payments are final.", is_final),
    "A3": (
        "The events of each order have no gap, follow the transition table and end with its state.",
        is_told_by_events,
    ),
    "A4": ("Each order has its request, of the same account, product and quantity.", is_asked_for),
    "A5": ("A paid order has one captured attempt over its price, and any other order none.", is_paid_right),
    "A6": ("What is back of each order is the sum of its refunds.", is_refunded_right),
}
"""Rules about one order alone: the promise, and the function that says whether it is kept."""


@dataclass(slots=True)
class Judge:
    """Judges the orders of an archive, one after another."""

    product: Document
    """The document of the product."""
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Ids of violations by rule."""
    orders: int = 0
    _last: str = ""
    _units: set[int] = field(default_factory=set)
    _held: Counter[str] = field(default_factory=Counter)
    _keys: set[tuple[str, str]] = field(default_factory=set)
    _totals: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, document: Document) -> None:
        """Judge an order; a document that lacks something violates the first rule."""
        try:
            self._add(document, document["order"]["order_id"])
        except (LookupError, TypeError, ValueError, AttributeError):
            self.orders += 1
            self._blame("A1", f"line {self.orders}")

    def _add(self, document: Document, order_id: str) -> None:
        order = document["order"]
        # Before anything is counted, so that a document that cannot be read counts nothing.
        kept = {rule: is_kept(document) for rule, (_, is_kept) in ORDER_RULES.items()}
        kept["A8"] = has_its_terms(document, self.product["terms"])
        held, units = holds_units(document), document["units"]
        kept["A7"] = len(units) == held and self._units.isdisjoint(units) and len(set(units)) == held
        key = (order["user_id"], document["request"]["key"])
        price = order["unit_price_minor"] * order["quantity"]
        amounts = [1, order["quantity"] + 0, price, order["refunded_minor"] + 0]
        kept["A4"] &= key not in self._keys
        kept["A1"] = order_id > self._last and order["product_id"] == self.product["product"]["product_id"]
        self.orders += 1
        self._last = order_id
        self._units.update(units)
        self._held[order["user_id"]] += held
        if key[1] is not None:
            self._keys.add(key)
        total = self._totals.get((order["status"], order["currency"]), [0, 0, 0, 0])
        self._totals[order["status"], order["currency"]] = [sum(both) for both in zip(total, amounts, strict=True)]
        for rule, is_kept in kept.items():
            if not is_kept:
                self._blame(rule, order_id)

    def end(self, totals: tuple[Total, ...]) -> None:
        """Judge all orders together. `totals`: those of the manifest."""
        product, live = self.product["product"], self.product["live"]
        if len(self._units) != product["allotment"] - live["free"] or len(self._units) > product["allotment"]:
            self._blame("A7", f"{len(self._units)} units are sold")
        limits = [one["limit_per_buyer"] for one in self.product["terms"]]
        if None not in limits:
            for user_id, held in self._held.items():
                if held > max(limits):
                    self._blame("A9", user_id)
        told = {
            (one.status.value, one.currency): [one.orders, one.units, one.value_minor, one.refunded_minor]
            for one in totals
        }
        for status, currency in sorted(told.keys() | self._totals.keys(), key=str):
            if told.get((status, currency)) != self._totals.get((status, currency)):
                self._blame("A10", f"{status} {currency}")

    def _blame(self, rule: str, what: str) -> None:
        self.bad.setdefault(rule, []).append(what)


PROMISES = {
    "A1": "Each line is an order of the product with all of its rows, in the order of ids.",
    **{rule: promise for rule, (promise, _) in ORDER_RULES.items()},
    "A7": "Each unit is sold once, and those that are sold and those that are free add up to the allotment.",
    "A8": "Each order has the price, name and currency of its time, and was made while the sale was open.",
    "A9": "No account holds more units than the limit of the product.",
    "A10": "The sums by state and currency are those that the database had.",
}
"""What a judge promises, by rule."""
