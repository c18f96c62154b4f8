"""Every key of the gate with every wrong type and value: corrected, or reloaded within seconds; nothing lost, nothing oversold.

Each case is a product of its own with one sale in progress; the cases are generated, and run at the same time.
"""

import asyncio
import time

import pytest

from flashsale.domain.errors import SoldOut
from flashsale.domain.orders import OrderStatus
from flashsale.usecases.return_units import ReturnUnits
from tests.conftest import add_buyers, add_product
from tests.support.accepting import new_id
from tests.support.gates import admit, ask

ALLOTMENT, LIMIT = 8, 6

SOON_S, GIVEN_UP_S = 20.0, 30.0
"""Five seconds for all cases at once, if the machine does nothing else."""

WRONG_VALUES = {
    "negative": "-3",
    "one too few": "0",
    "huge": "99999999999999999999",
    "large": "9000000",
    "float": "1.5",
    "text": "many",
    "empty": "",
    "not a number": "nan",
    "infinite": "inf",
    "hexadecimal": "0x10",
    "with leading zeros": "007",
    "with a sign": "+7",
    "with a line": "7\n",
}
"""Also a value that stands for nothing, and one that only looks like a number."""

TYPES = {
    "string": lambda key: ("SET", key, "no such thing"),
    "list": lambda key: ("RPUSH", key, "no", "such"),
    "set": lambda key: ("SADD", key, "no", "such"),
    "zset": lambda key: ("ZADD", key, 1, "no such"),
    "hash": lambda key: ("HSET", key, "no such", "thing"),
}

KINDS = {
    "epoch": "string", "run": "string", "stock": "string", "leases": "zset", "lease": "hash", "keys": "hash",
    "buyers": "hash", "returns": "zset",
}  # fmt: skip
"""Rates are forgotten when foreign: tests/integration/test_gate.py."""


def generate():
    """Return (name, what is done to a product's keys), where `of` names a key and `seen` knows what is there."""
    for name, kind in KINDS.items():
        yield f"{name} missing", lambda of, seen, name=name: [("DEL", of(name))]
        for other, make in TYPES.items():
            if other != kind:
                yield (
                    f"{name} a {other}",
                    lambda of, seen, name=name, make=make: [("DEL", of(name)), make(of(name))],
                )
    for text, value in WRONG_VALUES.items():
        for name in ("epoch", "run", "stock"):
            yield f"{name} {text}", lambda of, seen, name=name, value=value: [("SET", of(name), value)]
        for name in ("lease", "keys", "buyers"):
            yield (
                f"{name} of ours {text}",
                lambda of, seen, name=name, value=value: [("HSET", of(name), seen[name], value)],
            )
            yield (
                f"{name} of others {text}",
                lambda of, seen, name=name, value=value: [("HSET", of(name), "somebody", value)],
            )
        yield (
            f"lease of ours for {text} units",
            lambda of, seen, value=value: [("HSET", of("lease"), seen["lease"], f"{value}:{seen['buyers']}:k")],
        )
        yield f"buyer at {text}", lambda of, seen, value=value: [("HSET", of("buyers"), seen["next"], value)]
    for score in ("-inf", "0", "1e15", "+inf"):
        lost = str(new_id())
        yield f"leases of ours at {score}", lambda of, seen, score=score: [("ZADD", of("leases"), score, seen["lease"])]
        yield f"leases of others at {score}", lambda of, seen, score=score: [("ZADD", of("leases"), score, "somebody")]
        yield (
            f"a lease of nobody at {score}",
            lambda of, seen, score=score: [
                ("ZADD", of("leases"), score, str(new_id())),
                ("HSET", of("lease"), str(new_id()), f"1:{new_id()}:"),
            ],
        )
        yield (
            f"a well-formed lease of nobody at {score}",
            lambda of, seen, score=score, lost=lost: [
                ("ZADD", of("leases"), score, lost),
                ("HSET", of("lease"), lost, f"1:{new_id()}:"),
            ],
        )
        yield f"returns at {score}", lambda of, seen, score=score: [("ZADD", of("returns"), score, "somebody")]
        yield (
            f"a return that is on its way at {score}",
            lambda of, seen, score=score: [("ZADD", of("returns"), score, seen["released"])],
        )
    yield "leases without ours", lambda of, seen: [("ZREM", of("leases"), seen["lease"])]
    yield "lease without ours", lambda of, seen: [("HDEL", of("lease"), seen["lease"])]
    yield "keys without ours", lambda of, seen: [("HDEL", of("keys"), seen["keys"])]
    yield "keys of the next buyer to ours", lambda of, seen: [("HSET", of("keys"), f"{seen['next']}:k", seen["lease"])]
    yield "everything gone in a moment", lambda of, seen: [("PEXPIRE", of(name), 1) for name in KINDS]


