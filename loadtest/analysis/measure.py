"""From what a crowd wrote and what was read while it came to the figures of a run."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from buyer import AGAIN, LOCKED

from analysis.crowd import LIMIT
from analysis.results import Abuse, Generator, Sample, Second, Step, latency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analysis.crowd import Sent
    from analysis.stage import Look
    from analysis.verdict import Sold

GENERATOR_LATE_MS = 50.0
GENERATOR_LATE_SHARE = 0.05
"""A run in which the generator was late by more than GENERATOR_LATE_MS at more than this share of moments is marked."""

Buy = dict[str, Any]


def definite(buy: Buy) -> bool:
    """Whether the answer to a buy decides."""
    return buy["status"] not in AGAIN and buy["code"] != LOCKED


def presses(buys: Sequence[Buy]) -> list[list[Buy]]:
    """Return the tries of each buy, a buyer with a key, in the order of their answers."""
    tries: dict[tuple[str, str], list[Buy]] = defaultdict(list)
    for buy in sorted(buys, key=lambda one: float(one["answered_at"])):
        tries[buy["user"], buy["key"]].append(buy)
    return list(tries.values())


def waited_ms(buy: Buy) -> float:
    """Return how long a buyer waited for an answer; without one, how long until the client gave up."""
    return float((buy["answered_at"] - buy["intended_at"]) * 1000)


def outcomes(pressed: Sequence[Sequence[Buy]]) -> tuple[int, int, int]:
    """Return the accepted orders, the buyers who were told `sold out` at last, and the presses without an end."""
    accepted = {buy["order_id"] for tries in pressed for buy in tries if buy["order_id"]}
    happy = {tries[0]["user"] for tries in pressed if any(buy["order_id"] for buy in tries)}
    sold_out = {tries[0]["user"] for tries in pressed if tries[-1]["code"] == "sold_out"} - happy
    return len(accepted), len(sold_out), sum(not definite(tries[-1]) for tries in pressed)


def answers(buys: Sequence[Buy]) -> dict[str, int]:
    """Count the answers by status."""
    return dict(sorted(Counter(str(buy["status"]) for buy in buys).items()))


def states(orders: Sequence[Sold]) -> dict[str, int]:
    """Count the orders by state."""
    return dict(sorted(Counter(order.status for order in orders).items()))


def to_confirmed_ms(buys: Sequence[Buy], orders: Sequence[Sold]) -> list[float]:
    """Return how long each confirmed order took from its buyer's intended start."""
    intended: dict[str, float] = {}
    for buy in buys:
        if buy["order_id"]:
            intended[buy["order_id"]] = min(buy["intended_at"], intended.get(buy["order_id"], buy["intended_at"]))
    return [
        max(0.0, (order.ended_s - intended[order.order_id]) * 1000)
        for order in orders
        if order.status == "confirmed" and order.ended_s is not None and order.order_id in intended
    ]


def confirmed_per_s(buys: Sequence[Buy], orders: Sequence[Sold]) -> float:
    """Return the confirmed orders a second, from the first intended start to the last confirmed order."""
    ends = [order.ended_s for order in orders if order.status == "confirmed" and order.ended_s is not None]
    if not ends:
        return 0.0
    return round(len(ends) / max(0.001, max(ends) - float(min(buy["intended_at"] for buy in buys))), 2)


def by_second(pressed: Sequence[Sequence[Buy]], began_at: float) -> tuple[Second, ...]:
    """Return what buyers saw in each second."""
    sent: Counter[int] = Counter()
    ends: dict[str, Counter[int]] = {"accepted": Counter(), "refused": Counter(), "failed": Counter()}
    waits: dict[int, list[float]] = defaultdict(list)
    for tries in pressed:
        for buy in tries:
            second = int(buy["answered_at"] - began_at)
            sent[int(buy["sent_at"] - began_at)] += 1
            end = "accepted" if buy["order_id"] else "refused" if definite(buy) else "failed"
            ends[end][second] += 1
        waits[int(tries[0]["answered_at"] - began_at)].append(waited_ms(tries[0]))
    found = []
    for second in range(max([*sent, *waits], default=-1) + 1):
        waited = latency(waits[second])
        found.append(
            Second(
                at_s=float(second),
                sent=sent[second],
                **{end: counts[second] for end, counts in ends.items()},
                p50_ms=waited.p50_ms,
                p95_ms=waited.p95_ms,
                worst_ms=waited.worst_ms,
            )
        )
    return tuple(found)


