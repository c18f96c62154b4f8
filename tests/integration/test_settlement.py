"""The settlement of a real sale at a real provider, from the command line."""

import asyncio
import csv
import json
import sys

from tests.conftest import ROOT, of_this_checkout
from tests.support.charging import charging, waiting_order
from tests.support.gateway import SECRET, running
from tests.support.refunding import refunding, requesting


async def reconcile(settings, url, *arguments):
    environment = of_this_checkout(
        FLASHSALE_POSTGRES__URL=settings.postgres.url.get_secret_value(),
        FLASHSALE_REDIS__URL=settings.redis.url.get_secret_value(),
        FLASHSALE_PAYMENTS__GATEWAY_URL=url,
        FLASHSALE_PAYMENTS__GATEWAY_SECRET=SECRET,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flashsale.cli", "reconcile", "payments", "--since", "2020-01-01", *arguments,
        cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_a_sale_settles_and_each_difference_is_named(services, settings, db, tmp_path):
    async with running() as service:
        orders = [(await waiting_order(services))[0] for _ in range(3)]
        charge = charging(services, service.gateway)
        for order_id in orders[:2]:
            await charge(order_id)
        await requesting(services)(orders[0], "1.00")
        await refunding(services, service.gateway)(orders[0])
        assert await reconcile(settings, service.url) == (0, "reconcile: 0 differences\n")
        # Somebody refunds in the provider's dashboard, and money comes that nobody asked for.
        path = f"/v1/charges/{orders[1]}/refunds"
        await service.ask("POST", path, json={"amountMinor": 500}, headers={"Idempotency-Key": "dashboard"})
        await service.post_charge("foreign")
        file = tmp_path / "differences.csv"
        code, text = await reconcile(settings, service.url, "--json", "--csv", str(file))
        found = {one["order_id"]: one["cause"] for one in map(json.loads, text.splitlines())}
        assert code == 1
        assert found == {str(orders[1]): "refund_missing_here", "foreign": "unknown_order"}
        with file.open() as lines:
            assert [row["cause"] for row in csv.DictReader(lines)] == list(found.values())