@pytest.fixture
def short_leases(monkeypatch):
    """Leases of 2 s, so that one whose owner is gone comes back while the test waits."""
    import tests.conftest

    made = tests.conftest.make_settings
    monkeypatch.setattr(tests.conftest, "make_settings", lambda *given: made(*given, gate={"lease_s": 2.0}))


async def meddle(services, redis, case, product):
    """Begin a sale and do what the case says; gives buyers who have not pressed yet, two more than there are units."""
    holder, owner, *buyers = await add_buyers(services, 2 + ALLOTMENT + 2)
    lost = await admit(services, product, holder, key="k", quantity=1)  # its process dies
    kept = await services.buy(ask(product, owner, quantity=2))
    await services.order_rows.end([kept.order_id], OrderStatus.FAILED)  # its return has not been carried
    seen = {
        "lease": str(lost.order_id), "keys": f"{holder}:k", "buyers": str(holder), "next": str(buyers[0]),
        "released": str(kept.order_id),
    }  # fmt: skip
    for command in case(lambda name: f"flashsale:{{{product.product_id}}}:{name}", seen):
        await redis.execute_command(*command)
    return buyers


async def sell(services, product, buyers):
    """Let buyers press until every unit is sold and the others are told so; returns how long that took."""
    began_s = time.monotonic()
    left = list(buyers)
    while time.monotonic() - began_s < GIVEN_UP_S:
        results = await asyncio.gather(
            *(services.buy(ask(product, user, key="k")) for user in left), return_exceptions=True
        )
        left = [user for user, one in zip(left, results, strict=True) if isinstance(one, Exception)]
        if all(isinstance(one, SoldOut) for one in results):
            break
        await asyncio.sleep(0.05)
    return time.monotonic() - began_s


async def test_whatever_a_key_holds_no_unit_is_lost_and_none_is_sold_twice(short_leases, services, jobs, redis, db):
    cases = dict(generate())

    async def maintain():
        while True:
            await jobs.reconcile()
            await asyncio.sleep(0.3)

    products = [await add_product(services, allotment=ALLOTMENT, limit_per_buyer=LIMIT) for _ in cases]
    buyers = [
        await meddle(services, redis, case, product) for case, product in zip(cases.values(), products, strict=True)
    ]
    maintaining = asyncio.create_task(maintain())
    try:
        took_s = await asyncio.gather(
            *(sell(services, product, users) for product, users in zip(products, buyers, strict=True))
        )
    finally:
        maintaining.cancel()
        await asyncio.gather(maintaining, return_exceptions=True)
    rows = await db.fetch("SELECT product_id, count(order_id) AS units FROM units GROUP BY product_id")
    sold = {row["product_id"]: row["units"] for row in rows}
    wrong = [
        (name, sold[product.product_id], seconds)
        for name, product, seconds in zip(cases, products, took_s, strict=True)
        if sold[product.product_id] != ALLOTMENT or seconds > SOON_S
    ]
    assert len(cases) > 150
    assert not wrong, wrong
    await ReturnUnits(services.books, services.gate, limit=1000)()
