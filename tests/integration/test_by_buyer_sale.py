"""Buyers who never pay, or too late, hold no unit back, and no money is kept for an order that ended."""

from __future__ import annotations

import asyncio
import sys

from tests.by_buyer.sale import Plan, selling
from tests.conftest import assert_invariants

PLAN = Plan(units=25, buyers=70, window_s=3, longest_s=60.0)


async def settled(db):
    """Wait until nothing more can come of any order or intent."""
    async with asyncio.timeout(60):
        while await db.fetchval("SELECT count(*) FROM payment_intents WHERE due_at IS NOT NULL") + await db.fetchval(
            "SELECT count(*) FROM orders WHERE due_at IS NOT NULL"
        ):
            await asyncio.sleep(0.2)


async def test_all_units_are_sold_and_late_money_goes_back(postgres_url, valkey, redis, db):
    async with selling(PLAN, postgres_url, valkey.url, webhook_duplicate_rate=0.2, webhook_loss_rate=0.1) as sale:
        await sale.run()
        await settled(db)
        await assert_invariants(sale.services.database)
    orders = dict(await db.fetch("SELECT status, count(*) FROM orders GROUP BY status"))
    intents = dict(await db.fetch("SELECT state, count(*) FROM payment_intents GROUP BY state"))
    sys.stdout.write(f"buyers {dict(sale.did)}\norders {orders}\nintents {intents}\n")
    assert orders["confirmed"] == intents["captured"] == PLAN.units
    assert set(orders) <= {"confirmed", "expired"}
    assert set(intents) <= {"captured", "cancelled", "refunded"}
    assert await db.fetchval("SELECT free FROM product_live") == 0
