"""Postgres keeps a plan while tables grow: the statements of a sale must not read whole tables, however small they were."""

from __future__ import annotations

import pytest

from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.orders import QUERIES, PostgresOrders
from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.domain.payments import ChargeOutcome, PaymentResult
from tests.conftest import add_buyers, add_product
from tests.support.accepting import propose

GROWING = ["buyer_units", "order_events", "orders", "payment_attempts", "procrastinate_jobs", "requests", "units"]

ROUNDS = 10
"""More than the five after which Postgres may keep a plan for all values."""


async def whole_reads(db):
    rows = await db.fetch("SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname = ANY($1)", GROWING)
    return {row["relname"]: row["seq_scan"] for row in rows}


async def sell(database, product, users, name):
    """Take orders of a few buyers from their acceptance to their payment, again and again."""
    acceptance, orders = PostgresAcceptance(database, order_due_s=10), PostgresOrders(database)
    payments = PostgresPayments(database)
    for number in range(ROUNDS):
        verdicts = await acceptance.accept([propose(product, user, key=f"{name} {number}") for user in users])
        ids = [verdict.accepted.order_id for verdict in verdicts]
        assert len(await acceptance.accepted(ids)) == len(await orders.get_many(ids)) == len(users)
        seen = await acceptance.look([propose(product, user, key=f"{name} {number}").request for user in users])
        assert [one.verdict.accepted.order_id for one in seen] == ids
        await orders.process(ids, payment_due_s=30)
        results = [
            PaymentResult(
                order_id=attempt.order_id,
                attempt=attempt.attempt,
                outcome=ChargeOutcome.CAPTURED if number % 2 else ChargeOutcome.DECLINED,
                reference="r",
                retry_after_s=1,
            )
            for attempt in await payments.begin(ids, due_s=30)
        ]
        assert len(await payments.finish(results)) == len(users)


async def test_the_orders_of_a_buyer_are_found_by_an_index(services, db):
    product = await add_product(services, allotment=100)
    users = sorted(await add_buyers(services, 4))
    await sell(services.database, product, users, "first")
    await db.execute("ANALYZE")
    async with db.transaction():
        await db.execute("SET LOCAL enable_seqscan = off")
        await db.execute(f"PREPARE mine AS {QUERIES['of_buyer'].text}")
        for before in ("NULL", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"):
            plan = await db.fetchval(f"EXPLAIN (FORMAT json) EXECUTE mine('{users[0]}', {before}, 5)")
            assert '"Index Name": "orders_of_buyer"' in plan
            assert '"Index Cond": "((user_id = ' in plan


@pytest.mark.parametrize("by_index", [True, False])
async def test_no_statement_of_a_sale_reads_a_whole_table(services, db, by_index):
    product = await add_product(services, allotment=100)
    users = sorted(await add_buyers(services, 3))
    await sell(services.database, product, users, "first")
    await db.execute("ANALYZE")
    database = Database(services.settings.postgres, name="plans", by_index=by_index)
    await database.open()
    before = await whole_reads(db)
    await sell(database, product, users, "then")
    # What a connection counted is there for others once it is closed.
    await database.close()
    read = {table for table, count in (await whole_reads(db)).items() if count > before[table]}
    if by_index:
        assert not read
    else:
        assert "orders" in read, "left to itself, Postgres reads small tables whole"
