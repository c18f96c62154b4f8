"""The spectators: many streams of one product's stock, held for a while; how stale they get and how often they break.

Staleness of an event is the time between the first stream that has a version and each other one. Ends by itself.
Example, during a sale:

    locust --headless -f loadtest/spectators.py --host http://127.0.0.1:8000 -u 1000 -r 200 --product 1 --hold-s 60
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gevent
from buyer import watch_stock
from fleet import in_one_process
from locust import User, constant, events, task
from report import Report, add_options, percentile

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Add the spectators' options to locust's."""
    group = parser.add_argument_group("spectators")
    group.add_argument("--product", type=int, required=True, help="product id")
    group.add_argument("--hold-s", type=float, default=60.0, help="how long the streams are held once all have begun")
    group.add_argument("--max-staleness-s", type=float, default=2.0, help="longest p99 of an event's staleness")
    add_options(parser)


events.init.add_listener(in_one_process)


class Stand:
    """What the spectators share."""

    def __init__(self, environment: Environment) -> None:
        """Nothing has been seen yet."""
        self.options: Any = environment.parsed_options
        self.runner = environment.runner
        self.report = Report(environment, "spectators")
        self.first_seen: dict[int, float] = {}
        """Version: when the first stream had it."""
        self.closing = gevent.event.Event()
        self.watching = 0
        self.most = 0

    def saw(self, before: int, version: int) -> None:
        """Count an event of a stream that had the version `before`."""
        now = time.time()
        self.report.took("staleness", now - self.first_seen.setdefault(version, now))
        self.report.counts["regressions"] += version < before


stand: Stand


@events.test_start.add_listener
def start(environment: Environment, **_: object) -> None:
    """Set the stage."""
    global stand  # noqa: PLW0603 - locust builds the users itself
    stand = Stand(environment)


@events.spawning_complete.add_listener
def hold(user_count: int, **_: object) -> None:
    """Hold the streams for a while, then end the run."""
    stand.most = user_count

    def close() -> None:
        gevent.sleep(stand.options.hold_s)
        stand.closing.set()
        while stand.watching:
            gevent.sleep(0.1)
        if stand.runner is not None:
            stand.runner.quit()

    gevent.spawn(close)


@events.test_stop.add_listener
def stop(environment: Environment, **_: object) -> None:
    """Print summary and verdict."""
    report, limit_s = stand.report, stand.options.max_staleness_s
    report.counts["spectators"] = stand.most
    p99_s = percentile(report.milliseconds.get("staleness", []), 0.99) / 1000
    report.close(
        environment,
        (f"staleness, p99 < {limit_s:g} s", p99_s < limit_s, f"{p99_s:.2f} s"),
        ("versions that went back = 0", not report.counts["regressions"], f"{report.counts['regressions']}"),
        ("streams refused = 0", not report.counts["streams_refused"], f"{report.counts['streams_refused']}"),
    )


class Spectator(User):
    """One stream."""

    wait_time = constant(0)

    @task
    def watch(self) -> None:
        """Watch until the run ends."""
        reader, version = f"sse-{id(self)}", 0

        def saw(seen: dict[str, Any]) -> None:
            nonlocal version
            stand.saw(version, seen["version"])
            version = seen["version"]

        if stand.closing.is_set():
            gevent.sleep(0.1)
            return
        stand.watching += 1
        try:
            watch_stock(
                self.host or "",
                stand.report,
                product=stand.options.product,
                reader=reader,
                closing=stand.closing,
                on_event=saw,
            )
        finally:
            stand.watching -= 1
