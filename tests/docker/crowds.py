"""Crowds against the whole stack in containers: journeys and stampedes, and what the containers cost meanwhile."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from tests.docker.exercise import Failed

if TYPE_CHECKING:
    from tests.docker.exercise import Exercise

LONGEST_S = 900
"""Longest time that a load test and its audit may take."""

REFERENCE = """\
The reference deployment, on another machine, in its five-minute journey of 300 users: 13 containers, 8.2 GB; API average
82 to 158 ms, p95 300 to 563 ms, 177 requests/s; 999 of 1,000 confirmed, 83.5 % success."""

MIB = {"B": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}


class Usage:
    """Processor time and memory of each container, as the engine counts them, asked for until told to stop."""

    def __init__(self, exercise: Exercise) -> None:
        """Begin."""
        self._exercise = exercise
        self._service: dict[str, str] = {}
        for line in exercise.compose("ps", "--format", "{{.Name}} {{.Service}}").splitlines():
            name, service = line.split()
            self._service[name] = service
        self._samples: list[dict[str, tuple[float, float]]] = []
        self._failed: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        stats = ("docker", "stats", "--no-stream", "--format", "{{json .}}", *self._service)
        try:
            while not self._stopping.wait(1.0):
                rows = [json.loads(line) for line in self._exercise.run(*stats).splitlines()]
                self._samples.append({row["Name"]: (_percent(row["CPUPerc"]), _mib(row["MemUsage"])) for row in rows})
        except (Failed, ValueError, KeyError) as error:
            self._failed = error

    def end(self) -> None:
        """Ask no more."""
        self._stopping.set()
        self._thread.join()

    def table(self) -> Table:
        """Return a row for each service and one for all; `Failed` if the engine could not be asked."""
        if self._failed is not None or not self._samples:
            raise Failed(f"The containers could not be measured: {self._failed}")
        title = f"cost of the containers, {len(self._samples)} samples"
        table = Table("service", title=title, title_justify="left")
        for column in ("containers", "processor mean, cores", "most", "memory at the end, MiB", "most"):
            table.add_column(column, justify="right")
        members = defaultdict(list)
        for name, service in self._service.items():
            members[service].append(name)
        for service, names in [*sorted(members.items()), ("all", list(self._service))]:
            processor, memory = (
                [sum(sample[name][part] for name in names) for sample in self._samples] for part in (0, 1)
            )
            figures = (f"{statistics.mean(processor) / 100:.2f}", f"{max(processor) / 100:.2f}", f"{memory[-1]:,.0f}")
            table.add_row(
                service, str(len(names)), *figures, f"{max(memory):,.0f}", end_section=service == max(members)
            )
        return table


def begin(exercise: Exercise) -> None:
    """Bring the stack up as it is by default."""
    exercise.deploy("--product", "nothing", "--stock", "0")


def journey(exercise: Exercise) -> None:
    """Let 0 to 300 people register, log in, look, buy and follow, for five minutes."""
    _hold(exercise, "journey", "journey of 300 users, 1,000 units", units=1000)
    click.echo(REFERENCE)


def crowded_journey(exercise: Exercise) -> None:
    """Let 0 to 2,000 people with accounts look, buy and follow, for two minutes."""
    people = exercise.buyers("visitors", 2000)
    _hold(
        exercise,
        "journey",
        "journey of 2,000 users, 5,000 units",
        units=5000,
        peak=2000,
        factor=0.4,
        buyers_file=people,
    )


def stampedes(exercise: Exercise) -> None:
    """Let 1,000 and 10,000 buyers arrive within 10 seconds."""
    for buyers, units in ((1000, 300), (10_000, 1000)):
        people = exercise.buyers(f"crowd{buyers}", buyers)
        _hold(
            exercise,
            "stampede",
            f"stampede of {buyers:,} buyers within 10 s, {units:,} units",
            units=units,
            buyers_file=people,
            arrive_s=10,
            users=300,
            spawn_rate=300,
        )


def _hold(exercise: Exercise, test: str, title: str, *, units: int, **options: object) -> None:
    """Run a load test to its end, show its verdict and the containers' cost; `Failed` if it failed."""
    name = re.sub(r"\W+", "-", title)
    exercise.say(title)
    product = exercise.product(name, units)
    load = exercise.load(test, name, product=product, audit=exercise.audit_command(), follow_s=120, **options)
    usage = Usage(exercise)
    try:
        code = load.wait(LONGEST_S)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{title} took longer than {LONGEST_S} s.") from error
    finally:
        usage.end()
    costs = usage.table()
    log = (exercise.folder / name / "locust.log").read_text()
    click.echo(re.split(rf"(?m)^{test} *$", log)[-1].strip("\n"))
    Console(width=120).print(costs)
    if code:
        raise Failed(f"{title} ended with {code}; {exercise.folder / name / 'locust.log'}")


def _percent(text: str) -> float:
    return float(text.rstrip("%"))


def _mib(text: str) -> float:
    """Read what is used of `85.3MiB / 256MiB`."""
    used = text.split(" ", maxsplit=1)[0]
    unit = used.lstrip("0123456789.")
    return float(used.removesuffix(unit)) * MIB[unit]
