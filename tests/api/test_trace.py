"""The way of one order through real processes: each of them names its order id and the id of its request in its log."""

import asyncio
import json
import os
import subprocess
import sys

from tests.conftest import ROOT
from tests.support.api import BUY, final

REQUEST_ID = "trace-4711"
SAYING = {"api-": "orders.accepted", "orders-": "orders.processed", "payments-": "payment.finished"}
"""Which event of the order each process must write, by the name of its log."""


def names(event, order_id):
    """Whether a line carries both ids, of its own order or in an entry of its batch."""
    return any(
        (one.get("order_id"), one.get("request_id")) == (order_id, REQUEST_ID)
        for one in [event, *(event.get("orders") or ())]
    )


def lines_of(stack, order_id):
    """Return (log, event) of each JSON line that carries both ids."""
    return [
        (path.stem, event["event"])
        for path in stack.log_dir.glob("*.log")
        for line in path.read_text(errors="replace").splitlines()
        if order_id in line and line.startswith("{") and names(event := json.loads(line), order_id)
    ]


async def test_every_process_names_the_order_and_its_request_and_one_command_shows_all(
    api, stack, product, admin, buyer
):
    product_id = await product(name="Traced")
    answer = await api.post(BUY, json={"productId": product_id}, headers={**buyer, "X-Request-ID": REQUEST_ID})
    order_id = answer.json()["orderId"]
    assert await final(api, order_id, buyer) == "confirmed"

    def missing():
        found = lines_of(stack, order_id)
        return {
            process: event
            for process, event in SAYING.items()
            if not any(log.startswith(process) and said == event for log, said in found)
        }

    for _ in range(1200):
        if not missing():
            break
        await asyncio.sleep(0.05)
    assert missing() == {}

    logs = [f"--logs={path}" for path in sorted(stack.log_dir.glob("*.log"))]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flashsale.cli", "trace", order_id, *logs, "--json"],
        env={
            "PATH": os.environ["PATH"],
            "FLASHSALE_URL": stack.base_url,
            "FLASHSALE_TOKEN": admin["Authorization"].removeprefix("Bearer "),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["orderId"], told["requestId"], told["status"]) == (order_id, REQUEST_ID, "confirmed")
    assert told["traceId"] is None, "this stack does not trace"
    what = {(row["where"].partition("-")[0], row["what"]) for row in told["entries"]}
    assert {(process.strip("-"), event) for process, event in SAYING.items()} <= what
    assert {("postgres", "payment_begun"), ("postgres", "payment_ended"), ("postgres", "status")} <= what
    times = [row["at"] for row in told["entries"] if row["at"] is not None]
    assert len(times) >= 8


async def test_an_order_of_an_unnamed_request_carries_the_id_that_its_answer_had(api, stack, product, admin, buyer):
    answer = await api.post(BUY, json={"productId": await product()}, headers=buyer)
    story = await api.get(f"/api/admin/orders/{answer.json()['orderId']}", headers=admin)
    assert story.json()["requestId"] == answer.headers["x-request-id"]
