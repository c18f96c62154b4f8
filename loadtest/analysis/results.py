"""The result files: one JSON file for each run, and one that says how the analysis was made.

    DIRECTORY/analysis.json                                            a `Head`
    DIRECTORY/runs/APPROACH.CROWD.DISTURBANCE.REPETITION.json          a `Run` each

A file is written under another name and renamed: a file that exists is complete. A run whose file exists is not
repeated, so an analysis that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from analysis.verdict import Verdict

Read = TypeVar("Read", "Run", "Head")

FORMAT = 2
"""Raised when a reader of older files would read newer ones wrongly."""

CROWDS = ("journey", "stampede", "ramp", "abuse")
"""The kinds of crowds."""
DISTURBANCES = ("none", "worker", "redis", "gateway")
"""What happens in mid-sale: nothing, a worker killed, Redis killed, the payment provider silent."""

BOUNDS_MS = tuple(round(10 ** (number / 10), 2) for number in range(49))
"""Upper bounds of the histograms' buckets, ten for each decade from 1 ms to 63 s; one more bucket is above them."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution of a duration; milliseconds, all 0 without values."""

    count: int
    average_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    worst_ms: float
    histogram: tuple[int, ...]
    """Values in each bucket: one number for each of BOUNDS_MS, and one for what is above."""


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """One second of a run, as the buyers saw it."""

    at_s: float
    """Where the second begins, from the beginning of the crowd."""
    sent: int
    """Buys sent in it."""
    accepted: int
    """Of the buys answered in it, those with a 202."""
    refused: int
    """Those with another answer that decides: sold out, or the limit of a buyer."""
    failed: int
    """Those without an answer that decides: an error, a time-out, `later`."""
    p50_ms: float
    """Of the buys answered in it, from the intended start."""
    p95_ms: float
    worst_ms: float


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What was read from outside at one moment."""

    at_s: float
    """From the beginning of the crowd; negative before it."""
    users: int
    """Virtual users of a closed crowd, requests under way of an open one."""
    stock: int
    """Units that buyers are offered."""
    queued: int
    """Orders (or messages) that wait for work: the depth of all queues."""
    orders: dict[str, int]
    """Orders by state."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the ramp."""

    rate: int
    """Arrivals a second."""
    seconds: float
    arrived: int
    accepted: int
    refused: int
    """Definite refusals."""
    failed: int
    """Answers that decide nothing: errors, `later`, `locked`."""
    timed_out: int
    """Buyers who had no answer when they gave up."""
    late: int
    """Buyers who had a definite answer, but later than `Head.late_s` after their intended start."""
    sent_per_s: float
    """Buys really sent a second, from the first intended start to the last that was sent. Less than `rate` if the
    generator was late, or if no connection was free because the approach kept all waiting."""
    answered_per_s: float
    """Definite answers a second."""
    latency: Latency
    """From the intended start to the answer; for buyers who gave up, to the moment when they did."""
    bad_share: float
    """Share of arrivals that failed, timed out or were late."""
    generator_late_share: float
    """Share of the moments at which the load generator itself was late."""
    broke: bool
    """Whether `bad_share` is above `Head.broken_share`. No further step is sent then."""


class Abuse(msgspec.Struct, frozen=True, kw_only=True):
    """What bots got, and what they left to honest buyers."""

    honest: int
    """Honest buyers; each wants one unit."""
    honest_bought: int
    """Of them, those with an accepted order."""
    honest_answered: int
    """Of them, those with a definite answer."""
    honest_latency: Latency
    """From an honest buyer's intended start to the definite answer."""
    bots: int
    """Accounts of bots; several clients share the token of each."""
    bot_requests: int
    bot_bought: int
    """Units accepted for bots."""
    bot_refused: int
    """Answers 429 to bots."""
    above_limit: int
    """Units that accounts got above `limit`."""
    limit: int
    """Units that an account may buy, where the approach has a limit."""


