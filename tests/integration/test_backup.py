"""A backup that is made while a sale runs is restored to a stack whose audit holds, and tells what was charged after it."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile

import asyncpg
import httpx
import pytest

from flashsale.bootstrap.servers import schema_revision
from flashsale.local.archive import unpack
from flashsale.local.children import ChildFailed
from flashsale.local.stack import ROOT, Stack
from flashsale.simulator.ledger import Ledger
from tests.conftest import of_this_checkout
from tests.support.api import FAST, admin_headers, audit, buyer_headers

BUY = "/api/order/buy-flash"


def flashsale(*arguments):
    command = [sys.executable, "-m", "flashsale.cli", *map(str, arguments)]
    return subprocess.run(command, env=of_this_checkout(), cwd=ROOT, capture_output=True, text=True, check=False)


async def statuses(stack):
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        return {str(row["order_id"]): row["status"] for row in await connection.fetch("SELECT * FROM orders")}
    finally:
        await connection.close()


async def at_rest(stack):
    """Wait until every order is final, or waits for its buyer; returns their states."""
    async with asyncio.timeout(60):
        while True:
            found = await statuses(stack)
            if not set(found.values()) & {"queued", "processing", "processing_payment", "payment_unknown"}:
                return found
            await asyncio.sleep(0.1)


async def buy_and_pay(api, ids, buyer):
    """Buy one of each product; the last is paid by its buyer."""
    for product_id in ids:
        answer = await api.post(BUY, json={"productId": product_id}, headers=buyer)
        assert answer.status_code == 202, answer.text
    order_id = answer.json()["orderId"]
    async with asyncio.timeout(60):
        while (await api.post(f"/api/order/{order_id}/pay", headers=buyer)).status_code != 202:
            await asyncio.sleep(0.05)


async def refund(api, stack, order_id):
    """Give an order's money back, and wait for the provider."""
    headers = admin_headers(stack)
    asked = await api.post(f"/api/admin/orders/{order_id}/refunds", json={"reason": "broken"}, headers=headers)
    assert asked.status_code == 202, asked.text
    async with asyncio.timeout(60):
        while (await statuses(stack))[order_id] != "refunded":
            await asyncio.sleep(0.1)


async def first_confirmed(stack):
    async with asyncio.timeout(60):
        while not (ids := [order_id for order_id, status in (await statuses(stack)).items() if status == "confirmed"]):
            await asyncio.sleep(0.1)
    return ids[0]


async def sell_and_back_up(stack, file):
    """Sell before, during and after a backup, and refund afterwards what was confirmed before.

    Returns the products, the refunded order and what became of the orders.
    """
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30) as api:
        made = {"name": "Phone", "price": "999.99", "stock": 1000}
        headers = admin_headers(stack)
        ids = [
            (await api.post("/api/admin/products", json={**made, **more}, headers=headers)).json()["id"]
            for more in ({}, {"paymentMode": "by_buyer"})
        ]
        buyers = buyer_headers(stack, 60)
        await asyncio.gather(*(buy_and_pay(api, ids, buyer) for buyer in buyers[:20]))
        refunded = await first_confirmed(stack)
        during = [asyncio.create_task(buy_and_pay(api, ids, buyer)) for buyer in buyers[20:40]]
        done = await asyncio.to_thread(flashsale, "backup", file, "--data-dir", stack.data_dir)
        assert done.returncode == 0, done.stderr
        await asyncio.gather(*during, *(buy_and_pay(api, ids, buyer) for buyer in buyers[40:]))
        await at_rest(stack)
        await refund(api, stack, refunded)
        return ids, refunded, await at_rest(stack)


async def assert_sells_on(stack, ids):
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30) as api:
        async with asyncio.timeout(60):
            while (await api.get("/health/ready")).json()["gate"] != "loaded":
                await asyncio.sleep(0.1)
        await buy_and_pay(api, ids, buyer_headers(stack, 1)[0])


