"""The faults: what is broken in the middle of a sale. One function each; CELLS is the matrix."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from tests.faults.scene import Cell, Scene, wait_for_postgres
from tests.payments.stack import StripeStack

if TYPE_CHECKING:
    from redis.asyncio import Redis

LEASE_S, PAYMENT_DUE_S = 10.0, 18.0
"""The defaults: a lease's deadline; the time after which a payment is taken from its worker (time-out and due time)."""

UNREACHABLE_S = 20.0
GATEWAY_FAULT_S = 5.0
LISTEN_LOSSES = 3
AWAY_S = 60.0

STRIPE = {
    "FLASHSALE_PAYMENTS__BUDGET_PER_S": "200",
    "FLASHSALE_SIMULATOR__RATE_LIMIT_PER_S": "0",
    "FLASHSALE_SIMULATOR__ACCOUNT_LIMIT_PER_S": "0",
}
"""A provider in Stripe's dialect that is fast enough for a sale of thousands within the matrix' deadline."""

PROBED = {"FLASHSALE_PAYMENTS__BREAKER_PAUSE_S": "0.1", "FLASHSALE_PAYMENTS__BREAKER_PAUSE_MAX_S": "0.2"}
"""A breaker that probes often: of a provider that answers nothing it lets one call through after each pause."""

END_LISTENERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'flashsale-%-feed'"
)


async def nothing(scene: Scene) -> None:
    """Leave the sale alone: the control."""
    await scene.mid_sale()


async def _kill(scene: Scene, *processes: tuple[str, int]) -> None:
    await asyncio.gather(*(scene.stack.kill(role, index) for role, index in processes))
    await asyncio.gather(*(scene.start_again(role, index) for role, index in processes))
    scene.repaired()


async def api_killed(scene: Scene) -> None:
    """SIGKILL one API process."""
    await scene.mid_sale()
    await _kill(scene, ("api", scene.random.randrange(2)))


async def all_apis_killed(scene: Scene) -> None:
    """SIGKILL every API process at once."""
    await scene.mid_sale()
    await _kill(scene, ("api", 0), ("api", 1))


async def order_worker_killed(scene: Scene) -> None:
    """SIGKILL the order worker."""
    await scene.mid_sale()
    await _kill(scene, ("orders", 0))


async def payment_worker_killed(scene: Scene) -> None:
    """SIGKILL a payment worker while it holds payments at the gateway."""
    await scene.in_payment()
    await _kill(scene, ("payments", scene.random.randrange(2)))


async def all_workers_killed(scene: Scene) -> None:
    """SIGKILL every worker while payments are in flight."""
    await scene.in_payment()
    await _kill(scene, ("orders", 0), ("payments", 0), ("payments", 1), ("maintenance", 0))


async def _pause(scene: Scene, role: str, index: int, seconds: float) -> None:
    child = scene.stack.children[role][index]
    child.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        child.send(signal.SIGCONT)
    scene.repaired()


async def api_zombie(scene: Scene) -> None:
    """Stop an API process for longer than a lease lives, then let it go on."""
    await scene.mid_sale()
    await _pause(scene, "api", scene.random.randrange(2), LEASE_S + 3)


async def payment_zombie(scene: Scene) -> None:
    """Stop a payment worker until its payments are taken from it, then let it go on."""
    await scene.in_payment()
    await _pause(scene, "payments", scene.random.randrange(2), PAYMENT_DUE_S + 4)


async def _kill_valkey(scene: Scene, *, wipe: bool) -> None:
    await scene.mid_sale()
    valkey = scene.stack.valkey
    assert valkey is not None
    await valkey.kill()
    if wipe:
        valkey.wipe()
    await asyncio.sleep(scene.random.uniform(0.1, 2))
    await valkey.start()
    scene.repaired()
    await scene.until_loaded()


async def valkey_rewound(scene: Scene) -> None:
    """SIGKILL Valkey and start it on a snapshot from the beginning of the sale."""
    async with scene.redis() as redis:
        await redis.save()
    await _kill_valkey(scene, wipe=False)


