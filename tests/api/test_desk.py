"""The desk on the command line: a product from its creation to the story of an order, through the API alone."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.api import BUY, final


@pytest.fixture(scope="module")
def desk(stack, admin):
    """Run a command with nothing but the API's URL and a token."""
    environment = {
        "PATH": os.environ["PATH"],
        "COLUMNS": "160",
        "FLASHSALE_URL": stack.base_url,
        "FLASHSALE_TOKEN": admin["Authorization"].removeprefix("Bearer "),
    }

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "flashsale.cli", *arguments],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


async def test_an_order_can_be_found_and_its_story_told(api, desk, buyer):
    created = json.loads(desk("product", "create", "Desk", "--price", "5", "--stock", "1").stdout)
    product_id = str(created["id"])
    assert json.loads(desk("product", "stock", product_id, "+2").stdout)["allotment"] == 3
    assert json.loads(desk("product", "stock", product_id, "2").stdout)["allotment"] == 2
    assert json.loads(desk("product", "pause", product_id).stdout)["paused"] is True
    assert json.loads(desk("product", "resume", product_id).stdout)["paused"] is False
    headers = {**buyer, "Idempotency-Key": "desk-1"}
    order_id = (await api.post(BUY, json={"productId": created["id"]}, headers=headers)).json()["orderId"]
    assert await final(api, order_id, buyer) == "confirmed"
    for options in ((), ("--json",)):
        nothing = desk("orders", "find", "--product", "2000000000", *options)
        assert (nothing.returncode, nothing.stderr) == (0, ""), "an unknown product has no orders"
    assert order_id in desk("orders", "list", "--product", product_id, "--status", "confirmed").stdout
    told = json.loads(desk("orders", "show", order_id, "--json").stdout)
    found = json.loads(desk("orders", "find", "--email", told["email"].upper(), "--json").stdout)
    assert [(one["orderId"], one["email"]) for one in found] == [(order_id, told["email"])]
    assert (told["status"], told["key"], len(told["units"]), told["dueAt"]) == ("confirmed", "desk-1", 1, None)
    kinds = [
        (entry["kind"], entry["facts"].get("status") or entry["facts"].get("outcome")) for entry in told["entries"]
    ]
    assert kinds == [
        ("status", "queued"),
        ("status", "processing"),
        ("status", "awaiting_payment"),
        ("status", "processing_payment"),
        ("payment_begun", None),
        ("payment_ended", "captured"),
        ("status", "confirmed"),
    ]
    assert [entry["at"] for entry in told["entries"]] == sorted(entry["at"] for entry in told["entries"])
    text = desk("orders", "show", order_id).stdout
    assert told["email"] in text
    assert "outcome captured" in text


async def test_a_sale_is_closed_and_its_product_archived(desk):
    product_id = json.loads(desk("product", "create", "Gone", "--price", "5", "--stock", "1").stdout)["id"]
    refused = desk("product", "archive", str(product_id))
    assert (refused.returncode, "answered 409: The sale is open" in refused.stderr) == (1, True)
    assert json.loads(desk("product", "close", str(product_id)).stdout)["endsAt"] is not None
    assert json.loads(desk("product", "archive", str(product_id)).stdout)["archivedAt"] is not None
    listed = desk("product", "list", "--archived", "--before", str(product_id + 1), "--limit", "1").stdout
    assert "Gone" in listed
    assert "refunded" in listed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("product", "show", "2000000000"), "answered 404"),
        (("product", "show", "0"), "Invalid value"),
        (("product", "stock", "1", "many"), "give a whole number"),
        (("product", "close", "2000000000"), "answered 404"),
        (("product", "create", "X", "--price", "free", "--stock", "1"), "answered 400: price"),
        (("orders", "show", "0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58"), "answered 404"),
        (("orders", "show", "no-id"), "Invalid value"),
        (("orders", "list", "--status", "lost"), "answered 400: status must be one of queued, "),
        (("orders", "find", "--created-from", "yesterday"), "answered 400: createdFrom must be a time with a zone"),
        (("orders", "export", "--created-to", "1969-01-01T00:00:00Z"), "answered 400: createdTo must be in the years"),
    ],
)
def test_what_cannot_be_done_is_one_line(desk, arguments, told):
    done = desk(*arguments)
    assert done.returncode in {1, 2}
    assert told in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_story_is_for_administrators(api, buyer):
    path = "/api/admin/orders/0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58"
    assert (await api.get(path, headers=buyer)).status_code == 403
    assert (await api.get(path)).status_code == 401
