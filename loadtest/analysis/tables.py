"""The tables of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import NONE, count, decimal, listed, mebibytes, milliseconds, share, spread, table, written
from analysis.found import OURS, VERDICTS, Found, Situation, faults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from analysis.results import Abuse, Run, Step

UNAVAILABLE = 503
LATE = "†"
"""Marks an approach one of whose runs had a late load generator."""

Column = tuple[str, "Callable[[Run], float | None]", "Callable[[float], str]"]


def _when(figure: Callable[[Run], float], there: Callable[[Run], int]) -> Callable[[Run], float | None]:
    """Return a figure that there is only if something was counted: a duration of nothing is no zero."""
    return lambda run: figure(run) if there(run) else None


def _first(name: str) -> Callable[[Run], float | None]:
    return _when(lambda run: getattr(run.first_answer, name), lambda run: run.first_answer.count)


def _confirmed(name: str) -> Callable[[Run], float | None]:
    return _when(lambda run: getattr(run.to_confirmed, name), lambda run: run.to_confirmed.count)


def success(run: Run) -> float | None:
    """Return the confirmed share of all orders: those in the database and those that were promised and lost."""
    made = sum(run.orders.values()) + run.verdict.lost
    return run.confirmed / made if made else None


def errors(run: Run) -> int:
    """Return the answers 5xx without 503."""
    return sum(number for status, number in run.answers.items() if status[0] == "5" and status != str(UNAVAILABLE))


def cpu_per_1000(run: Run) -> float | None:
    """Return processor seconds for 1,000 confirmed orders."""
    return run.resources.cost_cpu_s / run.confirmed * 1000 if run.confirmed else None


def deepest(run: Run) -> int | None:
    """Return the most orders that waited at once."""
    return max((sample.queued for sample in run.samples), default=None)


def memory(run: Run) -> int:
    """Return the memory of everything but the payment provider, at its most."""
    return sum(size for role, size in run.resources.pss_bytes.items() if role != "simulator")


LATENCIES: Sequence[Column] = (
    ("average", _first("average_ms"), milliseconds),
    ("p50", _first("p50_ms"), milliseconds),
    ("p95", _first("p95_ms"), milliseconds),
    ("p99", _first("p99_ms"), milliseconds),
    ("worst", _first("worst_ms"), milliseconds),
    ("to confirmed, p50", _confirmed("p50_ms"), milliseconds),
    ("to confirmed, p95", _confirmed("p95_ms"), milliseconds),
)
ORDERS: Sequence[Column] = (
    ("confirmed/s", lambda run: run.confirmed_per_s, decimal),
    ("accepted", lambda run: run.accepted, count),
    ("confirmed", lambda run: run.confirmed, count),
    ("success rate", success, share),
    ("503", lambda run: run.answers.get(str(UNAVAILABLE), 0), count),
    ("other 5xx", errors, count),
    ("time-outs", lambda run: run.answers.get("0", 0), count),
    ("given up", lambda run: run.given_up, count),
)
RESOURCES: Sequence[Column] = (
    ("processor", lambda run: run.resources.cost_cpu_s, lambda value: f"{decimal(value)} s"),
    ("for 1,000 orders", cpu_per_1000, lambda value: f"{decimal(value)} s"),
    ("memory", memory, mebibytes),
    ("processes", lambda run: run.resources.processes, count),
    ("deepest queue", deepest, count),
)
VERDICT: Sequence[Column] = tuple(
    (title, lambda run, name=name: getattr(run.verdict, name), count)  # type: ignore[misc]
    for name, title in VERDICTS.items()
)


def of_situation(found: Found, situation: Situation, columns: Sequence[Column]) -> str:
    """Write a row for each approach: medians, and ranges in parentheses."""
    rows = [
        [
            label(found, name, situation),
            *(written(found.spread(name, situation, figure), unit) for _, figure, unit in columns),
        ]
        for name in found.approaches
    ]
    return table(["approach", *(title for title, _, _ in columns)], rows)


def label(found: Found, name: str, situation: Situation) -> str:
    """Return an approach's name, marked if the generator was late in one of these runs."""
    late = any(run.generator.late for run in found.of(name, situation))
    return f"`{name}`{f' {LATE}' if late else ''}"