async def test_a_backup_in_mid_sale_is_restored_with_an_audit_that_holds(tmp_path):
    file, first = tmp_path / "sale.flashsale", tmp_path / "first"
    # Payments that take a while are under way when the backup is made.
    slow = {**FAST, "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.5"}
    async with Stack(first, port=0, api=1, environment=slow) as stack:
        ids, refunded, before = await sell_and_back_up(stack, file)
        running = flashsale("restore", file, "--data-dir", first, "--overwrite", "flashsale")
        assert running.returncode == 1
        assert "A stack runs" in running.stderr
    assert file.stat().st_mode & 0o777 == 0o600

    newest = tmp_path / "newest-ledger.jsonl"
    (first / "gateway-ledger.jsonl").rename(newest)
    shutil.rmtree(first)
    done = flashsale("restore", file, "--data-dir", tmp_path / "second", "--ledger", newest)
    assert done.returncode == 0, done.stderr
    named = dict(re.findall(r"order (\S+), 999.99 USD, (ch_\w+)", done.stdout))
    async with Stack(tmp_path / "second", port=0, api=1, environment=FAST) as stack:
        after = await at_rest(stack)
        checked = audit(stack)
        assert checked.returncode == 0, checked.stdout
        await assert_sells_on(stack, ids)
    assert 20 * len(ids) <= len(after) < len(before) == 120
    assert set(after) < set(before)
    lost = {order_id for order_id, status in before.items() if order_id not in after and status == "confirmed"}
    assert lost, "sold after the backup"
    assert named.keys() == lost
    assert named == {order_id: reference for order_id, reference in charges(newest).items() if order_id in lost}
    assert after[refunded] == "refunded", "a refund that was made after the backup"
    left = (tmp_path / "second" / "charged-after-restore-point.jsonl").read_text().splitlines()
    left = [json.loads(line)["key"] for line in left]
    assert {key.partition(":")[0] for key in left} >= lost
    for order_id, status in after.items():
        assert status == before[order_id] or before[order_id] == "confirmed", "who had paid, has paid"

    assert_living_data_are_not_overwritten_by_accident(tmp_path, file)
    assert_damage_is_one_line_and_changes_nothing(tmp_path, file)


def charges(path):
    """Return the id of each captured charge that the simulator has, by order."""
    ledger = Ledger(None)
    for line in path.read_text().splitlines():
        ledger.replay(json.loads(line))
    return {entry.key.partition(":")[0]: entry.charge_id for entry in ledger if entry.captures}


def assert_living_data_are_not_overwritten_by_accident(tmp_path, file):
    second = tmp_path / "second"
    control = second / "postgres" / "cluster" / "global" / "pg_control"
    old = control.read_bytes()
    for twice in ((), ("--overwrite", "other")):
        refused = flashsale("restore", file, "--data-dir", second, *twice)
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        assert "--overwrite" in refused.stderr
    assert control.read_bytes() == old
    assert flashsale("restore", file, "--data-dir", second, "--overwrite", "flashsale").returncode == 0
    assert control.read_bytes() != old
    again = flashsale("backup", file, "--data-dir", second)
    assert again.returncode == 1
    assert "exists" in again.stderr
    resting = flashsale("backup", tmp_path / "at-rest", "--data-dir", second)
    assert resting.returncode == 0, resting.stderr


def members(file):
    with tarfile.open(file) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}


def write(file, parts):
    with tarfile.open(file, "w") as archive:
        for name, data in parts.items():
            one = tarfile.TarInfo(name)
            one.size = len(data)
            archive.addfile(one, io.BytesIO(data))


def wrongs(parts):
    """Make every kind of wrong backup of a right one: each part missing, cut and changed, and each field of the manifest."""
    for name, data in parts.items():
        yield f"without {name}", {one: parts[one] for one in parts if one != name}
        yield f"cut {name}", {**parts, name: data[: len(data) // 2]}
        at = len(data) // 2
        yield f"changed {name}", {**parts, name: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]}
    manifest = json.loads(parts["manifest.json"])
    for field in manifest:
        for value in ("other", 99, None, {"revision": "9999", "digest": "0"}):
            if field not in {"version", "made_at", "postgres"}:
                told = json.dumps({**manifest, field: value}).encode()
                yield f"{field} {value}", {**parts, "manifest.json": told}
        told = json.dumps({one: manifest[one] for one in manifest if one != field}).encode()
        yield f"without {field}", {**parts, "manifest.json": told}


def assert_damage_is_one_line_and_changes_nothing(tmp_path, file):
    parts = members(file)
    assert list(parts) == ["manifest.json", "database.dump", "gateway-ledger.jsonl", "secrets.json"]
    tried = 0
    for what, wrong in wrongs(parts):
        write(tmp_path / "wrong", wrong)
        folder = tmp_path / f"unpacked {tried}"
        folder.mkdir()
        with pytest.raises(ChildFailed) as caught:
            unpack(tmp_path / "wrong", folder, revisions_to=schema_revision())
        assert len(str(caught.value).splitlines()) == 1, what
        tried += 1
    sys.stdout.write(f"{tried} wrong backups\n")
    before = sorted(path.name for path in (tmp_path / "second").iterdir())
    failed = flashsale("restore", tmp_path / "wrong", "--data-dir", tmp_path / "second", "--overwrite", "flashsale")
    assert failed.returncode == 1
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"no backup", b"\x00" * 10_240])
def test_a_file_that_is_no_backup_is_one_line_and_leaves_nothing(tmp_path, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    done = flashsale("restore", file, "--data-dir", tmp_path / "data")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "is no backup" in done.stderr
    assert not (tmp_path / "data" / "restoring").exists()


def test_nothing_to_back_up_is_one_line(tmp_path):
    done = flashsale("backup", tmp_path / "file", "--data-dir", tmp_path / "data")
    assert done.returncode == 1
    assert "contains no database" in done.stderr
    assert len(done.stderr.splitlines()) == 1
