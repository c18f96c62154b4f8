"""200 buyers press at once for 10 units, over real HTTP; and the same without the guard, which must oversell."""

import asyncio
from collections import Counter

import asyncpg
import httpx
import pytest

from flashsale.adapters.postgres.queries import sql_root
from flashsale.local.stack import Stack
from tests.support.api import FAST, admin_headers, audit, buyer_headers, final

BUY = "/api/order/buy-flash"
BUYERS, UNITS = 200, 10
BARRIER = 424_242
"""An advisory lock that nobody else takes."""
AT_BARRIER = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {BARRIER} AND NOT granted"


@pytest.fixture(scope="module")
def crowd(make_buyers):
    return make_buyers(BUYERS)


async def press(stack, crowd, product_id):
    """Send all buys at once; returns the answers."""
    limits = httpx.Limits(max_connections=BUYERS)
    async with httpx.AsyncClient(base_url=stack.base_url, limits=limits, timeout=60) as client:
        return await asyncio.gather(
            *(client.post(BUY, json={"productId": product_id}, headers=headers) for headers in crowd)
        )


async def oversell(database, product_id):
    """Return how many units are held by orders beyond those that exist."""
    held = await database.fetchval(
        "SELECT coalesce(sum(quantity), 0) FROM orders WHERE product_id = $1"
        " AND status NOT IN ('payment_failed', 'expired', 'cancelled', 'failed')",
        product_id,
    )
    return held - UNITS


@pytest.mark.parametrize("repetition", range(3))
async def test_two_hundred_buyers_on_ten_units(stack, api, crowd, product, database, repetition):
    product_id = await product(stock=UNITS)
    answers = await press(stack, crowd, product_id)
    assert Counter(answer.status_code for answer in answers) == {202: UNITS, 409: BUYERS - UNITS}
    assert await oversell(database, product_id) == 0
    for answer, headers in zip(answers, crowd, strict=True):
        if answer.status_code == 202:
            assert await final(api, answer.json()["orderId"], headers) == "confirmed"
    done = audit(stack)
    assert done.returncode == 0, done.stdout


async def test_with_a_gate_that_lets_everybody_in_the_database_still_sells_ten(stack, crowd, product, database):
    product_id = await product(stock=UNITS)
    await set_gate(stack, product_id, 1_000_000)
    answers = await press(stack, crowd, product_id)
    assert Counter(answer.status_code for answer in answers) == {202: UNITS, 409: BUYERS - UNITS}
    assert await oversell(database, product_id) == 0


def test_without_row_locks_two_transactions_that_meet_after_their_claims_oversell(tmp_path):
    """The same meeting with the guard and without it: if that did not oversell, the race would prove nothing."""
    accept, claim = (
        (sql_root() / f"functions/{name}.sql").read_text() for name in ("accept_orders_v5", "claim_units_v1")
    )
    unlocked = claim.replace("FOR NO KEY UPDATE SKIP LOCKED", "")
    assert unlocked.count("SKIP LOCKED") == claim.count("SKIP LOCKED") - 2
    unguarded = accept.replace("PERFORM change_stock_v2", "PERFORM 1; --")
    # No workers: they would find that an order does not own its units, and end it.
    # The transaction that comes first waits at the barrier until the other one has come.
    patient = {**FAST, "FLASHSALE_POSTGRES__LOCK_TIMEOUT_S": "9"}
    stack = Stack(tmp_path, port=0, orders=0, payments=0, environment=patient)
    asyncio.run(stack.start())
    try:
        # Before the functions are replaced: no command works on a schema that it does not know.
        headers, crowds = admin_headers(stack), [buyer_headers(stack, BUYERS) for _ in range(2)]
        kept = asyncio.run(meet(stack, headers, crowds[0], accept, claim))
        sold = asyncio.run(meet(stack, headers, crowds[1], unguarded, unlocked))
        asyncio.run(replace(stack, accept, claim))
        done = audit(stack)
    finally:
        asyncio.run(stack.stop())
    assert (kept, sold > 0) == (0, True)
    assert done.returncode == 1, "the audit sees it"
    assert "I2   VIOLATED" in done.stdout


async def replace(stack, *functions):
    """Install other versions of functions."""
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    for function in functions:
        await connection.execute(function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    await connection.close()


async def meet(stack, headers, crowd, accept, claim):
    """Let everybody through the gate, and the accept transactions of both processes wait for each other where each has
    chosen its units; gives the oversell."""
    waiting = accept.replace("_taken := 0;", f"PERFORM pg_advisory_xact_lock_shared({BARRIER}); _taken := 0;")
    assert waiting.count(str(BARRIER)) == 1
    await replace(stack, waiting, claim)
    async with (
        asyncpg.create_pool(stack.environment["FLASHSALE_POSTGRES__URL"], min_size=1, max_size=1) as pool,
        httpx.AsyncClient(base_url=stack.base_url) as client,
        pool.acquire() as database,
    ):
        body = {"name": "Phone", "price": "1", "stock": UNITS}
        product_id = (await client.post("/api/admin/products", json=body, headers=headers)).json()["id"]
        await set_gate(stack, product_id, 1_000_000)
        await database.execute(f"SELECT pg_advisory_lock({BARRIER})")
        async with asyncio.TaskGroup() as group:
            group.create_task(press(stack, crowd, product_id))
            async with asyncio.timeout(60):
                while await database.fetchval(AT_BARRIER) < len(stack.children["api"]):
                    await asyncio.sleep(0.01)
            await database.execute(f"SELECT pg_advisory_unlock({BARRIER})")
        return await oversell(database, product_id)


async def set_gate(stack, product_id, stock):
    from redis.asyncio import Redis

    client = Redis.from_url(stack.environment["FLASHSALE_REDIS__URL"])
    await client.set(f"flashsale:{{{product_id}}}:stock", stock)
    await client.aclose()