def verdict(found: Found) -> str:
    """Write what went wrong in all undisturbed runs, summed."""
    rows = []
    for name in found.approaches:
        runs = [run for run in found.runs if run.approach == name and run.disturbance == "none"]
        total = faults(runs)
        rows.append([f"`{name}`", count(len(runs)), *(count(total.get(field, 0)) for field in VERDICTS)])
    return table(["approach", "runs", *VERDICTS.values()], rows)


def disturbed(found: Found, situation: Situation) -> str:
    """Write what a disturbance did."""
    columns: Sequence[Column] = (
        ("confirmed", lambda run: run.confirmed, count),
        *VERDICT,
        ("to confirmed, p95", _confirmed("p95_ms"), milliseconds),
    )
    return of_situation(found, situation, columns)


def resources(found: Found, situation: Situation, price: float | None) -> str:
    """Write what the runs used; with a price, also what 1,000 orders cost."""
    columns = list(RESOURCES)
    if price is not None:
        columns.append(("cost of 1,000 orders", lambda run: run.cost(price), lambda value: f"{value:.6f}"))
    return of_situation(found, situation, columns)


def servers(found: Found, situation: Situation) -> str:
    """Write the figures of Postgres and Redis; a column for each that any run has."""
    columns: list[Column] = []
    runs = [run for name in found.approaches for run in found.of(name, situation)]
    for server in ("postgres", "redis"):
        names = dict.fromkeys(key for run in runs for key in getattr(run.resources, server))
        for key in names:
            unit = mebibytes if "bytes" in key else count
            title = f"{server.capitalize()}: {key.removesuffix('_bytes').replace('_', ' ')}"
            columns.append(
                (title, lambda run, server=server, key=key: getattr(run.resources, server).get(key), unit)  # type: ignore[misc]
            )
    return of_situation(found, situation, columns)


def steps(found: Found, name: str, rate: int) -> list[Step]:
    """Return the steps of a rate that an approach was sent, one for each ramp that came so far."""
    return [step for run in found.of(name, Situation(crowd="ramp")) for step in run.steps if step.rate == rate]


def rates(found: Found) -> list[int]:
    """Return the rates of the ramp."""
    return sorted({step.rate for run in found.runs if run.crowd == "ramp" for step in run.steps})


def held(found: Found, name: str) -> int | None:
    """Return the highest rate that an approach held in every ramp, 0 if none; None without a ramp."""
    if not found.of(name, Situation(crowd="ramp")):
        return None
    ramps = len(found.of(name, Situation(crowd="ramp")))
    best = 0
    for rate in rates(found):
        some = steps(found, name, rate)
        if len(some) < ramps or any(step.broke for step in some):
            break
        best = rate
    return best


def ramp(found: Found) -> str:
    """Write the ramp up to where each approach breaks."""
    all_rates = rates(found)
    rows = []
    for name in found.approaches:
        cells = [_step(found, steps(found, name, rate)) for rate in all_rates]
        best = held(found, name)
        cells.append(NONE if best is None else f"{best:,}/s" if best else "none")
        rows.append([label(found, name, Situation(crowd="ramp")), *cells])
    return table(["approach", *(f"{rate:,}/s" for rate in all_rates), "held"], rows)


def _step(found: Found, some: Sequence[Step]) -> str:
    if not some:
        return NONE
    latency = spread(step.latency.p95_ms if step.latency.count else None for step in some)
    bad = spread(step.bad_share for step in some)
    sent = spread(step.sent_per_s for step in some)
    text = f"sent {written(sent, count)}/s; p95 {written(latency, milliseconds)}; bad {written(bad, share)}"
    broke = sum(step.broke for step in some)
    if broke:
        text += " **broke**" if broke == len(some) else f" **broke in {broke} of {len(some)}**"
    late = max(step.generator_late_share for step in some)
    return f"{text} {LATE} {share(late)}" if late > found.head.generator_late_share else text