def samples(
    looks: Sequence[tuple[float, Look]], users: Sequence[tuple[float, int]], began_at: float
) -> tuple[Sample, ...]:
    """Join what was read from outside with the users whom the generator counted last before."""
    times = [at_s for at_s, _ in users]
    found = []
    for at, look in looks:
        last = bisect.bisect_right(times, at - began_at) - 1
        # After the last count everybody has gone.
        there = users[last][1] if last >= 0 and at - began_at < times[-1] + 1 else 0
        found.append(
            Sample(
                at_s=round(at - began_at, 2),
                users=there,
                stock=look.stock,
                queued=look.queued,
                orders=dict(look.orders),
            )
        )
    return tuple(found)


def generator(pulse: dict[str, Any]) -> Generator:
    """Describe the generator's own lateness."""
    late_ms = [late for _, late in pulse["late_ms"]]
    described = latency(late_ms)
    share = _late_share(late_ms)
    return Generator(
        p50_ms=described.p50_ms,
        p99_ms=described.p99_ms,
        worst_ms=described.worst_ms,
        late_share=round(share, 4),
        late=share > GENERATOR_LATE_SHARE,
        cpu_s=round(pulse["cpu_s"], 2),
    )


def steps(sent: Sent) -> tuple[Step, ...]:
    """Describe the steps of a ramp: its counts are the crowd's, because these decided whether it went on."""
    found = []
    for step in sent.pulse["steps"]:
        buys = [buy for buy in sent.history.buys if step["began_at"] <= buy["intended_at"] <= step["ended_at"]]
        decided = [buy["answered_at"] for buy in buys if definite(buy)]
        took_s = max(step["seconds"], max(decided, default=0.0) - step["began_at"])
        began_s = step["began_at"] - sent.pulse["began_at"]
        late_ms = [late for at_s, late in sent.pulse["late_ms"] if began_s <= at_s <= began_s + step["seconds"]]
        # A buyer who left before a connection was free was never sent: see `leave`.
        times = sorted(buy["sent_at"] for buy in buys if buy["answered_at"] > buy["sent_at"])
        sending_s = max(step["seconds"], times[-1] - step["began_at"] if times else 0.0)
        counts = {name: step[name] for name in ("rate", "seconds", "arrived", "accepted", "refused", "broke")}
        found.append(
            Step(
                **counts,
                failed=step["failed"],
                timed_out=step["timed_out"],
                late=step["late"],
                sent_per_s=round(len(times) / sending_s, 1),
                answered_per_s=round(len(decided) / took_s, 1),
                latency=latency([waited_ms(buy) for buy in buys]),
                bad_share=round(step["bad_share"], 4),
                generator_late_share=round(_late_share(late_ms), 4),
            )
        )
    return tuple(found)


def abuse(sent: Sent, pressed: Sequence[Sequence[Buy]], orders: Sequence[Sold], *, buyers: int) -> Abuse:
    """Describe what bots got, and what they left."""
    honest = [tries for tries in pressed if tries[0]["user"] not in sent.bots]
    bot = [buy for tries in pressed for buy in tries if buy["user"] in sent.bots]
    kept: Counter[str] = Counter()
    for order in orders:
        if order.released_s is None:
            kept[order.user_id] += order.quantity
    decided = [tries for tries in honest if definite(tries[-1])]
    return Abuse(
        honest=buyers,
        honest_bought=sum(any(buy["order_id"] for buy in tries) for tries in honest),
        honest_answered=len(decided),
        honest_latency=latency([waited_ms(tries[-1]) for tries in decided]),
        bots=len(sent.bots),
        bot_requests=len(bot),
        bot_bought=len({buy["order_id"] for buy in bot if buy["order_id"]}),
        bot_refused=sum(buy["status"] == 429 for buy in bot),  # noqa: PLR2004
        above_limit=sum(max(0, units - LIMIT) for units in kept.values()),
        limit=LIMIT,
    )


def _late_share(late_ms: Sequence[float]) -> float:
    return sum(late > GENERATOR_LATE_MS for late in late_ms) / len(late_ms) if late_ms else 0.0
