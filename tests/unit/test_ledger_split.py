"""After a restore the ledger is divided by the orders that the database knows, in both dialects of the simulator."""

import json

import pytest

from flashsale.domain.ledgers import Charged, GivenBack
from flashsale.simulator.ledger import derived_id
from flashsale.simulator.split import split_ledger


def charge(order_id, *, refund_minor=0):
    key = f"{order_id}:1"
    yield {"op": "open", "key": key, "amountMinor": 500, "currency": "USD", "reference": None}
    yield {"op": "capture", "key": key}
    if refund_minor:
        yield {"op": "refund", "key": key, "refundKey": f"{order_id}:refund:1", "amountMinor": refund_minor}


def intent(order_id, id_, *, refund_minor=0):
    opened = {"op": "open", "key": id_, "amountMinor": 700, "currency": "EUR", "reference": None}
    yield {"op": "stripe", "money": [{**opened, "intent": True, "orderId": order_id}]}
    yield {"op": "stripe", "money": [{"op": "capture", "key": id_}]}
    yield {"op": "stripe", "objects": [{"object": "event", "data": {"object": {"id": id_}}}]}
    if refund_minor:
        yield {
            "op": "stripe",
            "money": [{"op": "refund", "key": id_, "refundKey": "re_1", "amountMinor": refund_minor}],
        }


@pytest.fixture
def split(tmp_path):
    def run(*records, end=""):
        path = tmp_path / "ledger.jsonl"
        path.write_text("".join(f"{json.dumps(one)}\n" for one in records) + end)
        return split_ledger(path, {"known", "known-too"})

    return run


def test_money_for_lost_orders_is_listed_with_the_reference_and_less_what_was_given_back(split):
    lost = [*charge("lost", refund_minor=200), *intent("lost-too", "pi_2"), *charge("even", refund_minor=500)]
    kept = [*charge("known"), *intent("known-too", "pi_1"), {"op": "stripe", "objects": []}]
    done = split(*kept, *lost, end='{"op": "op')
    assert done.charged == [
        Charged("lost", 300, "USD", derived_id("ch", "lost:1")),
        Charged("lost-too", 700, "EUR", "pi_2"),
    ]
    assert [json.loads(line) for line in done.kept] == kept
    assert [json.loads(line) for line in done.after] == lost
    assert done.paid == ["known", "known-too"]


def test_refunds_of_known_orders_carry_their_key_and_reference(split):
    done = split(*charge("known", refund_minor=100), *intent("known-too", "pi_1", refund_minor=200))
    reference = derived_id("re", "known:1 known:refund:1")
    assert done.given_back == [
        GivenBack("known", "known:refund:1", reference, 100, "USD"),
        GivenBack("known-too", "re_1", "re_1", 200, "EUR"),
    ]
    assert not done.charged


@pytest.mark.parametrize("line", ["x\n", '{"op": "open"}\n', '{"op": "capture", "key": "k"}\n', "7\n"])
def test_a_damaged_ledger_is_said(split, line):
    with pytest.raises(ValueError, match="is damaged"):
        split(end=line)
