"""What was once wrong and not reported, and what is right and was once reported; `test_corruption.py` generates the rest."""

import asyncio
import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.queries import Query
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.commands import open_audit
from flashsale.domain.payments import ChargeOutcome, LedgerEntry
from flashsale.domain.products import ProductChange
from flashsale.usecases.findings import format_findings
from tests.conftest import add_buyers, add_product, alembic, make_settings
from tests.corruption.sale import auditing, sound_sale
from tests.corruption.wrongs import UNGUARDED
from tests.support.accepting import accept_one
from tests.support.charging import Gateway, charging


@pytest.fixture
async def sold(settings):
    """A product with one confirmed, one declined and one queued order; nothing checks it afterwards."""
    async with open_services(settings) as services:
        product = await add_product(services, limit_per_buyer=2)
        users = await add_buyers(services, 3)
        orders = [await accept_one(services, product, user, key="k") for user in users]
        await services.order_rows.process(orders[:2], payment_due_s=30)
        await charging(services, Gateway(ChargeOutcome.CAPTURED))(orders[0])
        await charging(services, Gateway(ChargeOutcome.DECLINED))(orders[1])
        yield services


async def violated(database):
    results = await PostgresInvariants(database, timeout_s=60).check(overdue_s=3600, stuck_s=3600)
    return {result.invariant for result in results if result.violations}


async def test_a_sale_that_is_right_violates_nothing(sold):
    assert await violated(sold.database) == set()


def two_lines(sale, **fields):
    """Return the history with the first two lines of a 202 changed."""
    lines = copy.deepcopy(sale.history)
    for line in lines[:2]:
        line.update(fields)
    return lines


def order_of(sale, name, **fields):
    """Return the history with all lines about an order changed."""
    lines = copy.deepcopy(sale.history)
    for line in lines:
        if line.get("order_id") == str(sale.orders[name]) and line["kind"] == "buy":
            line.update(fields)
    return lines


def answers(sale, **fields):
    lines = copy.deepcopy(sale.history)
    for line in lines[:2]:
        line["answer"] |= fields
    return lines


def one_answer(sale):
    """Return the history with three requests that were answered with one order."""
    lines = copy.deepcopy(sale.history)
    for key in ("x", "y"):
        lines.append({**lines[0], "key": key})
    return lines


def unasked(sale):
    return [
        line for line in sale.history if line.get("order_id") != str(sale.orders["queued"]) or line["kind"] != "buy"
    ]


CONFIRMED = "(SELECT order_id FROM orders WHERE status = 'confirmed' ORDER BY order_id LIMIT 1)"

NAMED: dict[str, Any] = {
    "a 202 for 3 units whose order has 1": lambda sale: two_lines(sale, quantity=3),
    "a 202 for another product": lambda sale: two_lines(sale, product=2),
    "three buys answered with one order": one_answer,
    "an order that nobody asked for": unasked,
    "a 202 under another key than its order's": lambda sale: order_of(sale, "queued", key="other"),
    "a 202 that promised another price": lambda sale: answers(sale, price="1.00"),
    "a price other than the product's": "UPDATE orders SET unit_price_minor = 1 WHERE status = 'queued'",
    "a key that is another request's": f"UPDATE requests SET key = 'other' WHERE order_id = {CONFIRMED}",
    "a fingerprint of another request": f"UPDATE requests SET fingerprint = '0123456789abcdef' WHERE order_id = {CONFIRMED}",
    "queued for three days, and due soon": """
        UPDATE orders SET created_at = created_at - interval '3 days', updated_at = updated_at - interval '3 days'
        WHERE status = 'queued';
        UPDATE requests SET created_at = created_at - interval '3 days'
        WHERE order_id = (SELECT order_id FROM orders WHERE status = 'queued');
        UPDATE order_events SET at = at - interval '3 days'
        WHERE order_id = (SELECT order_id FROM orders WHERE status = 'queued');
    """,
    "confirmed before it was made": f"UPDATE order_events SET at = at - interval '1 hour' WHERE order_id = {CONFIRMED}",
    "a unit of an order that is not there": """
        UPDATE units SET order_id = gen_random_uuid() WHERE unit_no = (SELECT max(unit_no) FROM units WHERE product_id = 1)
        AND product_id = 1; UPDATE product_live SET free = free - 1 WHERE product_id = 1
    """,
    "a return of an order that is not there": "UPDATE gate_returns SET order_id = gen_random_uuid()",
}


