"""A database of an earlier release, with orders in every state, is upgraded while an older process works on it.

Everything then ends right under processes of this release: `flashsale up` on older data is this upgrade.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import asyncpg
import httpx
import pytest

from flashsale.adapters.postgres.schema import expected
from flashsale.adapters.redis.gate import RedisGate
from flashsale.bootstrap.api import open_services
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.products import PaymentMode, Product
from flashsale.domain.requests import BuyRequest
from flashsale.local.stack import Stack
from flashsale.simulator.ledger import derived_id
from tests.conftest import ROOT, alembic, assert_invariants, make_settings
from tests.support.api import FAST, audit, buyer_headers
from tests.support.charging import Gateway, charging
from tests.support.refunding import Provider, refunding

PRICE_MINOR = 99_999
DUE = timedelta(seconds=8)
FINAL = {"confirmed", "payment_failed", "expired", "cancelled", "failed", "refunded"}


class OldProcess:
    """What API processes and workers of a release did, by the functions that they called: the newest of that time."""

    def __init__(self, url):
        self.url = url
        self.ledger = []

    async def __aenter__(self):
        self.db = await asyncpg.connect(self.url)
        rows = await self.db.fetch("SELECT proname FROM pg_proc WHERE proname ~ '_v[0-9]+$'")
        self.newest = dict(sorted(row["proname"].rsplit("_", 1) for row in rows))
        return self

    def of(self, name):
        return f"{name}_{self.newest[name]}"

    async def __aexit__(self, *_):
        await self.db.close()

    async def product(self, mode, window_s):
        return await self.db.fetchval(
            "SELECT create_product_v1('Phone', $1, 'USD', 2000, $2, $3, 5, NULL, NULL)", PRICE_MINOR, mode, window_s
        )

    async def buyers(self, count):
        ids = [uuid.uuid4() for _ in range(count)]
        await self.db.execute(
            "INSERT INTO users (user_id, name, email) SELECT u, 'buyer', u || '@example.com' FROM unnest($1::uuid[]) AS u",
            ids,
        )
        return ids

    async def accept(self, product_id, users, quantity=1):
        """Accept an order for each user; returns their ids."""
        users = sorted(users)
        ids = [_uuid7() for _ in users]
        keys = [str(one) for one in ids]
        rows = await self.db.fetch(
            f"SELECT * FROM {self.of('accept_orders')}($1, $2, $3, $4, $5, $6, $7, $8)",
            ids,
            users,
            [product_id] * len(users),
            [quantity] * len(users),
            keys,
            [
                BuyRequest(user_id=user, product_id=product_id, quantity=quantity, key=key).fingerprint()
                for user, key in zip(users, keys, strict=True)
            ],
            [None] * len(users),
            timedelta(seconds=5),
        )
        assert {row["outcome"] for row in rows} == {"accepted"}
        return ids

    async def process(self, ids):
        await self.db.fetch(f"SELECT * FROM {self.of('process_orders')}($1, $2)", sorted(ids), DUE)

    async def begin(self, ids):
        begun = await self.db.fetch(f"SELECT * FROM {self.of('begin_payments')}($1, $2)", sorted(ids), DUE)
        return {row["order_id"]: row for row in begun}

    async def end(self, ids, status):
        await self.db.fetch(f"SELECT {self.of('end_orders')}($1, $2)", sorted(ids), status)

    async def finish(self, begun, outcome):
        rows = sorted(begun.values(), key=lambda row: row["order_id"])
        await self.db.fetch(
            f"SELECT * FROM {self.of('finish_payments')}($1, $2, $3, $4, $5)",
            [row["order_id"] for row in rows],
            [row["attempt"] for row in rows],
            [outcome] * len(rows),
            [derived_id("ch", row["gateway_key"]) if outcome == "captured" else None for row in rows],
            [timedelta(seconds=1)] * len(rows),
        )

    def charge(self, begun, op=None, **fields):
        """Write into the gateway's ledger what became of these keys."""
        for row in begun.values():
            opened = {"amountMinor": row["amount_minor"], "currency": row["currency"], "reference": None}
            self.ledger.append({"op": "open", "key": row["gateway_key"], **opened})
            if op is not None:
                self.ledger.append({"op": op, "key": row["gateway_key"], "requests": 1, **fields})

    async def work(self, product_id, stopping):
        """Accept and process until told to stop, as a process that is not replaced yet; lost conflicts are repeated."""
        made = 0
        while not stopping.is_set():
            with suppress(asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                ids = await self.accept(product_id, await self.buyers(2))
                await self.process(ids[:1])
                made += 1
            await asyncio.sleep(0.05)  # its buyers come at this pace
        return made


def _uuid7():
    import time

    value = uuid.uuid4().int & ((1 << 74) - 1)
    return uuid.UUID(
        int=(int(time.time() * 1000) << 80) | (7 << 76) | (value & ((1 << 76) - 1)) & ~(3 << 62) | (2 << 62)
    )


async def orders_in_every_state(old, automatic, by_buyer):
    """Make two orders for each state and each thing that a process may have left half done; returns them by name."""
    made = {}

    async def add(name, product_id=automatic, *, processed=True):
        made[name] = await old.accept(product_id, await old.buyers(2))
        if processed:
            await old.process(made[name])
        return made[name]

    await add("queued", processed=False)
    lost = await add("queued, its job lost", processed=False)
    await old.db.execute(
        "DELETE FROM procrastinate_jobs WHERE id IN (SELECT job_id FROM orders WHERE order_id = ANY ($1))", lost
    )
    await add("awaiting_payment")
    await old.begin(await add("processing_payment, never sent"))
    old.charge(await old.begin(await add("processing_payment, charged")), "capture")
    begun = await old.begin(await add("payment_unknown, charged"))
    old.charge(begun, "capture")
    await old.finish(begun, "unknown")
    begun = await old.begin(await add("payment_unknown, pending"))
    old.charge(begun)
    await old.finish(begun, "unknown")
    begun = await old.begin(await add("confirmed"))
    old.charge(begun, "capture")
    await old.finish(begun, "captured")
    begun = await old.begin(await add("payment_failed"))
    old.charge(begun, "decline", code="card_declined")
    await old.finish(begun, "declined")
    await old.end(await add("failed", processed=False), "failed")
    await add("waits for its buyer", by_buyer)
    await old.end(await add("cancelled", by_buyer), "cancelled")
    for order_id in await add("paid by its buyer", by_buyer):
        assert await old.db.fetchval("SELECT request_payment_v1($1, $2)", order_id, DUE)
    expired = await add("expired", by_buyer)
    await old.db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = ANY ($1)", expired)
    await old.end(expired, "expired")
    await old.db.fetch("SELECT * FROM void_requests_v1($1)", [_uuid7()])
    return made


async def load_with_leases(old, settings, product_id, redis):
    """Load the gate under the old epoch and take leases that nobody decides."""
    row = await old.db.fetchrow("SELECT epoch, free FROM begin_gate_load_v1($1, 1)", product_id)
    gate = RedisGate(settings.redis, settings.gate)
    assert await gate.load(product_id, epoch=row["epoch"], stock=row["free"])
    product = Product(
        product_id=product_id,
        name="Phone",
        price=Money(minor=PRICE_MINOR, currency="USD"),
        allotment=2000,
        unmade=0,
        payment_mode=PaymentMode.AUTOMATIC,
        payment_window_s=300,
        limit_per_buyer=5,
        starts_at=None,
        ends_at=None,
        paused=False,
        epoch=row["epoch"],
        created_at=None,
        updated_at=None,
    )
    for user_id in await old.buyers(3):
        order_id = _uuid7()
        request = BuyRequest(user_id=user_id, product_id=product_id, quantity=2, key=str(order_id))
        assert (await gate.admit(product, order_id, request)).admission == "admitted"
    assert await redis.zcard(f"flashsale:{{{product_id}}}:leases") == 3
    await gate.close()


@pytest.fixture
async def first_release(empty_url):
    done = alembic(empty_url, "upgrade", "0001")
    assert done.returncode == 0, done.stderr
    async with OldProcess(empty_url) as old:
        yield old


async def test_open_orders_of_the_first_release_end_right_after_an_upgrade_in_mid_sale(
    first_release, empty_url, valkey, redis, tmp_path
):
    old = first_release
    automatic, by_buyer = await old.product("automatic", 300), await old.product("by_buyer", 3)
    made = await orders_in_every_state(old, automatic, by_buyer)
    await load_with_leases(old, make_settings(empty_url, valkey.url), automatic, redis)
    (tmp_path / "gateway-ledger.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in old.ledger))

    stopping = asyncio.Event()
    async with OldProcess(empty_url) as busy:
        working = asyncio.create_task(busy.work(automatic, stopping))
        async with Stack(
            tmp_path, port=0, api=1, environment=FAST, postgres_url=empty_url, redis_url=valkey.url
        ) as stack:
            stopping.set()
            assert await working > 0, "the old process worked together with the new ones"
            async with asyncio.timeout(60):
                while set(states := await statuses(old)) - FINAL:
                    await asyncio.sleep(0.1)
            async with httpx.AsyncClient(base_url=stack.base_url, timeout=30) as api:
                async with asyncio.timeout(60):
                    while (health := (await api.get("/health/ready")).json())["gate"] != "loaded":
                        await asyncio.sleep(0.1)
                assert health["ready"]
                for buyer in buyer_headers(stack, 2):
                    for product_id in (automatic, by_buyer):
                        bought = await api.post("/api/order/buy-flash", json={"productId": product_id}, headers=buyer)
                        assert bought.status_code == 202, bought.text
            checked = audit(stack)
            assert checked.returncode == 0, checked.stdout
    ends = {
        name: {states_of[order_id] for order_id in ids}
        for name, ids in made.items()
        for states_of in [await by_id(old)]
    }
    for name in ("payment_failed", "failed", "cancelled", "expired"):
        assert ends[name] == {name}
    assert ends["waits for its buyer"] == {"expired"}
    for name in ends.keys() - {"payment_failed", "failed", "cancelled", "expired", "waits for its buyer"}:
        assert ends[name] == {"confirmed"}, name
    assert states


async def refunds_intents_and_messages(old, automatic, by_buyer):
    """Make what releases since revision 0019 may have left half done; returns orders by what becomes of them."""
    await old.db.execute(
        "INSERT INTO outbox_targets (target_id, url, secret, events, created_at)"
        " VALUES ('wh_a', 'https://shop.example', 'whsec_AA==', $1, now() - interval '1 hour')",
        ["order.confirmed", "order.refunded", "order.expired", "stock.sold_out"],
    )
    made = {"refunded": await old.accept(automatic, await old.buyers(2)), "in part": None, "expired": None}
    made["in part"] = await old.accept(automatic, await old.buyers(2))
    paid = [*made["refunded"], *made["in part"]]
    await old.process(paid)
    await old.finish(await old.begin(paid), "captured")
    request = "SELECT result FROM request_refund_v1($1, $2, true, 'broken', $3, $4)"
    for order_id in made["refunded"]:
        assert await old.db.fetchval(request, order_id, None, uuid.uuid4(), DUE) == "requested"
    for order_id in made["in part"]:
        request = request.replace("true", "false")
        assert await old.db.fetchval(request, order_id, 100, uuid.uuid4(), DUE) == "requested"
        await old.db.fetch("SELECT * FROM begin_refund_v1($1, $2)", order_id, DUE)
        noted = "SELECT note_refund_v1($1, $2, $3, 'succeeded', 100, 'USD', NULL, NULL)"
        assert await old.db.fetchval(noted, order_id, f"{order_id}:refund:1", f"re_{order_id}") == "noted"
    made["expired"] = await old.accept(by_buyer, await old.buyers(2))
    await old.process(made["expired"])
    for order_id in made["expired"]:
        await old.db.fetch("SELECT * FROM begin_intent_v1($1, 'stripe', $2)", order_id, DUE)
    opened = "SELECT * FROM open_intent_v1($1, 1, $2, $3, 'USD', 'secret', NULL, $4)"
    await old.db.fetch(opened, made["expired"][0], f"pi_{made['expired'][0]}", PRICE_MINOR, DUE)
    event = "SELECT take_webhook_v1('stripe', 'evt_1', 'payment_intent.created', $1, $2)"
    assert await old.db.fetchval(event, f"pi_{made['expired'][0]}", DUE)
    return made


async def end_everything(services, old):
    """Do by the use cases of this release what its workers do, until every order is final."""
    gateway = Gateway(*[ChargeOutcome.CAPTURED] * 5000)
    charge, refund = charging(services, gateway), refunding(services, Provider())
    async with asyncio.timeout(60):
        while rows := await old.db.fetch(
            "SELECT order_id, status, payment_mode = 'by_buyer' AND pay_requested_at IS NULL AS waits FROM orders"
            " WHERE status <> ALL ($1)", list(FINAL)
        ):  # fmt: skip
            ids = [row["order_id"] for row in rows]
            await old.db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = ANY ($1)", ids)
            of = {
                status: [row["order_id"] for row in rows if row["status"] == status] for status in map(str, OrderStatus)
            }
            await services.order_rows.process(sorted(of["queued"] + of["processing"]), payment_due_s=30)
            waiting = [row["order_id"] for row in rows if row["status"] == "awaiting_payment" and row["waits"]]
            await services.order_rows.end(sorted(waiting), OrderStatus.EXPIRED)
            for status in ("awaiting_payment", "processing_payment", "payment_unknown"):
                for order_id in set(of[status]) - set(waiting):
                    await charge(order_id)
            for order_id in of["refund_pending"]:
                await refund(order_id)


@pytest.mark.parametrize("revision", ["0015", "0021"])
async def test_open_orders_of_a_later_release_end_right_after_an_upgrade_in_mid_sale(
    empty_url, valkey, redis, revision
):
    done = alembic(empty_url, "upgrade", revision)
    assert done.returncode == 0, done.stderr
    async with OldProcess(empty_url) as old, OldProcess(empty_url) as busy:
        automatic, by_buyer = await old.product("automatic", 300), await old.product("by_buyer", 3)
        made = await orders_in_every_state(old, automatic, by_buyer)
        later = await refunds_intents_and_messages(old, automatic, by_buyer) if revision > "0019" else {}
        stopping = asyncio.Event()
        working = asyncio.create_task(busy.work(automatic, stopping))
        done = await asyncio.to_thread(alembic, empty_url, "upgrade", "head")
        assert done.returncode == 0, done.stderr
        # The seller goes on under the new schema.
        upgraded = await old.db.fetchval("SELECT count(*) FROM orders")
        async with asyncio.timeout(60):
            while await old.db.fetchval("SELECT count(*) FROM orders") < upgraded + 4:
                await asyncio.sleep(0.05)
        stopping.set()
        assert await working > 0
        async with open_services(make_settings(empty_url, valkey.url), name="test") as services:
            await end_everything(services, old)
            await assert_invariants(services.database)
        states = await by_id(old)
        parts = {one: await old.db.fetchval("SELECT refunded_minor FROM orders WHERE order_id = $1", one)
                 for one in later.get("in part", ())}  # fmt: skip
    ended = {"payment_failed", "failed", "cancelled", "expired"}
    for name, ids in made.items():
        expected = name if name in ended else "expired" if name == "waits for its buyer" else "confirmed"
        assert {states[order_id] for order_id in ids} == {expected}, name
    for name, expected in {"refunded": "refunded", "in part": "confirmed", "expired": "expired"}.items():
        assert {states[order_id] for order_id in later.get(name, ())} <= {expected}, name
    assert set(parts.values()) <= {100}


async def statuses(old):
    return [row["status"] for row in await old.db.fetch("SELECT DISTINCT status FROM orders")]


async def by_id(old):
    return {row["order_id"]: row["status"] for row in await old.db.fetch("SELECT order_id, status FROM orders")}


HELD = "nothing was changed, because a long transaction"


@asynccontextmanager
async def migrating(url, **settings):
    """Run a migration with these settings; yields its process."""
    given = {f"FLASHSALE_POSTGRES__{name.upper()}": value for name, value in {"url": url, **settings}.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "upgrade", "head"),
        env={**os.environ, **given},
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_migration_gives_up_on_a_table_that_is_in_use_or_tries_again_after_the_transaction(postgres_url, db):
    done = await asyncio.to_thread(alembic, postgres_url, "downgrade", "0032")
    assert done.returncode == 0, done.stderr
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass)"
    changing = db.transaction()
    await changing.start()
    await db.execute("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
    async with migrating(postgres_url, lock_timeout_s="1", migration_tries="1") as process:
        said = asyncio.create_task(process.stderr.read())
        while not said.done() and not await db.fetchval(waits):
            await asyncio.sleep(0.02)
        # As the trigger of a status does next. A migration that had this table would wait for us, and we for it.
        await db.execute("SET LOCAL lock_timeout = 500; LOCK TABLE outbox, refunds IN ROW EXCLUSIVE MODE")
        (line,) = (await said).decode().splitlines()
        assert line.startswith(f"Try 1 of 1: {HELD}")
        assert await process.wait() == 1
    assert await db.fetchval("SELECT version_num FROM alembic_version") == "0032"
    often = {"lock_timeout_s": "0.1", "migration_tries": "20", "migration_pause_s": "0.01"}
    async with migrating(postgres_url, **often) as process:
        lines = [await process.stderr.readline() for _ in range(2)]
        await changing.rollback()
        lines += (await process.stderr.read()).splitlines()
        assert await process.wait() == 0, lines
    for number, line in enumerate(lines, 1):
        assert line.decode().startswith(f"Try {number} of 20: {HELD}"), line
    assert await db.fetchval("SELECT version_num FROM alembic_version") == expected().revision
