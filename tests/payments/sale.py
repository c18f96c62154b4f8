"""The sale: real processes, a provider that misbehaves, payment workers that are killed; and its verdict."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from flashsale.demo.sale import Sale, open_sale
from flashsale.domain.money import Money
from tests.by_buyer.sale import KEY
from tests.payments.stack import StripeStack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flashsale.demo.sale import SaleRun
    from flashsale.local.stack import Stack

KILLS = (0.25, 0.6)
"""Fractions of the units that are confirmed when every payment worker is killed."""

RESTART_S = 0.5
QUIET_S = 240.0
"""Maximum time after the last order in which refunds, intents and webhooks end."""

MISBEHAVIOUR = {
    "LATENCY_MEAN_S": "1",
    "DECLINE_RATE": "0.1",
    "HANG_RATE": "0.03",
    "CHARGED_ERROR_RATE": "0.03",
    "WEBHOOK_DUPLICATE_RATE": "0.2",
    "WEBHOOK_LOSS_RATE": "0.1",
    "WEBHOOK_REORDER_RATE": "0.2",
    "WEBHOOK_DELAY_MEAN_S": "1",
}

OURS = """
WITH captures AS (
    SELECT a.order_id, a.reference, a.amount_minor FROM payment_attempts AS a WHERE a.outcome = 'captured'
    UNION
    SELECT i.order_id, i.reference, i.amount_minor FROM payment_intents AS i WHERE i.state IN ('captured', 'refunded')
),
refunds AS (
    SELECT r.order_id, r.amount_minor FROM refunds AS r WHERE r.state = 'succeeded'
    UNION ALL
    SELECT i.order_id, i.amount_minor FROM payment_intents AS i WHERE i.state = 'refunded'
)
SELECT
    o.status, o.order_id::text AS order_id,
    coalesce((SELECT sum(c.amount_minor) FROM captures AS c WHERE c.order_id = o.order_id), 0)::bigint AS captured,
    coalesce((SELECT sum(r.amount_minor) FROM refunds AS r WHERE r.order_id = o.order_id), 0)::bigint AS refunded
FROM orders AS o
"""
FACTS = """
SELECT
    (SELECT count(*) FROM orders WHERE status IN ('expired', 'cancelled', 'failed')) AS lapsed,
    (
        SELECT count(*) FROM orders AS o WHERE o.status = 'payment_failed' AND NOT EXISTS (
            SELECT 1 FROM payment_attempts AS a WHERE a.order_id = o.order_id AND a.outcome = 'declined'
        )
    ) AS undeclined,
    (
        SELECT count(*) FROM (
            SELECT 1 FROM order_events AS e WHERE e.status = 'confirmed' GROUP BY e.order_id HAVING count(*) > 1
        ) AS twice
    ) AS confirmed_again,
    (SELECT count(*) FROM webhook_events) AS webhooks,
    (SELECT count(*) FROM webhook_events WHERE taken_at IS NULL) AS waiting
"""
DUE = """
SELECT
    (SELECT count(*) FROM orders WHERE due_at IS NOT NULL) AS orders,
    (SELECT count(*) FROM refunds WHERE due_at IS NOT NULL) AS refunds,
    (SELECT count(*) FROM payment_intents WHERE due_at IS NOT NULL) AS intents,
    (SELECT count(*) FROM webhook_events WHERE due_at IS NOT NULL) AS webhooks