class Generator(msgspec.Struct, frozen=True, kw_only=True):
    """The load generator's own lateness: a clock in it is due every few milliseconds, and says how late it was."""

    p50_ms: float
    p99_ms: float
    worst_ms: float
    late_share: float
    """Share of the moments that came later than `Head.generator_late_ms`."""
    late: bool
    """Whether that share is above `Head.generator_late_share`: latencies of this run are partly the generator's."""
    cpu_s: float
    """Processor time of the generator."""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the approach used from the beginning of the crowd until the last order was final."""

    wall_s: float
    cpu_s: dict[str, float]
    """Processor seconds by role; `postgres` and `redis` are the servers, `simulator` the payment provider."""
    pss_bytes: dict[str, int]
    """Most memory of each role (proportional set size)."""
    processes: int
    """Most processes at once; servers and payment provider not counted."""
    postgres: dict[str, int]
    """Figures of Postgres over the run, by name: commits, rollbacks, rows written, WAL bytes, most connections."""
    redis: dict[str, int]
    """Figures of Redis over the run, by name: commands, most memory in bytes, most connections."""

    @property
    def cost_cpu_s(self) -> float:
        """The processor seconds that one pays for: everything but the payment provider, which somebody else runs."""
        return sum(seconds for role, seconds in self.cpu_s.items() if role != "simulator")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One approach, with one crowd, disturbed or not."""

    approach: str
    crowd: str
    disturbance: str
    repetition: int
    """From 1."""
    seed: int
    """Of the arrivals; the same for every approach of a repetition."""
    began_at: float
    """Unix time of the beginning of the crowd."""
    units: int
    buyers: int
    """Buyers of an open crowd, most users of a closed one."""
    crowd_s: float
    """How long the crowd arrives, or the users' ramp takes."""
    took_s: float
    """The whole run, start and stop of the approach included."""
    disturbed_s: tuple[float, float] | None
    """From when to when it was disturbed, from the beginning of the crowd."""
    first_answer: Latency
    """From the intended start to the first answer of any kind."""
    to_confirmed: Latency
    """From the intended start to the confirmed order, for confirmed orders."""
    accepted: int
    """Orders whose 202 a client saw."""
    sold_out: int
    """Buyers who were told `sold out` as their last answer."""
    given_up: int
    """Buyers without a definite answer at the end of their patience."""
    answers: dict[str, int]
    """Answers to buys by status; `0`: none came in time."""
    orders: dict[str, int]
    """Orders by state at the end, as the database has them."""
    confirmed_per_s: float
    """Confirmed orders a second, from the first arrival to the last confirmed order."""
    seconds: tuple[Second, ...]
    samples: tuple[Sample, ...]
    generator: Generator
    resources: Resources
    verdict: Verdict
    ended: Literal["at rest", "stuck", "busy"] = "at rest"
    """How the approach was when the run ended: nothing left to do, no change for longer than its own time limits, or
    still at work when the time for a run was over."""
    steps: tuple[Step, ...] = ()
    """Of the ramp."""
    abuse: Abuse | None = None
    """Of the crowd with bots."""
    format: int = FORMAT

    @property
    def confirmed(self) -> int:
        """Confirmed orders."""
        return self.orders.get("confirmed", 0)

    @property
    def name(self) -> str:
        """The name of its file, without the ending."""
        return run_name(self.approach, self.crowd, self.disturbance, self.repetition)

    def cost(self, price_per_cpu_hour: float) -> float | None:
        """Return what 1,000 confirmed orders cost in processor time; None without any."""
        if not self.confirmed:
            return None
        return self.resources.cost_cpu_s / 3600 * price_per_cpu_hour / self.confirmed * 1000


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """How the analysis was made."""

    began_at: float
    """Unix time."""
    command: str
    seed: int
    quick: bool
    repetitions: int
    approaches: tuple[str, ...]
    """In the order in which a reader expects them; the runs are in random order."""
    machine: dict[str, str]
    """What the machine is, by name: processors, memory, system, ..."""
    versions: dict[str, str]
    """Versions by name: product, Python, Postgres, Valkey, locust, litestar, ..."""
    lines: dict[str, int]
    """Lines of code of each baseline, `shop` for what they share."""
    processes: dict[str, dict[str, int]]
    """Processes of each approach by role."""
    provider: dict[str, str]
    """How the payment provider behaves."""
    late_s: float
    """A definite answer after more than this is late."""
    broken_share: float
    """A step of the ramp with a larger share of bad arrivals broke the approach."""
    generator_late_ms: float
    generator_late_share: float
    silent_s: float
    """How long the payment provider was silent in the runs disturbed by it."""
    price_per_cpu_hour: float | None
    planned: tuple[str, ...] = ()
    """Names of all runs, in the order in which they are made."""
    format: int = FORMAT


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an analysis has found so far."""

    head: Head
    runs: tuple[Run, ...]


class BadResults(Exception):
    """A result file that cannot be read, or a directory without an analysis."""


def run_name(approach: str, crowd: str, disturbance: str, repetition: int) -> str:
    """Return the name of a run's file, without the ending."""
    return f"{approach}.{crowd}.{disturbance}.{repetition}"


def latency(values_ms: list[float]) -> Latency:
    """Describe durations."""
    if not values_ms:
        return Latency(count=0, average_ms=0, p50_ms=0, p95_ms=0, p99_ms=0, worst_ms=0, histogram=())
    ordered = sorted(values_ms)
    counts = [0] * (len(BOUNDS_MS) + 1)
    bucket = 0
    for value in ordered:
        while bucket < len(BOUNDS_MS) and value > BOUNDS_MS[bucket]:
            bucket += 1
        counts[bucket] += 1

    def quantile(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)

    return Latency(
        count=len(ordered),
        average_ms=round(sum(ordered) / len(ordered), 1),
        p50_ms=quantile(0.5),
        p95_ms=quantile(0.95),
        p99_ms=quantile(0.99),
        worst_ms=round(ordered[-1], 1),
        histogram=tuple(counts),
    )


def write(path: Path, result: Run | Head) -> None:
    """Write a result file: completely or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def read_head(directory: Path) -> Head:
    """Read how an analysis was made.

    Raises:
        BadResults: if the directory has none, or one of another format.
    """
    return _read(directory / "analysis.json", Head)


def read_results(directory: Path) -> Results:
    """Read everything that is in a directory, runs in the order of their names.

    Raises:
        BadResults: naming the file that cannot be read.
    """
    paths = sorted((directory / "runs").glob("*.json"))
    return Results(head=read_head(directory), runs=tuple(_read(path, Run) for path in paths))


def _read(path: Path, kind: type[Read]) -> Read:
    try:
        result = msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise BadResults(f"{path}: there is no such file. Run `nox -s analysis` first.") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise BadResults(f"{path} cannot be read: {error}") from error
    if result.format != FORMAT:
        raise BadResults(f"{path} has format {result.format}; this version reads format {FORMAT}.")
    return result
