"""The audit of an archive finds each wrong value of an order's rows, or the list of what it cannot know says why not."""

from __future__ import annotations

import copy
import json
from uuid import UUID

import pytest

from flashsale.adapters.archive_files import FolderOfArchive
from flashsale.domain.archives import PROMISES, Judge, Total
from flashsale.domain.orders import OrderStatus
from flashsale.domain.requests import BuyRequest, order_id_at

PRODUCT_ID, PRICE, AT = 7, 1000, "2026-11-27T09:00:0{}.5+00:00"


def order(number, status, *, refunded=0, restocked=False, units=()):
    """Make the document of an order as Postgres would."""
    order_id, user_id = str(order_id_at(1_800_000_000_000 + number, bytes(10))), str(UUID(int=number))
    paid = status in {"confirmed", "refunded", "payment_failed"}
    steps = ["queued", "processing", "awaiting_payment"]
    if paid:
        steps += ["processing_payment", "payment_failed" if status == "payment_failed" else "confirmed"]
    steps += ["refund_pending", "refunded"] if status == "refunded" else [] if paid else [status]
    wanted = BuyRequest(user_id=UUID(user_id), product_id=PRODUCT_ID, quantity=1, key="k")
    reference = f"ch_{number}"
    return {
        "order": {
            "order_id": order_id, "user_id": user_id, "product_id": PRODUCT_ID, "product_name": "Phone", "quantity": 1,
            "unit_price_minor": PRICE, "currency": "USD", "payment_mode": "automatic", "status": status,
            "version": len(steps), "attempt": int(paid), "due_at": None, "job_id": None, "pay_requested_at": None,
            "created_at": AT.format(0), "updated_at": AT.format(len(steps)), "refunded_minor": refunded,
            "restocked": restocked, "disputed": False,
        },
        "request": {
            "order_id": order_id, "user_id": user_id, "kind": "order", "key": f"k{number}", "request_id": None,
            "fingerprint": "\\x" + wanted.fingerprint().hex(), "created_at": AT.format(0),
        },
        "units": list(units),
        "events": [
            {"version": version, "status": step, "at": AT.format(version)} for version, step in enumerate(steps, 1)
        ],
        "attempts": [
            {
                "attempt": 1, "gateway_key": order_id, "amount_minor": PRICE, "currency": "USD", "sent": True,
                "outcome": "declined" if status == "payment_failed" else "captured", "reference": reference,
                "begun_at": AT.format(4), "finished_at": AT.format(5),
            }
        ] * paid,
        "intents": [],
        "refunds": [
            {
                "number": 1, "refund_key": f"{order_id}:refund:1", "amount_minor": refunded, "currency": "USD",
                "restock": restocked, "reason": "broken", "requested_by": user_id, "state": "succeeded", "attempt": 1,
                "sent": True, "reference": "re", "problem": None, "due_at": None, "job_id": None, "bounced_at": None,
                "created_at": AT.format(5), "finished_at": AT.format(6),
            }
        ] * (refunded > 0),
        "records": [],
        "fee": None,
    }  # fmt: skip


def sale():
    """Make a sale: its product, its orders and their sums."""
    orders = [
        order(1, "confirmed", units=[1]),
        order(2, "confirmed", refunded=1, units=[2]),
        order(3, "refunded", refunded=PRICE, units=[3]),
        order(4, "refunded", refunded=PRICE, restocked=True),
        order(5, "payment_failed"),
        order(6, "expired"),
    ]
    terms = {
        "name": "Phone", "price_minor": PRICE, "currency": "USD", "payment_mode": "automatic", "limit_per_buyer": 1,
        "starts_at": None, "ends_at": None, "paused": False, "valid_from": AT.format(0),
    }  # fmt: skip
    product = {
        "product": {"product_id": PRODUCT_ID, "allotment": 9},
        "terms": [terms, {**terms, "paused": True, "valid_from": AT.format(9)}],
        "live": {"free": 6},
    }
    totals = (
        Total(status=OrderStatus.CONFIRMED, currency="USD", orders=2, units=2, value_minor=2000, refunded_minor=1),
        Total(status=OrderStatus.REFUNDED, currency="USD", orders=2, units=2, value_minor=2000, refunded_minor=2000),
        Total(status=OrderStatus.PAYMENT_FAILED, currency="USD", orders=1, units=1, value_minor=1000, refunded_minor=0),
        Total(status=OrderStatus.EXPIRED, currency="USD", orders=1, units=1, value_minor=1000, refunded_minor=0),
    )
    return product, orders, totals


def judged(product, orders, totals):
    judge = Judge(product=product)
    for document in orders:
        judge.add(document)
    judge.end(totals)
    return set(judge.bad)