async def test_what_the_audit_once_missed_is_reported(settings, redis, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.gate_audit.LAG_S", -1e9)
    async with sound_sale(settings) as sale:
        session = await asyncpg.connect(settings.postgres.url.get_secret_value())
        await session.execute(UNGUARDED)
        async with auditing(sale, session) as audit, session.transaction(isolation="repeatable_read"):
            assert await audit() == set()
            found: dict[str, object] = {}
            for name, wrong in NAMED.items():
                if isinstance(wrong, str):
                    inner = session.transaction()
                    await inner.start()
                    await session.execute(wrong)
                    found[name] = await audit()
                    await inner.rollback()
                else:
                    found[name] = await audit("history", [json.dumps(line) for line in wrong(sale)])
            twice = [line for line in sale.gateway.true_lines() if line["status"] == "captured"]
            sale.gateway.lines = [*sale.gateway.true_lines(), twice[0]]
            found["a key twice in the gateway's ledger"] = await audit("ledger")
            sale.gateway.lines = None
            [lease] = await redis.zrange("flashsale:{2}:leases", 0, -1)
            await redis.zadd("flashsale:{2}:leases", {lease: 1})
            found["a lease that nobody gives up"] = await audit("gate")
            monkeypatch.setattr("flashsale.usecases.gate_audit.RETURN_S", 0.0)
            found["a return that is never carried"] = await audit("gate")
            monkeypatch.undo()
            monkeypatch.setattr("flashsale.usecases.gate_audit.LAG_S", -1e9)
            await redis.flushall()
            found["an empty gate"] = await audit("gate")
        await session.close()
    assert {name for name, violations in found.items() if not violations} == set()


async def test_ordinary_work_of_the_merchant_violates_nothing(settings, redis, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.gate_audit.LAG_S", -1e9)
    async with sound_sale(settings) as sale:
        services = sale.services
        now = datetime.now(UTC)
        work = [
            {"limit_per_buyer": 1},
            {"starts_at": now + timedelta(hours=1)},
            {"starts_at": None, "ends_at": now - timedelta(hours=1)},
            {"ends_at": None, "name": "Another name"},
            {"paused": True},
            {"payment_window_s": 1},
        ]
        for product in sale.products:
            for fields in work:
                await services.administer.change(product.product_id, ProductChange(fields=fields))
                assert await violated(services.database) == set(), fields
            await cast("Database", services.database).fetch(
                Query(
                    name="x",
                    description="x",
                    text="UPDATE products SET price_minor = 1 WHERE product_id = $1",
                    reads=False,
                ),
                product.product_id,
            )
            await services.administer.set_allotment(product.product_id, 50)
            assert await violated(services.database) == set()
        session = await asyncpg.connect(settings.postgres.url.get_secret_value())
        async with auditing(sale, session) as audit:
            # The streams of before showed what was there before.
            lines = [json.dumps(line) for line in sale.history if not line.get("last")]
            assert await audit("history", lines) == set()
        await session.close()


async def test_orders_of_before_the_terms_were_kept_are_not_judged_by_them(sold, settings):
    url = settings.postgres.url.get_secret_value()
    for command in ("downgrade 0001", "upgrade head"):
        done = await asyncio.to_thread(alembic, url, *command.split())
        assert done.returncode == 0, done.stderr
    assert await violated(sold.database) == set()


async def test_the_audit_reads_whole_tables_also_where_a_sale_reads_by_index(sold, db):
    await db.execute("ANALYZE")
    before = await db.fetchval("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'order_events'")
    await violated(sold.database)
    await sold.database.close()
    after = await db.fetchval("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'order_events'")
    assert after > before
    await sold.database.open()


async def test_a_gate_that_drifts_is_found(sold, settings, redis, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.gate_audit.PAUSE_S", 0.5)
    monkeypatch.setattr("flashsale.usecases.gate_audit.LAG_S", 0.5 - settings.gate.lease_s)
    # Accepted behind the gate's back: it still counts the units of the two orders that hold some.
    async with open_audit(make_settings_without_gateway(settings)) as audit:
        results = {result.promise[:4]: result for result in await audit(history=None, overdue_s=3600, stuck_s=3600)}
        assert results["Gate"].violations == 1
        assert "I3   VIOLATED" in format_findings(list(results.values()))
    await sold.load_gate(1, seen_epoch=(await sold.books.epoch_and_free(1))[0])
    async with open_audit(make_settings_without_gateway(settings)) as audit:
        found = await audit(history=None, overdue_s=3600, stuck_s=3600)
    assert not any(result.violations for result in found)
    assert {result.invariant for result in found if result.skipped} == {"I4", "I6", "I7", "I9", "I14", "I18", "I20"}


class Books:
    """The gateway's ledger, which has captured each order's price; `meanwhile` happens before it is read."""

    def __init__(self, order_ids, meanwhile=None):
        self.order_ids = order_ids
        self.meanwhile = meanwhile

    async def ledger(self):
        if self.meanwhile is not None:
            await self.meanwhile()
        for order_id in self.order_ids:
            yield LedgerEntry(
                key=str(order_id),
                status="captured",
                amount_minor=99_999,
                currency="USD",
                refunded_minor=0,
                captures=1,
                reference=None,
            )


async def books_violated(settings, books):
    async with open_audit(make_settings_without_gateway(settings)) as audit:
        audit._gateway = books
        return {
            result.invariant for result in await audit(history=None, overdue_s=3600, stuck_s=3600) if result.violations
        } & {"I7"}


async def test_an_order_that_is_paid_while_the_books_are_read_is_no_violation(sold, settings, redis, db, monkeypatch):
    # The gate, which these orders went behind the back of, need not be waited for.
    monkeypatch.setattr("flashsale.usecases.gate_audit.LAG_S", -settings.gate.lease_s)
    by_status = "SELECT order_id FROM orders WHERE status = $1"
    both = [await db.fetchval(by_status, status) for status in ("confirmed", "queued")]
    assert await books_violated(settings, Books(both[:1])) == set()
    assert await books_violated(settings, Books(both)) == {"I7"}, "money was taken for an order that nobody pays yet"

    async def pay():
        await sold.order_rows.process(both[1:], payment_due_s=30)
        await charging(sold, Gateway(ChargeOutcome.CAPTURED))(both[1])

    assert await books_violated(settings, Books(both, pay)) == set()
    assert await books_violated(settings, Books(both[:1])) == {"I7"}, "a confirmed order that nobody paid"


def make_settings_without_gateway(settings):
    return make_settings(
        settings.postgres.url.get_secret_value(), settings.redis.url.get_secret_value(), payments={"gateway_url": ""}
    )
