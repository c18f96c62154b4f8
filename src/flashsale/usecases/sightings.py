"""Orders and stocks that clients saw, compared with the data; `history.py` describes the lines."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from flashsale.domain.money import Money
from flashsale.domain.orders import FINAL
from flashsale.usecases.findings import Checked, found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.products import LiveStock
    from flashsale.usecases.history import History, OrderRow

ACCEPTED = 202
REFUSED = 409

CLOCKS_APART_S = 60.0
"""How much a client's clock and the database's may differ where they are compared."""

ANSWER_S = 120.0
"""Longest time that a client waits for an answer."""

Buy = dict[str, Any]


def accepted(history: History, orders: Mapping[str, OrderRow], overdue_s: float) -> Checked:
    """Compare each 202 with its order."""
    first_sent: dict[tuple[Any, ...], float] = {}
    for number, buy in enumerate(history.buys):
        request = _request(number, buy)
        first_sent[request] = min(buy["sent_at"], first_sent.get(request, buy["sent_at"]))
    checked: set[str] = set()
    bad: dict[str, None] = {}
    for number, buy in enumerate(history.buys):
        if buy["status"] != ACCEPTED:
            continue
        order = orders.get(buy["order_id"])
        checked.add(buy["order_id"])
        if order is None or not (
            _is_order_of(buy, order)
            and (buy.get("answer") is None or buy["answer"] == _answer(order))
            and (order.status in FINAL or order.overdue_s <= overdue_s)
            and first_sent[_request(number, buy)] - CLOCKS_APART_S <= order.created_at_s
            and order.created_at_s <= buy["answered_at"] + CLOCKS_APART_S
        ):
            bad[str(buy["order_id"])] = None
    return found(
        "I4",
        "Every 202 that a client saw is an order of that client, key, product, quantity and price, and final or on its"
        " way.",
        len(checked),
        bad,
    )


def _is_order_of(buy: Buy, order: OrderRow) -> bool:
    asked = (buy["user"], buy["key"], buy["product"], buy["quantity"])
    return asked == (order.user_id, order.key, order.product_id, order.quantity)


def _answer(order: OrderRow) -> dict[str, object]:
    """Return the product fields of a 202, in the form of the history."""
    return {
        "product": order.product_id,
        "name": order.product_name,
        "price": str(Money(minor=order.unit_price_minor, currency=order.currency)),
        "currency": order.currency,
        "quantity": order.quantity,
    }


def _request(number: int, buy: Buy) -> tuple[Any, ...]:
    """Return the identity that all tries of one request share; without a key, each line is a separate request."""
    return (buy["user"], buy["key"]) if buy["key"] is not None else (number,)


def whole(history: History) -> Checked:
    """Check that each line about a buy agrees with itself."""
    bad = []
    for buy in history.buys:
        status = buy["status"]
        said = buy["order_id"] is not None, buy["body"] is not None, buy["code"] is None
        if not (
            0.0 <= buy["answered_at"] - buy["sent_at"] <= ANSWER_S
            and (said == (True, True, True) if status == ACCEPTED else said[:2] == (False, False))
            and (status == ACCEPTED or buy.get("answer") is None)
            and (status != REFUSED or buy["code"] is not None)
            and (status >= REFUSED - 9 or buy["code"] is None)
        ):
            bad.append(f"{buy['user']} at {buy['sent_at']:.3f}")
    return found("I4", "Every answer to a buy is an order or a refusal, in time.", len(history.buys), bad)


def asked_for(history: History, orders: Mapping[str, OrderRow]) -> Checked | None:
    """Check that a client asked for each order of the products with a complete history; None without such a product."""
    if not history.complete:
        return None
    asked = {(buy["user"], buy["key"], buy["product"], buy["quantity"]) for buy in history.buys}
    answered = {buy["order_id"] for buy in history.buys if buy["status"] == ACCEPTED}
    mine = [order for order in orders.values() if order.product_id in history.complete]
    bad = [
        order.order_id
        for order in mine
        if order.order_id not in answered and (order.user_id, order.key, order.product_id, order.quantity) not in asked
    ]
    return found("I4", "A client asked for every order of a product with a complete history.", len(mine), bad)


def replays(history: History) -> Checked:
    """Check that a repeated key got one answer, and that an order is the answer to one request."""
    answers: defaultdict[tuple[Any, ...], set[tuple[Any, ...]]] = defaultdict(set)
    requests: defaultdict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for number, buy in enumerate(history.buys):
        if buy["status"] == ACCEPTED:
            request = _request(number, buy)
            answers[request].add((buy["order_id"], buy["body"], buy["product"], buy["quantity"]))
            requests[buy["order_id"]].add(request)
    bad = [" ".join(str(part) for part in request) for request, seen in answers.items() if len(seen) > 1]
    bad += [order_id for order_id, several in requests.items() if len(several) > 1]
    return found("I9", "A repeated key got the same 202, and no other request its order.", len(answers), bad)


def versions(history: History) -> Checked:
    """Check that no reader saw a version after a newer one."""
    newest: dict[tuple[str, str], int] = {}
    bad = []
    for entry in itertools.chain(history.orders, history.stocks):
        key = (str(entry["reader"]), str(entry.get("order_id") or entry.get("product")))
        if entry["version"] < newest.get(key, 0):
            bad.append(f"{key[0]} of {key[1]}")
        newest[key] = max(newest.get(key, 0), entry["version"])
    seen = len(history.orders) + len(history.stocks)
    return found("I6", "The versions that one reader sees never go back.", seen, bad)


def states(history: History, events: Mapping[tuple[str, int], str]) -> Checked:
    """Check that each status that readers saw is the order's in that version; earlier time lines are not checked."""
    first: dict[str, int] = {}
    for order_id, version in events:
        first[order_id] = min(version, first.get(order_id, version))
    bad = [
        str(entry["order_id"])
        for entry in history.orders
        if events.get((entry["order_id"], entry["version"])) != entry["status"]
        and not 0 < entry["version"] < first.get(entry["order_id"], 0)
    ]
    return found(
        "I5", "Every state that a reader saw is in the order's events under that version.", len(history.orders), bad
    )


