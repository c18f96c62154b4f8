"""Each place where it may break, broken exactly there: real processes, killed while a proxy holds their conversation.

Rows of the table in docs/explanation/correctness.md. Every test ends with the audit: Postgres, the gate and the gateway's books.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from flashsale.adapters.redis.connection import SCRIPTS
from flashsale.bootstrap.commands import open_audit
from flashsale.local.stack import Stack
from flashsale.usecases.findings import format_findings
from tests.conftest import TEMPLATE, execute, make_settings, with_database
from tests.faults.proxy import SOON_S, PostgresWire, Proxy
from tests.support.api import admin_headers, buyer_headers, final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from flashsale.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUY = "/api/order/buy-flash"
ACCEPT, PROCESS, BEGIN, FINISH = (
    b"accept_orders_v5(",
    b"process_orders_v2(",
    b"begin_payments_v4(",
    b"finish_payments_v2(",
)
END_JOBS = b"DELETE FROM procrastinate_jobs"
CHARGE = b"POST /v1/charges "
STOCK = 10

QUICK = {
    "FLASHSALE_GATE__LEASE_S": "1",
    "FLASHSALE_ORDERS__ORDER_DUE_S": "1",
    "FLASHSALE_ORDERS__PAYMENT_DUE_S": "1",
    "FLASHSALE_PAYMENTS__TIMEOUT_S": "1.5",
    "FLASHSALE_PAYMENTS__RETRY_S": "0.2",
    "FLASHSALE_LIVE__POLL_S": "0.5",
    "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.05",
    "FLASHSALE_SIMULATOR__DECLINE_RATE": "0",
}
"""Deadlines short enough to be waited for."""


def script(name: str) -> bytes:
    """What a call of one of the gate's scripts says."""
    return hashlib.sha1((SCRIPTS / f"{name}.lua").read_bytes(), usedforsecurity=False).hexdigest().encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A stack whose conversations with Postgres, the gate and the gateway go through proxies."""

    stack: Stack
    postgres: Proxy
    redis: Proxy
    gateway: Proxy
    http: httpx.AsyncClient
    database: asyncpg.Connection[asyncpg.Record]
    gate: Redis
    settings: Settings
    admin: dict[str, str]
    buyers: Iterator[dict[str, str]]

    async def sale(self) -> SmallSale:
        """Put a product on sale, for one buyer."""
        body = {"name": "Phone", "price": "999.99", "stock": STOCK}
        created = await self.http.post("/api/admin/products", json=body, headers=self.admin)
        return SmallSale(rig=self, product_id=created.json()["id"], buyer=next(self.buyers))

    @asynccontextmanager
    async def other_connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Open a connection of its own, for what holds a lock."""
        connection = await asyncpg.connect(self.settings.postgres.url.get_secret_value())
        try:
            yield connection
        finally:
            await connection.close()

    async def kill(self, *roles: str) -> None:
        """SIGKILL processes."""
        await asyncio.gather(*(self.stack.kill(role) for role in roles))

    async def start(self, *roles: str) -> None:
        """Start processes that were killed again."""
        await asyncio.gather(*(self.stack.start_child(role, 0) for role in roles))

    async def until(self, query: str, *arguments: object, wanted: object) -> None:
        """Wait until a query gives what is wanted."""
        async with asyncio.timeout(SOON_S):
            while await self.database.fetchval(query, *arguments) != wanted:
                await asyncio.sleep(0.02)

    async def voids(self) -> int:
        """Count the proposals that were given up."""
        count: int = await self.database.fetchval("SELECT count(*) FROM requests WHERE kind = 'void'")
        return count

    async def until_gate(self, state: str) -> None:
        """Wait until the API says so of its gate."""
        async with asyncio.timeout(SOON_S):
            while (await self.http.get("/health/ready")).json()["gate"] != state:
                await asyncio.sleep(0.02)

    async def set_gateway_faults(self, **rates: float) -> None:
        """Change what the gateway does wrong."""
        headers = {"Authorization": f"Bearer {self.stack.secrets['gateway_secret']}"}
        async with httpx.AsyncClient(headers=headers) as client:
            (await client.put(f"{self.stack.gateway_url}/v1/faults", json=rates)).raise_for_status()

    async def repair(self) -> None:
        """Undo whatever a test has left broken."""
        for proxy in (self.postgres, self.redis, self.gateway):
            proxy.repair()
        await self.set_gateway_faults(declineRate=0)
        await self.start("api", "orders", "payments", "maintenance")

    async def audit(self) -> str:
        """Check the invariants; returns the findings, empty if all hold."""
        async with open_audit(self.settings) as run_audit:
            findings = await run_audit(history=None, overdue_s=30, stuck_s=3600)
        return format_findings(findings) if any(finding.violations for finding in findings) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallSale:
    """A product of its own, and who buys it."""

    rig: Rig
    product_id: int
    buyer: dict[str, str]

    def buying(self, key: str = "one") -> asyncio.Task[httpx.Response]:
        """Press `buy` under a key."""
        headers = {**self.buyer, "Idempotency-Key": key}
        return asyncio.create_task(self.rig.http.post(BUY, json={"productId": self.product_id}, headers=headers))

    async def bought(self, key: str = "one") -> httpx.Response:
        """Press until there is another answer than 503."""
        async with asyncio.timeout(SOON_S):
            while (answer := await self.buying(key)).status_code == 503:
                await asyncio.sleep(0.05)
            return answer

    async def orders(self) -> list[str]:
        """Return the ids of the orders that are durable."""
        rows = await self.rig.database.fetch("SELECT order_id FROM orders WHERE product_id = $1", self.product_id)
        return [str(row["order_id"]) for row in rows]

    async def confirmed(self, answer: httpx.Response) -> None:
        """See that a buy was accepted and its order gets confirmed."""
        assert answer.status_code == 202, answer.text
        assert await final(self.rig.http, answer.json()["orderId"], self.buyer) == "confirmed"

    async def gate_stock(self) -> int:
        """Return what the gate counts."""
        return int(await self.rig.gate.get(f"flashsale:{{{self.product_id}}}:stock") or -1)

    async def until_gate_stock(self, stock: int) -> None:
        """Wait until the gate counts so many."""
        async with asyncio.timeout(SOON_S):
            while await self.gate_stock() != stock:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def rigged(folder: Path, postgres_url: str, redis_url: str) -> AsyncIterator[Rig]:
    """Start a stack behind proxies."""
    async with (
        Proxy(postgres_url, wire=PostgresWire) as postgres,
        Proxy(redis_url) as redis,
        Proxy() as gateway,
        Stack(
            folder,
            port=0,
            api=1,
            environment={**QUICK, "FLASHSALE_PAYMENTS__GATEWAY_URL": gateway.url},
            postgres_url=postgres.url,
            redis_url=redis.url,
        ) as stack,
        httpx.AsyncClient(base_url=stack.base_url, timeout=30) as http,
    ):
        gateway.target = stack.gateway_url
        database = await asyncpg.connect(postgres_url)
        gate = Redis.from_url(redis_url)
        try:
            yield Rig(
                stack=stack,
                postgres=postgres,
                redis=redis,
                gateway=gateway,
                http=http,
                database=database,
                gate=gate,
                settings=make_settings(
                    postgres_url,
                    redis_url,
                    payments={"gateway_url": stack.gateway_url, "gateway_secret": stack.secrets["gateway_secret"]},
                ),
                admin=await asyncio.to_thread(admin_headers, stack),
                buyers=iter(await asyncio.to_thread(buyer_headers, stack, 100)),
            )
        finally:
            await gate.aclose()
            await database.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_rig(tmp_path_factory, postgres, valkey) -> AsyncIterator[Rig]:
    await execute(postgres.url, f"CREATE DATABASE crash_points TEMPLATE {TEMPLATE}")
    url = with_database(postgres.url, "crash_points")
    async with rigged(tmp_path_factory.mktemp("rig"), url, valkey.url) as rig:
        yield rig
    await execute(postgres.url, "DROP DATABASE crash_points WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared_rig) -> AsyncIterator[Rig]:
    yield shared_rig
    await shared_rig.repair()
    assert not await shared_rig.audit()


@pytest_asyncio.fixture(loop_scope="module")
async def sale(rig) -> SmallSale:
    return await rig.sale()


# --- between the buyer and the 202 ----------------------------------------------------------------------------------


async def test_the_gates_reply_is_lost_and_postgres_alone_decides(rig, sale):
    trap = rig.redis.hold_reply(script("admit"))
    buying = sale.buying()
    await trap.sprung()
    trap.cut()
    await sale.confirmed(await buying)
    assert len(await sale.orders()) == 1


async def test_the_api_dies_with_a_lease_and_the_retry_takes_it_over(rig, sale):
    trap = rig.postgres.hold_request(ACCEPT)
    buying = sale.buying()
    await trap.sprung()
    # It would give the lease up while the API starts.
    await rig.kill("maintenance")
    await rig.kill("api")
    trap.cut()
    with pytest.raises(httpx.TransportError):
        await buying
    assert await sale.orders() == []
    await rig.start("api")
    await sale.confirmed(await sale.buying())
    assert len(await sale.orders()) == 1
    await rig.start("maintenance")


async def test_the_api_dies_with_a_lease_and_nobody_retries_so_its_units_go_back(rig, sale):
    voids = await rig.voids()
    trap = rig.postgres.hold_request(ACCEPT)
    buying = sale.buying()
    await trap.sprung()
    assert await sale.gate_stock() == STOCK - 1
    await rig.kill("api")
    trap.cut()
    with pytest.raises(httpx.TransportError):
        await buying
    await rig.start("api")
    await sale.until_gate_stock(STOCK)
    assert await rig.voids() == voids + 1


async def test_an_accept_that_comes_after_its_lease_was_given_up_meets_the_void(rig, sale):
    voids = await rig.voids()
    trap = rig.postgres.hold_request(ACCEPT)
    buying = sale.buying()
    await trap.sprung()
    await rig.until("SELECT count(*) FROM requests WHERE kind = 'void'", wanted=voids + 1)
    trap.release()
    answer = await buying
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert await sale.orders() == []
    await sale.confirmed(await sale.bought())
    assert len(await sale.orders()) == 1


async def test_the_connection_is_lost_during_commit_and_the_order_stands(rig, sale):
    trap = rig.postgres.hold_reply(ACCEPT)
    buying = sale.buying()
    await trap.sprung()
    orders = await sale.orders()
    trap.cut()
    answer = await buying
    await sale.confirmed(answer)
    assert [answer.json()["orderId"]] == orders == await sale.orders()


async def test_the_api_dies_between_commit_and_202_and_the_retry_gets_the_same_order(rig, sale):
    trap = rig.postgres.hold_reply(ACCEPT)
    buying = sale.buying()
    await trap.sprung()
    orders = await sale.orders()
    await rig.kill("api")
    trap.cut()
    with pytest.raises(httpx.TransportError):
        await buying
    await rig.start("api")
    answer = await sale.buying()
    await sale.confirmed(answer)
    assert [answer.json()["orderId"]] == orders == await sale.orders()


async def test_a_terminated_accept_leaves_neither_order_nor_job(rig, sale):
    async with rig.other_connection() as other, other.transaction():
        # What sells or releases units of the product keeps the accept waiting inside its transaction.
        await other.execute("SELECT 1 FROM product_live WHERE product_id = $1 FOR UPDATE", sale.product_id)
        buying = sale.buying()
        accepts = "wait_event_type = 'Lock' AND query LIKE '%accept_orders_v5%' AND datname = current_database()"
        await rig.until(f"SELECT count(*) FROM pg_stat_activity WHERE {accepts}", wanted=1)
        await rig.database.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {accepts}")
        answer = await buying
        assert answer.status_code == 503
        assert await sale.orders() == []
        assert await rig.database.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'orders'") == 0
    await sale.confirmed(await sale.buying())


# --- workers and the gateway ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_the_order_worker_dies_while_it_processes(rig, sale, lost):
    trap = rig.postgres.hold_request(PROCESS) if lost == "request" else rig.postgres.hold_reply(PROCESS)
    answer = await sale.buying()
    await trap.sprung()
    await rig.kill("orders")
    trap.cut()
    await rig.start("orders")
    await sale.confirmed(answer)


@pytest.mark.parametrize("what", ["fetched", "begin", "charge", "charged", "finish", "finished", "ended"])
async def test_the_payment_worker_dies_at_each_step_and_the_buyer_is_charged_once(rig, sale, what):
    trap = {
        "fetched": lambda: rig.postgres.hold_request(BEGIN),
        "begin": lambda: rig.postgres.hold_reply(BEGIN),
        "charge": lambda: rig.gateway.hold_request(CHARGE),
        "charged": lambda: rig.gateway.hold_reply(CHARGE),
        "finish": lambda: rig.postgres.hold_request(FINISH),
        "finished": lambda: rig.postgres.hold_reply(FINISH),
        "ended": lambda: rig.postgres.hold_request(END_JOBS, who=b"flashsale-jobs-payments"),
    }[what]()
    answer = await sale.buying()
    await trap.sprung()
    await rig.kill("payments")
    trap.cut()
    await rig.start("payments")
    await sale.confirmed(answer)
    captures = "SELECT count(*) FROM payment_attempts WHERE order_id = $1 AND outcome = 'captured'"
    assert await rig.database.fetchval(captures, UUID(answer.json()["orderId"])) == 1


@pytest.mark.parametrize("how", ["cut", "never"])
async def test_the_gateway_charges_and_its_answer_is_lost_or_never_comes(rig, sale, how):
    trap = rig.gateway.hold_reply(CHARGE)
    answer = await sale.buying()
    await trap.sprung()
    if how == "cut":
        trap.cut()
    order_id = UUID(answer.json()["orderId"])
    await rig.until(
        "SELECT count(*) > 0 FROM order_events WHERE order_id = $1 AND status = 'payment_unknown'",
        order_id,
        wanted=True,
    )
    assert await rig.database.fetchval("SELECT count(*) FROM units WHERE order_id = $1", order_id) == 1
    await sale.confirmed(answer)


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_the_process_that_returns_units_dies_and_each_order_is_counted_once(rig, sale, lost):
    await rig.set_gateway_faults(declineRate=1)
    trap = rig.redis.hold_request(script("return")) if lost == "request" else rig.redis.hold_reply(script("return"))
    answer = await sale.buying()
    await trap.sprung()
    await rig.kill("payments", "maintenance")
    trap.cut()
    assert await rig.database.fetchval("SELECT count(*) FROM gate_returns WHERE product_id = $1", sale.product_id) == 1
    await rig.start("payments", "maintenance")
    assert await final(rig.http, answer.json()["orderId"], sale.buyer) == "payment_failed"
    await rig.until("SELECT count(*) FROM gate_returns WHERE product_id = $1", sale.product_id, wanted=0)
    assert await sale.gate_stock() == STOCK


# --- servers --------------------------------------------------------------------------------------------------------


async def test_a_loader_dies_between_its_commit_and_the_gate(rig, sale):
    trap = rig.redis.hold_request(script("load"))
    await rig.gate.flushall()
    answer = await sale.buying()
    await trap.sprung()
    await rig.kill("api", "maintenance")
    trap.cut()
    await rig.start("api", "maintenance")
    await sale.confirmed(answer)
    await rig.until_gate("loaded")


async def test_without_the_gate_the_sale_goes_on_and_the_gate_comes_back(rig, sale):
    rig.redis.down()
    await sale.confirmed(await sale.buying())
    await rig.until_gate("bypass")
    rig.redis.up()
    await rig.until_gate("loaded")
    await sale.confirmed(await sale.buying("two"))


async def test_without_postgres_buyers_are_told_to_come_back_and_then_are_served(rig, sale):
    rig.postgres.down()
    answer = await sale.buying()
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    rig.postgres.up()
    await sale.confirmed(await sale.bought())
    assert len(await sale.orders()) == 1


async def test_a_listen_connection_that_hears_nothing_any_more_delays_streams_by_a_poll(rig, sale):
    events = asyncio.create_task(stocks(sale, until=STOCK - 1))
    async with asyncio.timeout(SOON_S):
        while not rig.postgres.freeze(b"flashsale-api-feed"):
            await asyncio.sleep(0.02)
    await sale.confirmed(await sale.buying())
    assert (await events)[-1] == f'"stock":{STOCK - 1}'


async def stocks(sale, *, until):
    """Read the stock's stream until it shows a number."""
    seen = []
    async with asyncio.timeout(SOON_S), sale.rig.http.stream("GET", f"/sse/stock/{sale.product_id}") as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                seen += [part for part in line.removeprefix("data: ").strip("{}").split(",") if '"stock"' in part]
                if seen[-1] == f'"stock":{until}':
                    break
    return seen
