"""What workers say over HTTP: metrics that agree with Postgres and the gate, and whether they live."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flashsale.local.children import start_ready
from flashsale.local.stack import ROOT
from tests.conftest import add_buyers, add_product
from tests.support.accepting import accept_one
from workers.exporter import exporting
from workers.maintenance import AUDITED, make_tasks
from workers.sale_metrics import SaleMetrics

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def samples(page):
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@asynccontextmanager
async def exported(read):
    """An exporter in this process; returns its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with (
            exporting(read, lambda: True, listener=listener.detach(), port=0),
            aiohttp.ClientSession(url) as client,
        ):
            yield client


async def test_the_page_is_openmetrics_and_says_what_postgres_and_the_gate_count(services, jobs, db):
    product = await add_product(services)
    await accept_one(services, product, (await add_buyers(services, 1))[0])
    await db.execute("UPDATE orders SET updated_at = updated_at - interval '40 s'")
    async with (
        exported(SaleMetrics(jobs.figures, jobs.gate, jobs.acceptance).read) as client,
        client.get("/metrics", headers=OPENMETRICS) as response,
    ):
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        found = samples(await response.text())
    label = str(product.product_id)
    assert found["flashsale_truth_up",] == 1
    assert found["flashsale_free_units", label] == 9
    assert found["flashsale_gate_loaded", label] == 1
    assert found["flashsale_gate_stock", label] - found["flashsale_gate_drift_units", label] == 9
    assert found["flashsale_orders", "queued"] == 1
    assert 40 <= found["flashsale_orders_oldest_seconds", "queued"] < 100
    assert found["flashsale_orders_value", "USD", "queued"] == 999.99
    assert found["flashsale_order_seconds", "0.95"] >= 0
    assert found["flashsale_jobs", "orders", "todo"] == 1
    assert found["flashsale_jobs_oldest_seconds", "orders", "todo"] > 0
    # Nothing is a figure too.
    assert found["flashsale_jobs", "payments", "todo"] == found["flashsale_orders", "confirmed"] == 0
    assert found["flashsale_postgres_connections",] > 0
    await db.execute("UPDATE orders SET updated_at = created_at")


@pytest.mark.parametrize(("units", "drift"), [(10, 0), (12, 2), (7, -3)])
async def test_drift_is_what_the_gate_counts_beyond_what_is_free(services, jobs, redis, units, drift):
    product = await add_product(services)
    await redis.set(f"flashsale:{{{product.product_id}}}:stock", units)
    async with (
        exported(SaleMetrics(jobs.figures, jobs.gate, jobs.acceptance).read) as client,
        client.get("/metrics", headers=OPENMETRICS) as response,
    ):
        found = samples(await response.text())
    assert found["flashsale_gate_drift_units", str(product.product_id)] == drift


async def test_without_postgres_the_process_still_shows_its_own_figures(jobs):
    await jobs.database.close()
    async with (
        exported(SaleMetrics(jobs.figures, jobs.gate, jobs.acceptance).read) as client,
        client.get("/metrics", headers=OPENMETRICS) as response,
    ):
        found = samples(await response.text())
    assert found["flashsale_truth_up",] == 0
    assert ("flashsale_rescues_total", "orders") in found
    assert ("flashsale_orders", "queued") not in found
    await jobs.database.open()


async def test_the_audit_of_the_maintenance_worker_counts_violations(services, jobs, db):
    product = await add_product(services)
    audit = make_tasks().tasks["audit"].func
    context = SimpleNamespace(additional_context={"jobs": jobs})

    async def violations():
        began_s = time.time()
        await audit(context, 0)
        assert AUDITED._value.get() >= began_s
        return REGISTRY.get_sample_value("flashsale_audit_violations", {"invariant": "I1"})

    assert await violations() == 0
    await db.execute("UPDATE product_live SET free = free - 1 WHERE product_id = $1", product.product_id)
    assert await violations() > 0
    await db.execute("UPDATE product_live SET free = free + 1 WHERE product_id = $1", product.product_id)


@asynccontextmanager
async def until_it_answers(postgres_url, valkey, folder):
    """A worker of orders; gives a function that waits until its liveness has a status."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = await start_ready(
            "orders",
            [sys.executable, "-m", "workers", "orders", "--fd", str(listener.fileno())],
            log_path=folder / "log",
            environment={
                "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
                "FLASHSALE_POSTGRES__URL": postgres_url,
                "FLASHSALE_REDIS__URL": valkey.url,
                "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
                "FLASHSALE_PAYMENTS__GATEWAY_URL": "http://127.0.0.1:9",
                "FLASHSALE_WORKERS__HEARTBEAT_S": "0.1",
                "FLASHSALE_WORKERS__STALLED_S": "1",
            },
            inherited_fds=[listener.fileno()],
            cwd=ROOT,
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def until(status):
        for _ in range(1200):
            async with client.get("/health/live") as response:
                if response.status == status:
                    return
            await asyncio.sleep(0.05)
        raise AssertionError(status)

    try:
        async with aiohttp.ClientSession(url) as client:
            yield until
    finally:
        await worker.stop()


async def test_a_worker_lives_while_it_writes_heartbeats(postgres_url, valkey, db, tmp_path):
    async with until_it_answers(postgres_url, valkey, tmp_path) as until:
        await until(200)
        async with db.transaction():
            # The process runs and answers, but its heartbeats wait.
            await db.execute("LOCK TABLE procrastinate_workers IN EXCLUSIVE MODE")
            await until(503)
        await until(200)


async def test_a_worker_whose_heartbeat_failed_begins_anew(postgres_url, valkey, db, tmp_path):
    """procrastinate notices a heartbeat that failed only in workers that have periodic jobs, and orders have none."""
    async with until_it_answers(postgres_url, valkey, tmp_path) as until:
        await until(200)
        await db.execute("ALTER FUNCTION procrastinate_update_heartbeat_v1 RENAME TO heartbeat_away")
        await until(503)
        await db.execute("ALTER FUNCTION heartbeat_away RENAME TO procrastinate_update_heartbeat_v1")
        back_at = await db.fetchval("SELECT now()")
        heard = "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > $1"
        async with asyncio.timeout(60):
            while not await db.fetchval(heard, back_at):
                await asyncio.sleep(0.05)
        await until(200)