"""
LASTED = "SELECT extract(EPOCH FROM max(updated_at) - min(created_at))::float8 FROM orders"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is sold, to how many, and how."""

    units: int
    buyers: int
    seed: int = 1
    budget_per_s: int = 25
    arrive_s: float = 6.0
    longest_s: float = 400.0
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Sums:
    """Money in minor units, of one order state, here or at the provider."""

    orders: int = 0
    captured: int = 0
    voided: int = 0
    refunded: int = 0

    @property
    def net(self) -> int:
        return self.captured - self.refunded


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of the sale."""

    ours: Mapping[str, Sums]
    theirs: Mapping[str, Sums]
    checks: Sequence[tuple[bool, str]]
    facts: Sequence[str]
    findings: str

    @property
    def right(self) -> bool:
        return all(held for held, _ in self.checks)


async def hold(plan: Plan, folder: Path, say: Callable[[str], None]) -> Verdict:
    """Sell on a stack of its own, kill the payment workers twice, give some money back, and compare."""
    faults = {f"FLASHSALE_SIMULATOR__{name}": value for name, value in MISBEHAVIOUR.items()}
    environment = {
        "FLASHSALE_LOG__LEVEL": "warning",
        "FLASHSALE_PAYMENTS__BUDGET_PER_S": str(plan.budget_per_s),
        "FLASHSALE_SIMULATOR__RATE_LIMIT_PER_S": str(plan.budget_per_s),
        "FLASHSALE_SIMULATOR__SEED": str(plan.seed),
        **faults,
        **plan.environment,
    }
    sale = Sale(
        units=plan.units,
        buyers=plan.buyers,
        seconds=plan.arrive_s,
        seed=plan.seed,
        players=min(150, plan.buyers),
        persistence=0.2,
        persist_s=plan.longest_s,
        follow_s=plan.longest_s,
    )
    async with (
        StripeStack(folder, port=0, payments=2, environment=environment) as stack,
        open_sale(stack, sale, folder / "sale") as run,
    ):
        await run.prepare()
        run.begin()
        async with asyncio.TaskGroup() as both:
            both.create_task(_kill(stack, run, say))
            both.create_task(
                run.watch(
                    lambda seen: run.satisfy() if seen.orders.get("confirmed", 0) >= plan.units else None,
                    every_s=0.25,
                    deadline_s=plan.longest_s,
                )
            )
        lasted_s = await run.pool.fetchval(LASTED)
        say(f"the last order is final after {lasted_s:.1f} s")
        await _refund(stack, run, max(1, plan.units // 50))
        left = await until_quiet(run)
        return await _judge(plan, stack, run, lasted_s, left)


async def _kill(stack: StripeStack, run: SaleRun, say: Callable[[str], None]) -> None:
    for fraction in KILLS:
        while (seen := await run.look()) is None or seen.orders.get("confirmed", 0) < fraction * run.sale.units:
            await asyncio.sleep(0.05)
        workers = range(stack.counts["payments"])
        await asyncio.gather(*(stack.kill("payments", index) for index in workers))
        say(f"killed the payment workers at {seen.orders.get('confirmed', 0)} confirmed orders")
        await asyncio.sleep(RESTART_S)
        await asyncio.gather(*(stack.start_child("payments", index) for index in workers))


async def _refund(stack: StripeStack, run: SaleRun, count: int) -> None:
    """Refund `count` orders in whole and as many in part."""
    rows = await run.pool.fetch(
        "SELECT order_id::text, unit_price_minor, currency FROM orders WHERE status = 'confirmed' "
        "ORDER BY order_id LIMIT $1",
        2 * count,
    )
    credentials = {"email": stack.secrets["admin_email"], "password": stack.secrets["admin_password"]}
    async with aiohttp.ClientSession(stack.base_url, raise_for_status=True) as http:
        async with http.post("/api/auth/login", json=credentials) as answer:
            headers = {"Authorization": f"Bearer {(await answer.json())['token']}"}
        for number, row in enumerate(rows):
            part = Money(minor=row["unit_price_minor"] // 3, currency=row["currency"])
            body = {"reason": "broken", **({"amount": str(part)} if number % 2 else {})}
            async with http.post(f"/api/admin/orders/{row['order_id']}/refunds", json=body, headers=headers):
                pass


async def until_quiet(run: SaleRun) -> dict[str, int]:
    """Wait until nothing is due; returns what still is."""

    async def left() -> dict[str, int]:
        return dict(await run.pool.fetchrow(DUE) or {})

    try:
        async with asyncio.timeout(QUIET_S):
            while any((await left()).values()):
                await asyncio.sleep(0.5)
    except TimeoutError:
        pass
    return await left()


async def _judge(plan: Plan, stack: StripeStack, run: SaleRun, lasted_s: float, left: dict[str, int]) -> Verdict:
    ledger, summary = await read_ledger(stack)
    rows = await run.pool.fetch(OURS)
    states = {row["order_id"]: row["status"] for row in rows}
    ours: dict[str, Sums] = {}
    for row in rows:
        sums = ours.setdefault(row["status"], Sums())
        sums.orders += 1
        sums.captured += row["captured"]
        sums.refunded += row["refunded"]
    theirs: dict[str, Sums] = {}
    seen = set()
    for entry in ledger:
        order_id = entry.get("orderId") or entry["key"]
        sums = theirs.setdefault(states.get(order_id, "no order"), Sums())
        sums.orders += order_id not in seen
        seen.add(order_id)
        sums.captured += entry["captures"] * entry["amountMinor"]
        sums.voided += entry["voids"] * entry["amountMinor"]
        sums.refunded += entry["refundedMinor"]
    facts = dict(await run.pool.fetchrow(FACTS) or {})
    code, findings = await run.audit()
    confirmed = sum(sums.orders for state, sums in ours.items() if state in {"confirmed", "refunded"})
    by_state = [(state, of.captured, of.refunded) for state, of in sorted(ours.items()) if of.captured or of.refunded]
    at_provider = [(state, of.captured, of.refunded) for state, of in sorted(theirs.items()) if of.captured]
    held = [entry["key"] for entry in ledger if entry["status"] == "authorized"]
    twice = [entry["key"] for entry in ledger if entry["captures"] > 1]
    webhooks = summary["webhooks"]
    checks = [
        (confirmed == plan.units, f"{confirmed} of {plan.units} units are paid"),
        (by_state == at_provider, "captured, refunded and net are the same here and at the provider, by order state"),
        (not held, f"the provider holds no money that is neither taken nor let go ({len(held)})"),
        (not twice, f"no intent was captured twice ({len(twice)})"),
        (not facts["lapsed"], f"no order expired, lapsed or was cancelled for want of budget ({facts['lapsed']})"),
        (not facts["undeclined"], f"each failed payment was declined by the bank ({facts['undeclined']} were not)"),
        (not facts["confirmed_again"], f"no order was confirmed twice ({facts['confirmed_again']})"),
        (not any(left.values()), f"nothing is due any more ({left})"),
        (code == 0, f"the audit ends with {code}"),
    ]
    calls = sorted(summary["calls"].items(), key=lambda one: -one[1])
    minimum_s = max(len(rows), confirmed) / plan.budget_per_s
    told = [
        f"time to the last final order: {lasted_s:.1f} s",
        f"the budget's minimum: {minimum_s:.1f} s ({plan.budget_per_s}/s of each call; {len(rows)} orders, {confirmed} paid)",
        f"webhooks: {', '.join(f'{count} {name}' for name, count in sorted(webhooks.items()))}",
        f"webhooks here: {facts['webhooks']} received, {facts['waiting']} of them not handled",
        f"calls: {', '.join(f'{name} {count}' for name, count in calls)}; 429: {summary['rateLimited']}",
        f"faults: {', '.join(f'{name} {count}' for name, count in summary['faults'].items() if count)}",
    ]
    return Verdict(ours=ours, theirs=theirs, checks=checks, facts=told, findings=findings)


async def read_ledger(stack: Stack) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read what the provider holds, and what it counted."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(stack.gateway_url, headers=headers, raise_for_status=True) as http:
        async with http.get("/v1/ledger") as answer:
            entries = [json.loads(line) async for line in answer.content]
        async with http.get("/v1/ledger/summary") as answer:
            return entries, await answer.json()
