"""Kill a process at each step of a payment over Stripe's dialect; the steps are recorded from a run, not listed.

A scenario runs once without a fault, behind proxies that note what each process says to Postgres, the provider and the
shop's endpoint. Then it runs twice for each thing that was said: the process dies before the other side has it, and
after the other side has done it. Order, ledger and audit must come out as without the fault.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.domain.messages import Event
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey
from tests.by_buyer.sale import KEY, PUBLISHABLE
from tests.conftest import make_settings
from tests.faults.proxy import PostgresWire, Proxy
from tests.payments.sale import read_ledger
from tests.payments.stack import StripeStack
from tests.support.api import admin_headers, buyer_headers
from tests.support.receiver import receiving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

ENDED_S = 75.0
IDLE_S = 3.0
PRICE_MINOR = 99_999
SECRET = "whsec_" + "A" * 43 + "="
KILLED = ("api", "payments", "maintenance")

QUICK = {
    "FLASHSALE_ORDERS__ORDER_DUE_S": "1",
    "FLASHSALE_ORDERS__PAYMENT_DUE_S": "1",
    "FLASHSALE_PAYMENTS__TIMEOUT_S": "1.5",
    "FLASHSALE_PAYMENTS__RETRY_S": "0.2",
    "FLASHSALE_PAYMENTS__POLL_S": "1",
    "FLASHSALE_PAYMENTS__BUDGET_PER_S": "0",
    "FLASHSALE_WORKERS__HEARTBEAT_S": "0.5",
    "FLASHSALE_WORKERS__STALLED_S": "2",
    "FLASHSALE_OUTBOX__TIMEOUT_S": "1",
    "FLASHSALE_OUTBOX__RETRY_S": "0.2",
    "FLASHSALE_LIMITS__ADMINISTRATION": "0",
    "FLASHSALE_LIMITS__ORDERS": "0",
    "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.05",
    "FLASHSALE_SIMULATOR__DECLINE_RATE": "0",
    "FLASHSALE_SIMULATOR__RATE_LIMIT_PER_S": "0",
    "FLASHSALE_SIMULATOR__ACCOUNT_LIMIT_PER_S": "0",
    "FLASHSALE_LOG__LEVEL": "warning",
}
"""Deadlines short enough to be waited for."""

_NAME = re.compile(rb"application_name\x00([^\x00]+)\x00")
_LINE = re.compile(rb"(GET|POST|DELETE) ([^ ?]*?)(/(?:pi|re|ch)_\w+)?(/[a-z]+)?(\?[^ ]*)? HTTP")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a process says."""

    where: str
    """The proxy: postgres, gateway or hooks."""
    what: bytes
    """What it says, as traps compare it."""
    who: bytes = b""
    """The name of its connection."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The processes of which one said it."""
        if self.where == "postgres":
            return tuple(role for role in KILLED if role.encode() in self.who)
        return ("maintenance",) if self.where == "hooks" else ("payments", "api")

    def __str__(self) -> str:
        told = " ".join(self.what.decode(errors="replace").split())
        return f"{self.where} {'/'.join(self.roles)}: {told[:70]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an order came to, here and at the provider."""

    status: str
    captured: int = 0
    refunded: int = 0
    voids: int = 0


class Bought(NamedTuple):
    """An order and its buyer."""

    order_id: UUID
    buyer: dict[str, str]


