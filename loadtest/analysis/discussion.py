"""What the figures say: every sentence that depends on a figure is made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import count, decimal, mebibytes, milliseconds, share, table
from analysis.found import OURS, Found, Situation, faults
from analysis.tables import cpu_per_1000, held, honest_success, memory, success, written_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from analysis.figures import Spread
    from analysis.results import Run

NATURE = {
    "naive": "Two buyers who read the same stock both write it, so units are sold twice as soon as two buys overlap.",
    "synchronous": "The buyer has the final answer in one request. The request lasts as long as the payment, so each "
    "buyer in payment holds an open request, and a slow payment provider holds all of them.",
    "row_lock": "The row stays locked during the payment, so buyers of one product pay one after the other: "
    "the payment provider's answer time bounds the orders per second.",
    "mutex": "A buyer who does not get the lock is refused although units are free, and asks again. Which buyer gets "
    "a unit depends on who asks at the right moment.",
    "redis_queue": "The buyer has a 202 before anything is on disk. What Redis forgets, or what a process holds in "
    "memory when it dies, is lost.",
    "lua": "One script decides and queues, so no process can die in between. The reservation and the queue are in "
    "Redis: what Redis forgets is lost.",
    OURS: "The order is in Postgres before the buyer has the 202. That costs a COMMIT for each batch of buys, and the "
    "buyer learns later whether the payment succeeded.",
}
"""What holds of an approach by its construction, whatever a run shows."""

SITUATIONS = {
    "none": "no disturbance",
    "worker": "a worker is killed",
    "redis": "Redis is killed",
    "gateway": "the payment provider is silent",
}


class Compared:
    """A figure in which approaches are compared."""

    def __init__(
        self,
        title: str,
        figure: Callable[[Found, str], Spread | None],
        unit: Callable[[float], str],
        *,
        less_is_better: bool = True,
    ) -> None:
        """Compare `figure`."""
        self.title = title
        self.figure = figure
        self.unit = unit
        self.less_is_better = less_is_better

    def better(self, found: Found) -> list[tuple[str, Spread]]:
        """Return the approaches whose median is better than ours, the best first."""
        ours = self.figure(found, OURS)
        if ours is None:
            return []
        sign = 1 if self.less_is_better else -1
        known = [(name, value) for name in found.others if (value := self.figure(found, name)) is not None]
        some = [(name, value) for name, value in known if sign * value.median < sign * ours.median]
        return sorted(some, key=lambda pair: sign * pair[1].median)


def _of(crowd: str, figure: Callable[[Run], float | None]) -> Callable[[Found, str], Spread | None]:
    situation = Situation(crowd=crowd)
    return lambda found, name: found.spread(name, situation, figure)


def compared() -> list[Compared]:
    """Return all figures that are compared."""
    some = []
    for crowd in ("stampede", "journey"):
        for label, name in (("p50", "p50_ms"), ("p95", "p95_ms"), ("p99", "p99_ms")):
            some.append(
                Compared(f"{crowd}: first answer, {label}", _of(crowd, _duration("first_answer", name)), milliseconds)
            )
        some += [
            Compared(f"{crowd}: to confirmed, p50", _of(crowd, _duration("to_confirmed", "p50_ms")), milliseconds),
            Compared(f"{crowd}: to confirmed, p95", _of(crowd, _duration("to_confirmed", "p95_ms")), milliseconds),
            Compared(
                f"{crowd}: confirmed/s", _of(crowd, lambda run: run.confirmed_per_s), decimal, less_is_better=False
            ),
            Compared(f"{crowd}: success rate", _of(crowd, success), share, less_is_better=False),
            Compared(f"{crowd}: processor for 1,000 orders", _of(crowd, cpu_per_1000), lambda s: f"{decimal(s)} s"),
            Compared(f"{crowd}: memory", _of(crowd, memory), mebibytes),
        ]
    some.append(Compared("abuse: honest buyers who bought", _of("abuse", honest_success), share, less_is_better=False))
    return some


def _duration(of: str, name: str) -> Callable[[Run], float | None]:
    def figure(run: Run) -> float | None:
        latency = getattr(run, of)
        return getattr(latency, name) if latency.count else None

    return figure


def better(found: Found) -> str:
    """Write the rows in which another approach is better than ours."""
    if OURS not in found.approaches:
        return f"`{OURS}` did not run, so there is nothing to compare with it."
    rows = []
    for one in compared():
        ours = one.figure(found, OURS)
        cells = [
            f"`{name}` {value.text(one.unit)}{'' if ours is None or value.is_apart_from(ours) else ' *'}"
            for name, value in one.better(found)
        ]
        if cells and ours is not None:
            rows.append([one.title, "; ".join(cells), ours.text(one.unit)])
    ahead = [(name, best) for name in found.others if (best := held(found, name) or 0) > (held(found, OURS) or 0)]
    if ahead:
        cells = [f"`{name}` {best:,}/s" for name, best in ahead]
        rows.append(["ramp: rate held in every repetition", "; ".join(cells), f"{held(found, OURS) or 0:,}/s"])
    if not rows:
        return f"No other approach had a better median than `{OURS}` in any figure of this run that is compared."
    wrong = {name: _wrong(found, name) for name in found.others}
    note = (
        "`*`: the ranges of the repetitions overlap, so another run may show the reverse." if "*" in str(rows) else ""
    )
    price = [f"`{name}`: {text}" for name, text in wrong.items() if text and any(f"`{name}`" in row[1] for row in rows)]
    parts = [table(["figure", "better, the best first", f"`{OURS}`"], rows), note]
    if price:
        parts.append(
            "The same approaches in the same analysis, undisturbed and disturbed runs together:\n\n"
            + "\n".join(f"- {one}." for one in price)
        )
    return "\n\n".join(part for part in parts if part)


def _wrong(found: Found, name: str) -> str:
    return written_faults([run for run in found.runs if run.approach == name])


def lost(found: Found) -> str:
    """Write the orders that redis_queue lost and what else went wrong with it, next to ours."""
    parts = []
    for situation in found.disturbed:
        cells = []
        for name in ("redis_queue", OURS):
            value = found.spread(name, situation, lambda run: run.verdict.lost)
            if value is not None:
                more = written_faults(found.of(name, situation), without="lost")
                cells.append(f"`{name}` lost {value.text(count)} orders{f' ({more})' if more else ''}")
        if cells:
            parts.append(f"- When {SITUATIONS[situation.disturbance]}: {', '.join(cells)}.")
    return "\n".join(parts)


def choose(found: Found) -> str:
    """Write for each approach what speaks for it and against it."""
    parts = []
    for name in found.approaches:
        sentences = [NATURE[name]] if name in NATURE else []
        sentences += _record(found, name)
        best = held(found, name)
        if best is not None:
            sentences.append(
                f"It held {best:,} requests/s in every ramp." if best else "It broke at the lowest rate of the ramp."
            )
        ahead = [one.title for one in compared() if name in {other for other, _ in one.better(found)}]
        if ahead:
            sentences.append(f"Better than `{OURS}` in {len(ahead)} of {len(compared())} figures compared.")
        sentences.append(_advice(found, name))
        parts.append(f"- **`{name}`.** {' '.join(sentences)}")
    return "\n".join(parts)


def _record(found: Found, name: str) -> list[str]:
    sentences = []
    for disturbance, when in SITUATIONS.items():
        runs = [run for run in found.runs if run.approach == name and run.disturbance == disturbance]
        wrong = written_faults(runs)
        if wrong:
            sentences.append(
                f"Without a disturbance, in {len(runs)} runs: {wrong}."
                if disturbance == "none"
                else f"When {when}: {wrong}."
            )
    if not sentences:
        number = sum(run.approach == name for run in found.runs)
        sentences.append(
            f"In its {number} runs nothing was oversold, lost, leaked, stuck or charged wrongly, and nobody was told "
            "`sold out` falsely."
        )
    return sentences


def _advice(found: Found, name: str) -> str:
    quiet = faults(run for run in found.runs if run.approach == name and run.disturbance == "none")
    every = faults(run for run in found.runs if run.approach == name)
    if "oversold" in quiet:
        return "Do not choose it where units are limited."
    if quiet.keys() & {"lost", "charged_twice", "charged_wrongly"}:
        return "Do not choose it where an order or a payment must be right."
    if quiet:
        return "Choose it only if the faults above are acceptable to buyers and to the shop."
    if every:
        return "Choose it if somebody corrects by hand what a failure leaves behind."
    return {
        "synchronous": "Choose it if it held your rate and buyers should have the final answer at once.",
        OURS: "Choose it if more buyers come than payments can be made, and nobody should correct failures by hand.",
    }.get(name, "Choose it if it held your rate and nothing else can go wrong than what was tested here.")


def _expect(found: Found, name: str, figure: Callable[[Found, str], Spread | None]) -> float | None:
    value = figure(found, name)
    return None if value is None else value.median


def expectations(found: Found) -> list[tuple[str, str, bool]]:
    """Return what was expected before the run, what was found, and whether it agrees; only what can be judged."""
    told: list[tuple[str, str, bool]] = []
    quiet = {
        name: faults(r for r in found.runs if r.approach == name and r.disturbance == "none")
        for name in found.approaches
    }
    if "naive" in quiet:
        number = quiet["naive"].get("oversold", 0)
        told.append(("`naive` oversells.", f"{number:,} units oversold", number > 0))
    if OURS in quiet:
        number = sum(faults(run for run in found.runs if run.approach == OURS).values())
        told.append((f"`{OURS}` is right in every run, disturbed or not.", f"{number:,} faults", number == 0))
    for fault, who in (("redis", "redis_queue"), ("worker", "redis_queue"), ("redis", "lua")):
        runs = found.of(who, Situation(crowd="stampede", disturbance=fault))
        if runs:
            orders, units = (sum(getattr(run.verdict, field) for run in runs) for field in ("lost", "leaked"))
            seen = f"{orders:,} orders lost, {units:,} units leaked"
            told.append((f"`{who}` loses orders or units when {SITUATIONS[fault]}.", seen, orders + units > 0))
    first = _of("stampede", _duration("first_answer", "p95_ms"))
    final = _of("stampede", _duration("to_confirmed", "p50_ms"))
    pairs = (
        (
            "`row_lock` answers later than `synchronous`: the lock is slow, not the waiting.",
            "synchronous",
            "row_lock",
            first,
        ),
        (f"`redis_queue` answers sooner than `{OURS}`, because it writes nothing to disk.", "redis_queue", OURS, first),
        (f"`synchronous` confirms sooner than `{OURS}`.", "synchronous", OURS, final),
        (f"`{OURS}` answers sooner than `synchronous`, which pays first.", OURS, "synchronous", first),
    )
    for sentence, sooner, later, figure in pairs:
        one, other = _expect(found, sooner, figure), _expect(found, later, figure)
        if one is not None and other is not None:
            seen = f"`{sooner}` {milliseconds(one)}, `{later}` {milliseconds(other)}"
            told.append((sentence, seen, one < other))
    spent = {name: _expect(found, name, _of("stampede", cpu_per_1000)) for name in found.approaches}
    known = {name: value for name, value in spent.items() if value is not None}
    if OURS in known and len(known) > 1:
        least = min(known, key=lambda name: known[name])
        sentence = f"`{OURS}` does not use the least processor time for an order: it does the most work."
        told.append(
            (
                sentence,
                f"`{least}` {decimal(known[least])} s for 1,000 orders, `{OURS}` {decimal(known[OURS])} s",
                known[OURS] > known[least],
            )
        )
    return told


def surprises(found: Found) -> str:
    """Write which expectations the run contradicts, and which it confirms."""
    told = expectations(found)
    if not told:
        return "No expectation could be judged: the approaches that they are about did not run."
    parts = []
    for holds, title in ((False, "Expected, and found otherwise:"), (True, "Expected, and found so:")):
        rows = [f"- {sentence} Found: {seen}." for sentence, seen, agrees in told if agrees is holds]
        parts.append(f"{title}\n\n" + "\n".join(rows) if rows else f"{title} nothing.")
    return "\n\n".join(parts)


def generator_threat(found: Found) -> str:
    """Write what the lateness of the load generator means for this run."""
    head = found.head
    late = sum(run.generator.late for run in found.runs)
    limit = (
        f"more than {share(head.generator_late_share)} of its moments came more than {head.generator_late_ms:g} ms late"
    )
    if late:
        return (
            f"**The load generator was late** in {late:,} of {len(found.runs):,} runs: {limit}. Latencies of these "
            "runs are in part the generator's own. Their counts and verdicts hold."
        )
    return f"**The load generator** was late in none of the {len(found.runs):,} runs: in none, {limit}."
