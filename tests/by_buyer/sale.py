"""The sale: real Postgres, Valkey and HTTP, the simulator in Stripe's dialect, the Stripe adapter, the workers' tasks."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from flashsale.adapters.postgres.queries import Query
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from flashsale.domain.errors import FlashSaleError, StateForbids
from flashsale.domain.orders import FINAL
from flashsale.domain.products import PaymentMode
from flashsale.domain.requests import BuyRequest
from flashsale.domain.users import Principal, Role
from flashsale.http.app import build_app
from flashsale.http.server import Server
from flashsale.http.streams.hub import LiveHub
from flashsale.settings.simulator import SimulatorSettings
from flashsale.simulator.service import run_simulator
from tests.conftest import add_buyers, add_product, make_settings
from workers.app import ROLES, slots
from workers.app import build_app as build_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from flashsale.bootstrap.jobs import Jobs
    from flashsale.settings import Settings

KEY, PUBLISHABLE = "sk_test_0123456789abcdefghijklmn", "pk_test_simulator"
TRY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is sold, to whom."""

    units: int
    buyers: int
    window_s: int
    never: float = 0.4
    late: float = 0.05
    longest_s: float = 120.0


class Sale:
    """The running sale."""

    def __init__(self, plan: Plan, services: Any, provider_url: str, http: aiohttp.ClientSession) -> None:
        self.plan, self.services, self.provider_url, self.http = plan, services, provider_url, http
        self.did: Counter[str] = Counter()
        self.random = random.Random(1)

    async def run(self) -> int:
        """Sell until every unit is sold; returns the product's id."""
        product = await add_product(
            self.services,
            allotment=self.plan.units,
            payment_mode=PaymentMode.BY_BUYER,
            payment_window_s=self.plan.window_s,
        )
        users = await add_buyers(self.services, self.plan.buyers)
        async with asyncio.timeout(self.plan.longest_s):
            buyers = [asyncio.create_task(self._buy(product.product_id, user)) for user in users]
            try:
                while await self._confirmed() < self.plan.units:
                    await asyncio.sleep(TRY_S)
            finally:
                for buyer in buyers:
                    buyer.cancel()
                await asyncio.gather(*buyers, return_exceptions=True)
        return product.product_id

    async def _confirmed(self) -> int:
        row = await self.services.database.fetch_row(
            _statement("SELECT count(*) FROM orders WHERE status = 'confirmed'")
        )
        return int(row[0])

    async def _buy(self, product_id: int, user: Any) -> None:
        draw = self.random.random()
        while True:
            try:
                accepted = await self.services.buy(
                    BuyRequest(user_id=user, product_id=product_id, quantity=1, key=None)
                )
                break
            except FlashSaleError:
                await asyncio.sleep(TRY_S)
        self.did["bought"] += 1
        if draw < self.plan.never:
            self.did["never pay"] += 1
            return
        principal = Principal(user_id=user, role=Role.BUYER)
        order, intent = await self._ask(accepted.order_id, principal)
        if intent is None:
            return
        is_late = draw < self.plan.never + self.plan.late
        await asyncio.sleep(
            max(0.0, order.pay_by.timestamp() - time.time()) if is_late else self.plan.window_s * draw / 2
        )
        url = f"{self.provider_url}/v1/payment_intents/{intent.reference}/confirm"
        form = {"client_secret": intent.client_secret, "payment_method": "pm_card_visa"}
        async with self.http.post(url, data=form, headers={"Authorization": f"Bearer {PUBLISHABLE}"}) as answer:
            self.did[f"{'pay late' if is_late else 'pay in time'}: {answer.status}"] += 1

    async def _ask(self, order_id: Any, principal: Principal) -> tuple[Any, Any]:
        while True:
            try:
                return await self.services.orders.pay(order_id, principal)
            except StateForbids:
                order = await self.services.orders.get(order_id, principal)
                if order.status in FINAL:
                    self.did["ended before it was asked for"] += 1
                    return order, None
            except FlashSaleError:
                self.did["asked again"] += 1
            await asyncio.sleep(TRY_S / 2)


def _statement(text: str) -> Query:
    return Query(name="test", description="", text=text, reads=False)


@asynccontextmanager
async def provider(**settings: float | str) -> AsyncIterator[str]:
    """Run the simulator; returns its URL."""
    sock = socket.create_server(("127.0.0.1", 0))
    ready, stop = asyncio.Event(), asyncio.Event()
    values: dict[str, Any] = {
        "latency_mean_s": 0.02,
        "decline_rate": 0.0,
        "rate_limit_per_s": 0,
        "account_limit_per_s": 0,
        **settings,
    }
    task = asyncio.create_task(run_simulator(SimulatorSettings(**values), KEY, sock=sock, ready=ready.set, stop=stop))
    await ready.wait()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        stop.set()
        await task


async def endpoint(http: aiohttp.ClientSession, provider_url: str, shop_url: str) -> str:
    """Register the shop's endpoint; returns its secret."""
    form = {"url": f"{shop_url}/api/webhooks/stripe", "enabled_events[]": "*"}
    async with http.post(
        f"{provider_url}/v1/webhook_endpoints", data=form, headers={"Authorization": f"Bearer {KEY}"}
    ) as answer:
        return str((await answer.json())["secret"])


@asynccontextmanager
async def selling(plan: Plan, postgres_url: str, redis_url: str, **faults: float) -> AsyncIterator[Sale]:
    """Start everything; the workers run until the end of the block."""
    async with AsyncExitStack() as opened:
        url = await opened.enter_async_context(provider(**faults))
        http = await opened.enter_async_context(aiohttp.ClientSession())
        sock = socket.create_server(("127.0.0.1", 0))
        secret = await endpoint(http, url, f"http://127.0.0.1:{sock.getsockname()[1]}")
        settings = make_settings(
            postgres_url,
            redis_url,
            payments={"provider": "stripe", "retry_s": 0.3, "timeout_s": 5.0, "poll_s": 1.0, "poll_limit": 100},
            stripe={"base_url": url, "secret_key": KEY, "publishable_key": PUBLISHABLE, "webhook_secret": secret},
            gate={"rate_limit": 0},
        )
        services = await opened.enter_async_context(open_services(settings, name="by-buyer"))
        hub = LiveHub(services)
        edge = build_app(services, hub)
        server = Server(edge, settings.http)
        await opened.enter_async_context(edge.lifespan())
        await server.listen(sock)
        opened.push_async_callback(server.stop, leave_s=0, finish_s=1)
        opened.callback(hub.close)
        await opened.enter_async_context(working(settings))
        yield Sale(plan, services, url, http)


@asynccontextmanager
async def working(settings: Settings, roles: Iterable[str] = ROLES) -> AsyncIterator[Jobs]:
    """Run a worker of each queue in this process, or of those of some roles."""
    async with AsyncExitStack() as opened:
        jobs = await opened.enter_async_context(open_jobs(settings, name="by-buyer"))
        running = []
        for role in roles:
            for first, (queue, concurrency) in enumerate(slots(role, settings.workers).items()):
                app = build_worker(settings, roles=[role], concurrency=concurrency, periodic=not first)
                await opened.enter_async_context(app.open_async())
                running.append(
                    asyncio.create_task(
                        app.run_worker_async(
                            queues=[queue],
                            concurrency=min(concurrency, 50),
                            fetch_job_polling_interval=0.5,
                            delete_jobs="successful",
                            install_signal_handlers=False,
                            shutdown_graceful_timeout=2.0,
                            additional_context={"jobs": jobs, "stalled_s": 10.0},
                        )
                    )
                )
        try:
            yield jobs
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