FREE = {
    "order.job_id": "the number of a job that is gone",
    "order.disputed": "whether the bank asks for the money only the provider knows",
    "order.pay_requested_at": "when a buyer asked to pay has no second record",
    "request.key": "a client's key is compared with nothing but itself",
    "request.request_id": "only log lines have it",
    "units.0": "a unit's number is its name",
    "attempts.0.sent": "whether a call was made only the gateway knows",
    "attempts.0.reference": "the provider's name of a charge only the provider knows",
    "refunds.0.refund_key": "a key of the provider",
    "refunds.0.reason": "why has no second record",
    "refunds.0.requested_by": "who has no second record",
    "refunds.0.attempt": "how the provider was asked has no second record",
    "refunds.0.sent": "the same",
    "refunds.0.reference": "the provider's name",
    "refunds.0.problem": "the same",
    "refunds.0.bounced_at": "what the provider said later",
    "refunds.0.job_id": "the number of a job that is gone",
    "refunds.0.due_at": "a pending refund is not final by its state",
}
"""What a judge cannot know, and why not: the digests of the files hold these."""


def leaves(value, *above):
    """Return the path of each value of a document."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, *above, name)
    elif isinstance(value, list) and value:
        for place, one in enumerate(value):
            yield from leaves(one, *above, place)
    else:
        yield above


def wrongs(value):
    """Return values that are not the true one."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, -1, None]
    if isinstance(value, str):
        return [f"{value}x", "2001-01-01T00:00:00+00:00", None]
    return [1, "x"]


def changed(document, path, value):
    copied = copy.deepcopy(document)
    inner = copied
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return copied


def test_a_sound_sale_violates_nothing():
    assert judged(*sale()) == set()


def test_each_wrong_value_is_found_or_excused():
    product, orders, totals = sale()
    tried, missed, used = 0, [], set()
    for place, document in enumerate(orders):
        for path in leaves(document):
            value = document
            for name in path:
                value = value[name]
            for wrong in wrongs(value):
                if wrong == value:
                    continue
                tried += 1
                false = [*orders[:place], changed(document, path, wrong), *orders[place + 1 :]]
                if not judged(product, false, totals):
                    name = ".".join(map(str, path))
                    used.add(name)
                    if name not in FREE:
                        missed.append(f"{name}: {value!r} -> {wrong!r}")
    assert tried > 500
    assert not missed, "\n".join(missed)
    assert used == FREE.keys(), "an excuse that excuses nothing"


def test_a_row_that_is_lost_doubled_or_of_another_order_is_found():
    product, orders, totals = sale()
    for place, document in enumerate(orders):
        assert judged(product, [*orders[:place], *orders[place + 1 :]], totals), "an order is lost"
        assert judged(product, [*orders[:place], document, *orders[place:]], totals), "an order is there twice"
        for kind, rows in document.items():
            if isinstance(rows, list) and rows:
                for row in (0, len(rows) - 1):
                    lost = changed(document, (kind,), [*rows[:row], *rows[row + 1 :]])
                    twice = changed(document, (kind,), [*rows, rows[row]])
                    for false in (lost, twice):
                        assert judged(product, [*orders[:place], false, *orders[place + 1 :]], totals), (kind, row)
            missing = {name: value for name, value in document.items() if name != kind}
            if kind != "fee":
                assert judged(product, [*orders[:place], missing, *orders[place + 1 :]], totals), kind
    assert judged(product, orders[::-1], totals), "in another order"
    other = changed(orders[1], ("units",), [1])
    assert judged(product, [orders[0], other, *orders[2:]], totals) == {"A7"}, "a unit was sold twice"


def test_what_the_sums_and_the_stock_say_is_compared():
    product, orders, totals = sale()
    for path, value in ((("product", "allotment"), 8), (("live", "free"), 5), (("product", "product_id"), 8)):
        assert judged(changed(product, path, value), orders, totals)
    assert judged(product, orders, totals[1:]) == {"A10"}
    assert judged(changed(product, ("terms", 0, "paused"), True), orders, totals) == {"A8"}
    held = changed(
        changed(orders[1], ("order", "user_id"), orders[0]["order"]["user_id"]),
        ("request", "user_id"),
        orders[0]["order"]["user_id"],
    )
    assert judged(product, [orders[0], held, *orders[2:]], totals) == {"A9"}


@pytest.mark.parametrize(
    "line", [{}, {"order": None}, {"order": {"order_id": 1}}, {"order": {"order_id": "x"}, "events": 3}]
)
def test_a_line_that_is_no_order_is_found_and_not_an_error(line):
    product, orders, totals = sale()
    assert "A1" in judged(product, [*orders, line], totals)


def test_each_rule_has_its_promise():
    assert set(PROMISES) == {f"A{number}" for number in range(1, 11)}


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path):
    from flashsale.usecases.archive_check import UnreadableArchive

    files = FolderOfArchive(tmp_path)
    facts = files.write_product("{}")
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                "program": "flashsale", "kind": "sale", "format": 1, "version": "1", "schema_revision": "0035",
                "product_id": 7, "product_name": "Phone", "made_at": "2026-11-27T09:00:00Z", "parts": [], "totals": [],
                "product": {
                    "name": "../product.json", "lines": facts.lines, "file_bytes": 1, "file_digest": "", "content_digest": "",
                },
            }
        )
    )  # fmt: skip
    with pytest.raises(UnreadableArchive, match="outside"):
        files.manifest()