def stocks_agree(history: History, stocks: Mapping[int, LiveStock], most: Mapping[int, int]) -> Checked:
    """Check that all readers saw the same stock in one version; `most`: the highest allotments."""
    seen: dict[tuple[int, int], int] = {}
    bad = []
    for entry in history.stocks:
        product_id, version, stock = entry["product"], entry["version"], entry["stock"]
        live = stocks.get(product_id)
        if (
            live is None
            or not 0 < version <= (live.version or 0)
            or not 0 <= stock <= most.get(product_id, 0)
            or seen.setdefault((product_id, version), stock) != stock
        ):
            bad.append(f"{entry['reader']} of {product_id}")
    return found("I6", "All readers see the same number for a version of a stock.", len(history.stocks), bad)


def last_stocks(history: History, stocks: Mapping[int, LiveStock]) -> Checked:
    """Check that the streams that stayed to the end ended with the database's value."""
    last = [entry for entry in history.stocks if entry.get("last")]
    bad = [
        str(entry["reader"])
        for entry in last
        if entry["product"] not in stocks
        or (entry["version"], entry["stock"]) != (stocks[entry["product"]].version, stocks[entry["product"]].free)
    ]
    return found("I14", "Every stream that stayed open ended with the database's value.", len(last), bad)


def unsold(history: History, free_since: Mapping[int, Sequence[tuple[float, float]]], *, lease_s: float) -> Checked:
    """Check that no buyer was refused a unit that was free then and is free now.

    `free_since`: per product, instants in ascending order, each with the number of units that were free from then to
    the end. A lease and its reconciliation take `lease_s`, so a request that is sent `lease_s` after a unit became free
    could have the unit.
    """
    bad = []
    checked = 0
    for buy in history.buys:
        if buy.get("code") == "sold_out":
            checked += 1
            left = 0.0
            for at_s, units in free_since.get(buy["product"], ()):
                if at_s > buy["sent_at"] - lease_s:
                    break
                left = units
            if left >= buy["quantity"]:
                bad.append(f"{buy['user']} at {buy['sent_at']:.3f}")
    return found(
        "I18", "While demand lasts, every unit is sold: no buyer was refused a unit that is still free.", checked, bad
    )
