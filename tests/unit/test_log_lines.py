"""What is found of an order in the logs of all processes, and that each event about an order names it."""

import ast
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from uuid import UUID

import pytest

from flashsale.cli.log_lines import lines_about
from flashsale.domain.traces import Origin
from flashsale.runtime.logs import ORDERS_PER_LINE, lines_of_orders
from tests.unit.test_docs import ROOT

ORDER = "0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58"
OTHER = "0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c59"
AT = "2026-11-27T09:00:00.5Z"
API = {"orders": [{"order_id": OTHER, "request_id": "r2"}, {"order_id": ORDER, "request_id": "r1"}]}
LINES = {
    "a batch": (f"api-1  | {json.dumps({'event': 'orders.accepted', 'timestamp': AT, **API})}", "orders.accepted"),
    "nginx": (
        json.dumps({"time": "2026-11-27T09:00:00+00:00", "request_id": "r1", "method": "POST", "path": "/api/x"}),
        "POST /api/x",
    ),
    "a look at it": (
        json.dumps({"time": AT, "request_id": "r9", "method": "GET", "path": f"/api/order/{ORDER}/status"}),
        f"GET /api/order/{ORDER}/status",
    ),
    "a job": (
        "[pod/payments-7/payments] " + json.dumps({"timestamp": AT, "event": "payment.finished", "order_id": ORDER}),
        "payment.finished",
    ),
    "a time that names no zone": (
        json.dumps({"timestamp": "2026-11-27T09:00:00", "event": "a.b", "order_id": ORDER}),
        "a.b",
    ),
}
NOT_ABOUT_IT = [
    f"no JSON about {ORDER}",
    f'{{"cut": "{ORDER}"',
    json.dumps({"event": "a.b", "order_id": ORDER}),
    json.dumps({"timestamp": 5, "event": "a.b", "order_id": ORDER}),
    json.dumps({"timestamp": AT, "event": "a.b", "order_id": OTHER, "note": ORDER}),
    json.dumps({"timestamp": AT, "event": "a.b", "orders": 3, "note": ORDER}),
    json.dumps({"timestamp": AT, "event": "a.b", "orders": [ORDER]}),
    json.dumps({"timestamp": AT, "event": "a.b", "request_id": "r11"}),
]


@pytest.mark.parametrize("kind", LINES)
def test_a_line_about_the_order_is_found(kind):
    text, event = LINES[kind]
    (line,) = lines_about(ORDER, "r1", [("file", text)])
    assert line.event == event
    assert datetime(2026, 11, 27, 9, tzinfo=UTC) <= line.at < datetime(2026, 11, 27, 9, 0, 1, tzinfo=UTC)
    assert line.source == {"a batch": "api-1", "a job": "pod/payments-7/payments"}.get(kind, "file")
    assert line.facts.get("batch") == (2 if kind == "a batch" else None)


@pytest.mark.parametrize("text", NOT_ABOUT_IT)
def test_any_other_line_is_left_out(text):
    assert not list(lines_about(ORDER, "r1", [("file", text)]))


def test_lines_of_the_orders_trace_are_about_it():
    text = json.dumps({"timestamp": AT, "event": "gateway.call_failed", "trace_id": "t1", "error": "TimeoutError"})
    (line,) = lines_about(ORDER, "r1", [("payments", text)], trace_id="t1")
    assert (line.event, line.facts) == ("gateway.call_failed", {"error": "TimeoutError"})
    assert not list(lines_about(ORDER, "r1", [("payments", text)], trace_id="t2"))


def test_without_a_request_only_the_order_is_looked_for():
    assert not list(lines_about(ORDER, None, [("file", LINES["nginx"][0])]))
    assert list(lines_about(ORDER, None, [("file", LINES["a job"][0])]))


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not on PATH")
def test_the_query_of_the_guide_finds_what_the_command_finds():
    (query,) = re.findall(r"jq -cR --arg id \S+ \\\n  '(.*)'", (ROOT / "docs/how-to/trace-an-order.md").read_text())
    # Of a line with a prefix the query gets what `--no-log-prefix` leaves.
    texts = [text[text.find("{") :] for text, _ in LINES.values()] + NOT_ABOUT_IT
    for wanted in (ORDER, "r1"):
        done = subprocess.run(
            ["jq", "-cR", "--arg", "id", wanted, query],
            input="\n".join(texts),
            capture_output=True,
            text=True,
            check=True,
        )
        kinds = {"a batch", "nginx"} if wanted == "r1" else {"a batch", "a job", "a time that names no zone"}
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(json.loads(LINES[kind][0][LINES[kind][0].find("{") :]) in found for kind in kinds)
        # What has no time is shown too: it is about the order.
        assert len(found) == len(kinds) + (2 if wanted == ORDER else 0)


def test_a_line_about_a_batch_stays_below_what_collectors_cut():
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    ids = [(UUID(ORDER), Origin("r" * 64, traceparent))] * (2 * ORDERS_PER_LINE + 1)
    lines = list(lines_of_orders(ids))
    assert [len(orders) for orders in lines] == [ORDERS_PER_LINE, ORDERS_PER_LINE, 1]
    assert max(len(json.dumps(orders)) for orders in lines) < 15_000
    assert list(lines_of_orders([])) == []


OF_NO_ORDER = {
    "orders.swept": "how many",
    "payments.woken": "how many",
    "payment.breaker_closed": "of the provider",
    "payment.breaker_opened": "of the provider",
    "payment.outage_not_told": "of the provider",
    "payment.budget_not_held": "of the provider",
    "refunds.woken": "how many",
    "outbox.interrupted": "of a target",
    "outbox.unknown_event": "of a newer release",
}


def events():
    """Each event of a log about orders and their payments, with the names of its facts; None stands for `**facts`."""
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log.") and call.args:
                for event in ast.walk(call.args[0]):
                    if isinstance(event, ast.Constant) and isinstance(event.value, str):
                        yield event.value, [keyword.arg for keyword in call.keywords]


def test_each_event_about_an_order_names_it():
    kinds = ("order", "orders", "payment", "payments", "refund", "refunds", "intent", "lease", "outbox", "buy")
    about = [(event, facts) for event, facts in events() if event.partition(".")[0] in kinds]
    assert len(about) > 30
    for event, facts in about:
        assert event in OF_NO_ORDER or {"order_id", "orders", None} & set(facts), event
    assert OF_NO_ORDER.keys() <= {event for event, _ in about}