async def valkey_wiped(scene: Scene) -> None:
    """SIGKILL Valkey and start it empty."""
    await _kill_valkey(scene, wipe=True)


async def valkey_flushed(scene: Scene) -> None:
    """FLUSHALL."""
    await scene.mid_sale()
    async with scene.redis() as redis:
        await redis.flushall()
    scene.repaired()
    await scene.until_loaded()


async def stock_overwritten(scene: Scene) -> None:
    """SET the gate's stock to a random number."""
    await scene.mid_sale()
    async with scene.redis() as redis:
        stock = scene.random.choice([0, scene.random.randrange(1, 5_000), 10**7])
        await redis.set(f"flashsale:{{{scene.run.product_id}}}:stock", stock)
    scene.repaired()


async def valkey_unreachable(scene: Scene) -> None:
    """Stop Valkey for 20 s: connections stay open and nothing is answered."""
    await scene.mid_sale()
    valkey = scene.stack.valkey
    assert valkey is not None
    assert valkey.child is not None
    valkey.child.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(UNREACHABLE_S)
    finally:
        valkey.child.send(signal.SIGCONT)
    scene.repaired()
    await scene.until_loaded()


async def postgres_killed(scene: Scene) -> None:
    """SIGKILL Postgres with all its processes, and start it again."""
    await scene.mid_sale()
    postgres = scene.stack.postgres
    assert postgres is not None
    await postgres.kill()
    await asyncio.sleep(scene.random.uniform(0.1, 2))
    await postgres.start()
    scene.repaired()


async def listeners_lost(scene: Scene) -> None:
    """End every LISTEN connection, three times."""
    await scene.mid_sale()
    connection = await wait_for_postgres(scene.stack)
    try:
        for _ in range(LISTEN_LOSSES):
            async with asyncio.timeout(60):
                # Those of the time before may still be on their way back.
                while not await connection.fetchval(END_LISTENERS):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(scene.random.uniform(0.3, 1))
    finally:
        await connection.close()


async def _gateway(scene: Scene, **rates: float) -> None:
    await scene.in_payment()
    await scene.gateway_faults(**rates)
    await asyncio.sleep(GATEWAY_FAULT_S)
    await scene.gateway_faults(**dict.fromkeys(rates, 0.0))
    scene.repaired()


async def gateway_hangs(scene: Scene) -> None:
    """The gateway answers nobody for 5 s, and those calls never."""
    await _gateway(scene, hangRate=1)


async def gateway_fails_although_charged(scene: Scene) -> None:
    """The gateway charges and answers 500, for 5 s."""
    await _gateway(scene, chargedErrorRate=1)


async def gateway_drops_answers(scene: Scene) -> None:
    """The gateway charges and hangs up, for 5 s."""
    await _gateway(scene, dropRate=1)


async def gateway_killed(scene: Scene) -> None:
    """SIGKILL the gateway with charges in flight, and start it on its ledger."""
    await scene.in_payment()
    await _kill(scene, ("simulator", 0))


async def provider_away(scene: Scene) -> None:
    """Stripe answers nobody for a minute and sends no webhook."""
    await scene.in_payment()
    await scene.gateway_faults(outageS=AWAY_S)
    await asyncio.sleep(AWAY_S)
    scene.repaired()


async def only_webhooks_tell(scene: Scene) -> None:
    """Stripe carries calls out and never answers them until the end of the sale: only webhooks and look-ups tell."""
    await scene.gateway_faults(dropRate=1)
    await scene.mid_sale()


async def adversary(scene: Scene) -> None:
    """Somebody writes into Valkey during the whole sale: random, old, wrong and no values (I21)."""
    await scene.until_claimed(1)
    units = scene.run.sale.units
    remembered: dict[bytes, bytes] = {}
    async with scene.redis() as redis:
        until_s = time.monotonic() + 8
        while time.monotonic() < until_s:
            try:
                await _meddle(scene, redis, remembered, units)
            except RedisError:
                # A wrong type for the command: the adversary does not care.
                continue
            await asyncio.sleep(scene.random.uniform(0.01, 0.15))
    scene.repaired()
    await scene.until_loaded()