ABUSE: Sequence[tuple[str, Callable[[Abuse], float | None], Callable[[float], str]]] = (
    ("honest buyers", lambda abuse: abuse.honest, count),
    ("of them bought", lambda abuse: _part(abuse.honest_bought, abuse.honest), share),
    ("answered", lambda abuse: _part(abuse.honest_answered, abuse.honest), share),
    ("answered within, p95", lambda abuse: abuse.honest_latency.p95_ms, milliseconds),
    ("bots", lambda abuse: abuse.bots, count),
    ("their requests", lambda abuse: abuse.bot_requests, count),
    ("answered 429", lambda abuse: abuse.bot_refused, count),
    ("units for bots", lambda abuse: abuse.bot_bought, count),
    ("above the limit", lambda abuse: abuse.above_limit, count),
)


def abuse(found: Found) -> str:
    """Write what bots left to honest buyers."""
    columns: Sequence[Column] = [
        (title, lambda run, figure=figure: None if run.abuse is None else figure(run.abuse), unit)  # type: ignore[misc]
        for title, figure, unit in ABUSE
    ]
    return of_situation(found, Situation(crowd="abuse"), columns)


def honest_success(run: Run) -> float | None:
    """Return the share of honest buyers who got a unit among bots."""
    return None if run.abuse is None else _part(run.abuse.honest_bought, run.abuse.honest)


def _part(some: int, whole: int) -> float | None:
    return some / whole if whole else None


def lateness(found: Found) -> str:
    """Write how late the load generator was, over all runs of each approach."""
    rows = []
    for name in found.approaches:
        runs = [run for run in found.runs if run.approach == name]
        marked = [run.name for run in runs if run.generator.late]
        rows.append(
            [
                f"`{name}`",
                count(len(runs)),
                written(spread(run.generator.p99_ms for run in runs), milliseconds),
                milliseconds(max(run.generator.worst_ms for run in runs)),
                written(spread(run.generator.late_share for run in runs), share),
                ", ".join(f"`{one.removeprefix(f'{name}.')}`" for one in marked) or "none",
            ]
        )
    return table(["approach", "runs", "late, p99", "worst", "share of moments", "marked runs"], rows)


def written_faults(runs: Sequence[Run], *, without: str = "") -> str:
    """Write what went wrong in all of these runs together; empty if nothing did."""
    return listed([f"{number:,} {VERDICTS[name]}" for name, number in faults(runs).items() if name != without])


def lines(found: Found) -> str:
    """Write the lines of code and the processes of each approach."""
    counted = {name: number for name, number in found.head.lines.items() if number}
    rows = []
    for name in dict.fromkeys((*found.head.approaches, *counted)):
        processes = found.head.processes.get(name, {})
        roles = ", ".join(f"{number} {role}" for role, number in processes.items())
        rows.append([f"`{name}`", count(counted[name]) if name in counted else NONE, roles or NONE])
    return table(["approach", "lines", "processes"], rows)


def summary(found: Found) -> str:
    """Write the short table: what was wrong, what a killed Redis lost, how long, how much."""
    killed = Situation(crowd="stampede", disturbance="redis")
    crowd = Situation(crowd="stampede" if found.has("stampede") else "journey")
    rows = []
    for name in found.approaches:
        quiet = [run for run in found.runs if run.approach == name and run.disturbance == "none"]
        total = faults(quiet)
        rows.append(
            [
                f"**`{name}`**" if name == OURS else label(found, name, crowd),
                count(total.get("oversold", 0)),
                count(sum(total.values()) - total.get("oversold", 0)),
                written_faults(found.of(name, killed)) or ("nothing" if found.of(name, killed) else NONE),
                written(found.spread(name, crowd, _first("p95_ms")), milliseconds),
                written(found.spread(name, crowd, _confirmed("p95_ms")), milliseconds),
                written(found.spread(name, crowd, cpu_per_1000), lambda value: f"{decimal(value)} s"),
            ]
        )
    head = [
        "approach",
        "units oversold",
        "other faults",
        "wrong when Redis is killed",
        "first answer, p95",
        "to confirmed, p95",
        "processor for 1,000 orders",
    ]
    return table(head, rows)
