"""One load test in several processes: locust's master, and workers that each play a share of the people.

Locust adds up its own figures. This module shares out the people, and brings what each worker's report has counted to
the master, which prints one summary and one verdict. Without `--master` and `--worker` one process plays everybody.

Locust replaces parts of the standard library when it is imported, so only functions that locust calls import it here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locust.env import Environment

T = TypeVar("T")

FIGURES, END = "flashsale-figures", "flashsale-end"
LONGEST_S = 120.0
"""How long the master waits for the figures of workers that have not ended."""

_gathered: list[dict[str, Any]] = []
"""The figures that have come to this master."""


def in_several_processes(environment: Environment, **_: object) -> None:
    """Take figures as a master; end as a worker once the master says so. A listener of `init`."""
    from locust.runners import MasterRunner, WorkerRunner

    runner = environment.runner
    if isinstance(runner, MasterRunner):
        _gathered.clear()
        runner.register_message(FIGURES, lambda environment, msg: _gathered.append(msg.data))  # noqa: ARG005
    elif isinstance(runner, WorkerRunner):
        # Concurrently: a report waits for the last orders, and the worker must hear its master meanwhile.
        runner.register_message(END, lambda environment, msg: runner.stop(), concurrent=True)  # noqa: ARG005


def is_master(environment: Environment) -> bool:
    """Return whether this process only directs others."""
    from locust.runners import MasterRunner

    return isinstance(environment.runner, MasterRunner)


def worker(environment: Environment) -> int | None:
    """Return this worker's number, from 0; None without a master.

    Raises:
        SystemExit: if there are more workers than were told of, so that their shares would overlap.
    """
    from locust.runners import WorkerRunner

    runner = environment.runner
    if not isinstance(runner, WorkerRunner):
        return None
    expected: Any = environment.parsed_options and environment.parsed_options.expect_workers
    if not 0 <= runner.worker_index < expected:
        raise SystemExit(f"Worker {runner.worker_index + 1} of {expected}: start the master with --expect-workers.")
    return int(runner.worker_index)


def in_one_process(environment: Environment, **_: object) -> None:
    """Refuse a master and workers, for a load test whose figures cannot be added up; a listener of `init`.

    Raises:
        SystemExit: if there are any.
    """
    from locust.runners import MasterRunner, WorkerRunner

    if isinstance(environment.runner, MasterRunner | WorkerRunner):
        raise SystemExit("This load test runs in one process: leave --master and --worker out.")


def share(environment: Environment, people: Sequence[T]) -> Sequence[T]:
    """Return those whom this process plays: nobody for the master, every nth for each of n workers."""
    number = worker(environment)
    if number is None:
        return people[:0] if is_master(environment) else people
    options: Any = environment.parsed_options
    return people[number :: options.expect_workers]


def sent(environment: Environment, figures: dict[str, Any]) -> bool:
    """Send a worker's figures to its master; whether this is a worker, which has nothing to print."""
    from locust.runners import WorkerRunner

    runner = environment.runner
    if not isinstance(runner, WorkerRunner):
        return False
    # Locust's own figures of the last seconds: a worker that quits would take them with it.
    data: dict[str, Any] = {}
    environment.events.report_to_master.fire(client_id=runner.client_id, data=data)
    runner.send_message("stats", data)
    runner.send_message(FIGURES, figures)
    return True


def gather(environment: Environment, add: Callable[[dict[str, Any]], None]) -> str | None:
    """As a master, end the workers and add the figures of each; returns what is missing, None if nothing is."""
    from locust.runners import MasterRunner

    runner, options = environment.runner, environment.parsed_options
    if not isinstance(runner, MasterRunner) or options is None:
        return None
    runner.send_message(END)
    until = time.monotonic() + LONGEST_S
    while len(_gathered) < options.expect_workers and time.monotonic() < until:
        gevent.sleep(0.1)
    for figures in _gathered:
        add(figures)
    missing = options.expect_workers - len(_gathered)
    return f"{missing} of {options.expect_workers} sent no figures" if missing else None