async def _meddle(scene: Scene, redis: Redis, remembered: dict[bytes, bytes], units: int) -> None:
    draw = scene.random
    keys = sorted([key async for key in redis.scan_iter("flashsale:*")])
    deed = draw.choice(("overwrite", "stock", "number", "hash", "delete", "flush", "remember", "rewind"))
    key = draw.choice(keys) if keys else b"flashsale:{1}:stock"
    if deed == "stock":
        stock = draw.choice([draw.randrange(-units, 3 * units), "", "x", "1e9", "9" * 30, "0x10", " 5"])
        await redis.set(f"flashsale:{{{scene.run.product_id}}}:stock", stock)
    elif deed == "number":
        await redis.incrby(f"flashsale:{{{scene.run.product_id}}}:stock", draw.randrange(1, units))
    elif deed == "overwrite":
        await redis.set(key, draw.randrange(1000))
    elif deed == "hash":
        await redis.delete(key)
        await redis.hset(key, mapping={"field": "value", str(draw.random()): "1:x:y"})
    elif deed == "delete":
        await redis.delete(key)
    elif deed == "flush":
        await redis.flushall()
    else:
        await _rewind(redis, keys, remembered, remember=deed == "remember")


async def _rewind(redis: Redis, keys: list[bytes], remembered: dict[bytes, bytes], *, remember: bool) -> None:
    if remember:
        remembered.update({key: await redis.dump(key) or b"" for key in keys})
        return
    for key, value in remembered.items():
        if value:
            await redis.restore(key, 0, value, replace=True)


async def everything_replaced(scene: Scene) -> None:
    """Replace every process by a new one, one after the other: start it, then SIGTERM the old one."""
    await scene.mid_sale()
    for role, index in (("api", 0), ("api", 1), ("orders", 0), ("payments", 0), ("payments", 1), ("maintenance", 0)):
        await scene.stack.roll(role, index)
    scene.repaired()


CELLS = [
    Cell(name="no fault", disturb=nothing),
    Cell(name="one API process killed", disturb=api_killed),
    Cell(name="all API processes killed", disturb=all_apis_killed),
    Cell(name="order worker killed", disturb=order_worker_killed),
    Cell(name="payment worker killed", disturb=payment_worker_killed),
    Cell(name="all workers killed", disturb=all_workers_killed),
    Cell(name="API process stopped and resumed", disturb=api_zombie),
    Cell(name="payment worker stopped and resumed", disturb=payment_zombie),
    Cell(name="Valkey killed, old snapshot", disturb=valkey_rewound),
    Cell(name="Valkey killed, data gone", disturb=valkey_wiped),
    Cell(name="Valkey flushed", disturb=valkey_flushed),
    Cell(name="gate stock overwritten", disturb=stock_overwritten),
    Cell(name="Valkey unreachable for 20 s", disturb=valkey_unreachable),
    Cell(name="Postgres killed", disturb=postgres_killed),
    Cell(name="LISTEN connections lost", disturb=listeners_lost),
    Cell(name="gateway hangs", disturb=gateway_hangs),
    Cell(name="gateway 500 although charged", disturb=gateway_fails_although_charged),
    Cell(name="gateway drops answers", disturb=gateway_drops_answers),
    Cell(name="gateway killed", disturb=gateway_killed),
    Cell(name="Stripe away for a minute", disturb=provider_away, stack=StripeStack, environment=STRIPE),
    Cell(
        name="Stripe tells by webhooks only",
        disturb=only_webhooks_tell,
        stack=StripeStack,
        environment={**STRIPE, **PROBED},
        # Its breaker lets one call through after each pause, 5 to 10 calls/s: 993 of 1,000 units took 417 s.
        deadline_s=900,
    ),
    Cell(name="every process replaced", disturb=everything_replaced, unnoticed=True),
    Cell(name="adversary in Valkey", disturb=adversary),
]
