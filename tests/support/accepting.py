"""Accept orders as the API does, without an API."""

import asyncio
import os
import time

from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.domain.requests import AcceptOutcome, BuyRequest, Proposal, order_id_at

Outcome = AcceptOutcome


def new_id():
    return order_id_at(time.time_ns() // 1_000_000, os.urandom(10))


def propose(product, user_id, *, quantity=1, key=None, epoch="now", order_id=None):
    return Proposal(
        order_id=order_id or new_id(),
        request=BuyRequest(user_id=user_id, product_id=product.product_id, quantity=quantity, key=key),
        epoch=product.epoch if epoch == "now" else epoch,
    )


def acceptance(services):
    return PostgresAcceptance(services.database, order_due_s=10)


async def accept(services, *proposals):
    return [verdict.outcome for verdict in await acceptance(services).accept(proposals)]


async def accept_one(services, product, user_id, **kwargs):
    proposal = propose(product, user_id, **kwargs)
    assert await accept(services, proposal) == [Outcome.ACCEPTED]
    return proposal.order_id


async def wait_for_lock(db, sessions=1):
    """Wait until so many other sessions wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(60):
        while await db.fetchval(waiting) < sessions:
            await asyncio.sleep(0.01)
            # Inside a transaction the view would stay as it was first seen.
            await db.execute("SELECT pg_stat_clear_snapshot()")