@dataclass(slots=True, kw_only=True)
class Rig:
    """A stack with Stripe as its provider, whose conversations go through proxies."""

    stack: StripeStack
    proxies: dict[str, Proxy]
    http: httpx.AsyncClient
    provider: httpx.AsyncClient
    database: asyncpg.Connection[asyncpg.Record]
    admin: dict[str, str]
    buyers: Iterator[dict[str, str]]

    async def ask(self, method: str, path: str, headers: dict[str, str], **more: Any) -> Any:
        """Ask the API until it gives a definite answer; returns that."""
        async with asyncio.timeout(ENDED_S):
            while True:
                try:
                    answer = await self.http.request(method, path, headers=headers, **more)
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                    continue
                if answer.status_code not in (500, 503):
                    return answer.json()
                await asyncio.sleep(0.1)

    async def until(self, query: str, *arguments: object, wanted: object = True) -> None:
        """Wait until a query gives what is wanted."""
        async with asyncio.timeout(ENDED_S):
            while await self.database.fetchval(query, *arguments) != wanted:
                await asyncio.sleep(0.05)

    async def faults(self, **faults: float) -> None:
        """Change what the provider does wrong."""
        (await self.provider.put("/v1/faults", json=faults)).raise_for_status()

    async def buy(self, mode: str = "automatic") -> Bought:
        """Put a product on sale and buy it."""
        body = {"name": "Phone", "price": "999.99", "stock": 3, "paymentMode": mode}
        product = await self.ask("POST", "/api/admin/products", self.admin, json=body)
        buyer = next(self.buyers)
        headers = {**buyer, "Idempotency-Key": "one"}
        order = await self.ask("POST", "/api/order/buy-flash", headers, json={"productId": product["id"]})
        return Bought(order_id=UUID(order["orderId"]), buyer=buyer)

    async def becomes(self, order_id: UUID, status: str) -> None:
        """Wait until an order has a status."""
        await self.until("SELECT status FROM orders WHERE order_id = $1", order_id, wanted=status)

    async def pay(self, bought: Bought) -> str:
        """Ask to pay, and pay at the provider; returns the intent's id."""
        await self.becomes(bought.order_id, "awaiting_payment")
        payment = await self.ask("POST", f"/api/order/{bought.order_id}/pay", bought.buyer)
        secret = payment["clientSecret"]
        intent = str(secret.partition("_secret_")[0])
        form = {"client_secret": secret, "payment_method": "pm_card_visa"}
        headers = {"Authorization": f"Bearer {PUBLISHABLE}"}
        url = f"/v1/payment_intents/{intent}/confirm"
        (await self.provider.post(url, data=form, headers=headers)).raise_for_status()
        return intent

    async def expire(self, order_id: UUID) -> None:
        """Let the buyer's time be over."""
        await self.database.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", order_id)
        await self.becomes(order_id, "expired")

    async def quiet(self, order_id: UUID) -> None:
        """Wait until nothing more can come of an order, its intents, refunds and messages."""
        for table in ("orders", "payment_intents", "refunds", "outbox"):
            await self.until(
                f"SELECT count(*) FROM {table} WHERE order_id = $1 AND due_at IS NOT NULL", order_id, wanted=0
            )

    async def outcome(self, order_id: UUID) -> Outcome:
        """Return what an order came to, with the money of all of its intents."""
        entries = [entry for entry in (await read_ledger(self.stack))[0] if entry.get("orderId") == str(order_id)]
        assert all(entry["status"] != "authorized" for entry in entries), "money is held, and neither taken nor let go"
        return Outcome(
            status=await self.database.fetchval("SELECT status FROM orders WHERE order_id = $1", order_id),
            captured=sum(entry["captures"] * entry["amountMinor"] for entry in entries),
            refunded=sum(entry["refundedMinor"] for entry in entries),
            voids=sum(entry["voids"] for entry in entries),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens to an order, and what must come of it."""

    name: str
    run: Callable[[Rig], Awaitable[UUID]]
    outcome: Outcome
    roles: frozenset[str]
    """The processes whose steps are recorded."""


async def _automatic(rig: Rig) -> UUID:
    order_id = (await rig.buy()).order_id
    await rig.becomes(order_id, "confirmed")
    return order_id


async def _declined(rig: Rig) -> UUID:
    await rig.faults(declineRate=1)
    order_id = (await rig.buy()).order_id
    await rig.becomes(order_id, "payment_failed")
    await rig.faults(declineRate=0)
    return order_id


async def _by_buyer(rig: Rig) -> UUID:
    bought = await rig.buy("by_buyer")
    await rig.pay(bought)
    await rig.becomes(bought.order_id, "confirmed")
    return bought.order_id


async def _late(rig: Rig, *, captured: bool) -> UUID:
    bought = await rig.buy("by_buyer")
    await rig.faults(webhookLossRate=1)
    # Nobody is told of the money before the order has ended.
    await rig.database.execute("UPDATE payment_intents SET due_at = 'infinity' WHERE due_at IS NOT NULL")
    intent = await rig.pay(bought)
    if captured:
        (await rig.provider.post(f"/v1/payment_intents/{intent}/capture")).raise_for_status()
    await rig.expire(bought.order_id)
    await rig.quiet(bought.order_id)
    await rig.faults(webhookLossRate=0)
    return bought.order_id


async def _refund(rig: Rig) -> UUID:
    order_id = await _automatic(rig)
    headers = {**rig.admin, "Idempotency-Key": str(order_id)}
    await rig.ask("POST", f"/api/admin/orders/{order_id}/refunds", headers, json={"reason": "broken", "restock": True})
    await rig.becomes(order_id, "refunded")
    return order_id


SCENARIOS = (
    Scenario(
        name="automatic",
        run=_automatic,
        outcome=Outcome(status="confirmed", captured=PRICE_MINOR),
        roles=frozenset({"payments", "maintenance"}),
    ),
    Scenario(name="declined", run=_declined, outcome=Outcome(status="payment_failed"), roles=frozenset({"payments"})),
    Scenario(
        name="by_buyer",
        run=_by_buyer,
        outcome=Outcome(status="confirmed", captured=PRICE_MINOR),
        roles=frozenset({"api", "payments"}),
    ),
    Scenario(
        name="void",
        run=partial(_late, captured=False),
        outcome=Outcome(status="expired", voids=1),
        roles=frozenset({"payments"}),
    ),
    Scenario(
        name="late refund",
        run=partial(_late, captured=True),
        outcome=Outcome(status="expired", captured=PRICE_MINOR, refunded=PRICE_MINOR),
        roles=frozenset({"payments"}),
    ),
    Scenario(
        name="refund",
        run=_refund,
        outcome=Outcome(status="refunded", captured=PRICE_MINOR, refunded=PRICE_MINOR),
        roles=frozenset({"api", "payments"}),
    ),
)


@asynccontextmanager
async def rigged(folder: Path) -> AsyncIterator[Rig]:
    """Start a stack behind proxies, on servers of its own."""
    async with AsyncExitStack() as opened:
        servers = LocalPostgres(folder / "pg"), LocalValkey(folder / "valkey")
        for server in servers:
            opened.push_async_callback(server.stop)
        postgres_url, redis_url = [await server.start() for server in servers]
        receiver = await opened.enter_async_context(receiving())
        proxies = {
            "postgres": await opened.enter_async_context(Proxy(postgres_url, wire=PostgresWire)),
            "gateway": await opened.enter_async_context(Proxy()),
            "hooks": await opened.enter_async_context(Proxy(receiver.url)),
        }
        stack = StripeStack(
            folder / "stack",
            port=0,
            api=1,
            environment=QUICK,
            postgres_url=proxies["postgres"].url,
            redis_url=redis_url,
        )
        stack.gateway = proxies["gateway"].url
        await opened.enter_async_context(stack)
        proxies["gateway"].target = stack.gateway_url
        database = Database(make_settings(postgres_url, redis_url).postgres, name="steps")
        await database.open()
        hooks = proxies["hooks"].url
        await PostgresOutbox(database).add_endpoint("wh_a", hooks, SECRET, list(Event), targets_max=20)
        await database.close()
        connection = await asyncpg.connect(postgres_url)
        opened.push_async_callback(connection.close)
        yield Rig(
            stack=stack,
            proxies=proxies,
            http=await opened.enter_async_context(httpx.AsyncClient(base_url=stack.base_url, timeout=60)),
            provider=await opened.enter_async_context(
                httpx.AsyncClient(base_url=stack.gateway_url, timeout=10, headers={"Authorization": f"Bearer {KEY}"})
            ),
            database=connection,
            admin=await asyncio.to_thread(admin_headers, stack),
            buyers=iter(await asyncio.to_thread(buyer_headers, stack, 500)),
        )


async def steps_of(rig: Rig, scenario: Scenario) -> list[Step]:
    """Run a scenario without a fault; returns what was said, without what is said when nothing happens."""
    async with _heard(rig) as idle:
        await asyncio.sleep(IDLE_S)
    async with _heard(rig) as heard:
        await judged(rig, scenario)
    known = set(_steps(idle))
    said = [step for step in _steps(heard) if step not in known]
    return [step for step in dict.fromkeys(said) if scenario.roles.intersection(step.roles)]


@asynccontextmanager
async def _heard(rig: Rig) -> AsyncIterator[dict[str, list[tuple[bytes, bytes]]]]:
    heard: dict[str, list[tuple[bytes, bytes]]] = {name: [] for name in rig.proxies}
    for name, proxy in rig.proxies.items():
        proxy.heard = heard[name]
    try:
        yield heard
    finally:
        for proxy in rig.proxies.values():
            proxy.heard = None


def _steps(heard: dict[str, list[tuple[bytes, bytes]]]) -> Iterator[Step]:
    for began, says in heard["postgres"]:
        name = _NAME.search(began)
        if name is not None and says.strip(b"; ").upper() not in {b"BEGIN", b"COMMIT", b"ROLLBACK"}:
            yield Step("postgres", says, name[1])
    for where in ("gateway", "hooks"):
        for _, says in heard[where]:
            line = _LINE.match(says)
            if line is not None:
                yield Step(where, _marker(*line.groups()))


def _marker(method: bytes, head: bytes, id_: bytes | None, tail: bytes | None, query: bytes | None) -> bytes:
    """Return what a call says, without its ids."""
    if id_ and tail:
        return tail + b" HTTP"
    if id_:
        return method + b" " + head + id_[:4]
    return method + b" " + head + (tail or b"") + (b"?" if query else b" HTTP")


async def judged(rig: Rig, scenario: Scenario) -> None:
    """Run a scenario to its end, and compare what came of it."""
    async with asyncio.timeout(ENDED_S):
        order_id = await scenario.run(rig)
        await rig.quiet(order_id)
    outcome = await rig.outcome(order_id)
    assert outcome == scenario.outcome, f"{outcome} instead of {scenario.outcome}"


async def killed_at(rig: Rig, scenario: Scenario, step: Step, *, reply: bool) -> bool:
    """Run a scenario in which the process dies at a step; returns whether the step was met."""
    proxy = rig.proxies[step.where]
    trap = proxy.hold_reply(step.what, who=step.who) if reply else proxy.hold_request(step.what, who=step.who)
    running = asyncio.create_task(judged(rig, scenario))
    springing = asyncio.create_task(trap.sprung())
    try:
        await asyncio.wait([running, springing], return_when=asyncio.FIRST_COMPLETED)
        met = springing.done() and springing.exception() is None
        if met:
            await asyncio.gather(*(rig.stack.kill(role) for role in step.roles))
            trap.cut()
            await asyncio.gather(*(rig.stack.start_child(role, 0) for role in step.roles))
        await running
    finally:
        for task in (running, springing):
            task.cancel()
        await asyncio.gather(running, springing, return_exceptions=True)
        for one in rig.proxies.values():
            one.repair()
        await asyncio.gather(*(rig.stack.start_child(role, 0) for role in KILLED))
        await rig.faults(declineRate=0, webhookLossRate=0)
    return met
