"""The sale on one screen: the API's answer, and what `flashsale status` makes of it and of the servers."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support.api import BUY, buyer_headers, final


def status(*arguments, environment):
    return subprocess.run(
        [sys.executable, "-m", "flashsale.cli", "status", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
async def sold(api, product, stack):
    """A product of five units of which three are sold."""
    product_id = await product(stock=5, price="7.50")
    for owner in buyer_headers(stack, 3):
        answer = await api.post(BUY, json={"productId": product_id}, headers=owner)
        assert await final(api, answer.json()["orderId"], owner) == "confirmed"
    return product_id


async def test_status_shows_the_sale_and_what_is_wrong(api, sold, admin, buyer):
    now = (await api.get("/api/admin/status", headers=admin)).json()
    (shown,) = [one for one in now["products"] if one["id"] == sold]
    assert (shown["allotment"], shown["free"], shown["inPayment"], shown["sold"]) == (5, 2, 0, 3)
    assert (shown["revenue"], shown["gateLoaded"], shown["gateStock"], shown["gateDrift"]) == ("22.50", True, 2, 0)
    assert now["workers"] >= 3
    assert now["acceptedPerS"] > 0
    assert now["confirmedPerS"] > 0
    assert now["payments"]["captured"] >= 3
    assert now["buys"]["accepted"] >= 3
    await api.post(f"/api/admin/products/{sold}/pause", headers=admin)
    problems = (await api.get("/api/admin/status", headers=admin)).json()["problems"]
    assert any("paused" in one["what"] and str(sold) in one["what"] for one in problems)
    assert (await api.get("/api/admin/status", headers=buyer)).status_code == 403


async def test_the_command_says_the_same_from_the_servers_and_from_the_api(stack, sold, admin):
    from_servers = status("--json", environment=stack.environment)
    token = admin["Authorization"].removeprefix("Bearer ")
    away = {"PATH": os.environ["PATH"], "FLASHSALE_TOKEN": token}
    from_api = status("--json", "--url", stack.base_url, environment=away)
    assert (from_servers.returncode, from_api.returncode) == (0, 0), from_servers.stderr + from_api.stderr
    assert from_servers.stderr == from_api.stderr == ""
    read, asked = json.loads(from_servers.stdout), json.loads(from_api.stdout)
    assert [one for one in read["products"] if one["id"] == sold] == [
        one for one in asked["products"] if one["id"] == sold
    ]
    # Orders of other tests may move between the two.
    assert (read["buys"], sum(read["orders"].values())) == (None, sum(asked["orders"].values()))
    table = status("--url", stack.base_url, environment={**away, "COLUMNS": "140"})
    assert "22.50 USD" in table.stdout
    assert len(table.stdout.splitlines()) < 40


@pytest.mark.parametrize(
    ("arguments", "token", "told"),
    [
        (["--url", "{api}"], "", "FLASHSALE_TOKEN: set the token"),
        (["--url", "{api}"], "no.such.token", "answered 401"),
        (["--url", "http://127.0.0.1:9"], "a.b.c", "does not answer as the API does"),
        (["--url", "no-url"], "a.b.c", "does not answer as the API does"),
        ([], "", "FLASHSALE_POSTGRES__URL: is missing"),
    ],
)
def test_the_command_says_in_one_line_what_is_missing(stack, arguments, token, told):
    environment = {"PATH": os.environ["PATH"], "FLASHSALE_TOKEN": token}
    done = status(*(one.format(api=stack.base_url) for one in arguments), environment=environment)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
