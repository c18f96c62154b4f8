"""The stampede: many buyers arrive within seconds, in an open model; black box over HTTP.

Arrival times are drawn beforehand, and latency counts from the intended arrival, so a slow server cannot slow the load
down. A fixed pool of locust users plays the buyers. Every buy has an idempotency key and is repeated under it after
429, 503 and lost answers. Ends by itself; SIGUSR1 ends the patience of persistent buyers early. Example, against
`flashsale up`, with buyers made by `flashsale buyers`:

    locust --headless -f loadtest/stampede.py --host http://127.0.0.1:8000 -u 200 -r 200 \
        --buyers-file buyers.jsonl --product 1 --arrive-s 5 --history sale.jsonl
"""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from buyer import PATIENCE_S, PAUSE_S, SETTLE_S, await_final, buy, poll_until_final, read_buyers, watch_stock
from fleet import in_several_processes, is_master, share, worker
from locust import FastHttpUser, constant, events, task
from report import ACCEPTED, Report, add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from buyer import Bought
    from locust.env import Environment


events.init.add_listener(in_several_processes)


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Add the stampede's options to locust's."""
    group = parser.add_argument_group("stampede")
    group.add_argument("--buyers-file", required=True, help="JSON lines {user_id, token}: one per buyer")
    group.add_argument("--product", type=int, required=True, help="product id")
    group.add_argument("--arrive-s", type=float, default=5.0, help="buyers arrive within so many seconds")
    group.add_argument("--persistence", type=float, default=0.05, help="share of sold-out buyers that keep trying")
    group.add_argument("--persist-s", type=float, default=10.0, help="how long these go on after the last arrival")
    group.add_argument("--follow", type=float, default=0.1, help="share of accepted orders polled at once until final")
    group.add_argument("--streams", type=int, default=5, help="readers of the stock's stream")
    group.add_argument("--patience-s", type=float, default=PATIENCE_S, help="how long a buyer repeats one request")
    group.add_argument("--follow-s", type=float, default=60.0, help="longest time that an order is waited for")
    group.add_argument(
        "--settle-s", type=float, default=SETTLE_S, help="how long streams are read after the last order has ended"
    )
    group.add_argument("--arrival-seed", type=int, default=1, help="seed of the arrival times")
    group.add_argument("--began", help="file that gets the time, in Unix seconds, from which buyers arrive")
    add_options(parser)


class Stampede:
    """What the players share: the schedule and who is under way."""

    def __init__(self, environment: Environment) -> None:
        """Draw the arrival times."""
        given: Any = environment.parsed_options
        self.options = given
        self.report = Report(environment, "stampede")
        self.draws = random.Random(given.arrival_seed)
        buyers = read_buyers(given.buyers_file)
        self.began = time.time() + 1.0
        if given.began:
            Path(given.began).write_text(str(self.began))
        self.report.pulse.began(self.began, users=lambda: self.busy - self.waiting)
        self.serial = itertools.count()
        # Each process draws all times and plays its share, so that workers draw no time twice.
        everybody = [
            (self.began + self.draws.uniform(0, given.arrive_s), next(self.serial), buyer, 0) for buyer in buyers
        ]
        self.schedule: list[tuple[float, int, dict[str, Any], int]] = list(share(environment, everybody))
        heapq.heapify(self.schedule)
        self.until = self.began + given.arrive_s + given.persist_s
        self.busy = 0
        self.waiting = 0
        """Of the busy players, those whose buyer has not arrived yet."""
        self.following = 0
        self.unfollowed: list[tuple[str, str]] = []
        """Accepted orders that nobody polls: id and its buyer's token."""
        self.closing = gevent.event.Event()

    def satisfy(self) -> None:
        """Let nobody who was told `sold out` try again, from now on."""
        self.until = 0.0
        self.schedule = [entry for entry in self.schedule if entry[3] == 0]
        heapq.heapify(self.schedule)

    @property
    def over(self) -> bool:
        """Whether nobody is going to arrive any more and everybody has been served."""
        return not self.schedule and not self.busy and not self.following


stampede: Stampede


@events.test_start.add_listener
def start(environment: Environment, **_: object) -> None:
    """Set the stage, and end the run once everybody has been served."""
    global stampede  # noqa: PLW0603 - locust builds the users itself
    stampede = Stampede(environment)
    # Nobody waits longer for an answer than the buyer has patience.
    Player.network_timeout = min(Player.network_timeout, stampede.options.patience_s)
    gevent.signal_handler(signal.SIGUSR1, stampede.satisfy)
    report, given = stampede.report, stampede.options
    if is_master(environment):
        return
    # Readers of one history have names of their own.
    number = worker(environment)
    place = "" if number is None else f"{number}-"

    def watch_as(reader: str) -> None:
        watch_stock(
            environment.host or "",
            report,
            product=given.product,
            reader=reader,
            closing=stampede.closing,
            on_event=lambda seen: report.note(kind="stock", reader=reader, **seen),
            settle_s=given.settle_s,
        )

    streams = [gevent.spawn(watch_as, f"sse-{place}{reader}") for reader in range(given.streams)]

    def watch() -> None:
        while not stampede.over:
            gevent.sleep(0.1)
        # Only then is the stock at rest, and what the streams show at the end can be held against it.
        await_final(environment.host or "", report, stampede.unfollowed, longest_s=given.follow_s)
        stampede.closing.set()
        gevent.joinall(streams, timeout=10)
        if environment.runner is not None:
            environment.runner.quit()

    gevent.spawn(watch)


@events.test_stop.add_listener
def stop(environment: Environment, **_: object) -> None:
    """Print summary and verdict."""
    stampede.report.close(environment)


class Player(FastHttpUser):
    """Plays one buyer after the other, each at its time."""

    wait_time = constant(0)
    network_timeout = 10.0
    connection_timeout = 10.0

    @task
    def next_buyer(self) -> None:
        """Play the next buyer of the schedule; without one, wait a little."""
        if not stampede.schedule:
            gevent.sleep(0.05)
            return
        intended, _, buyer, round_ = heapq.heappop(stampede.schedule)
        stampede.busy += 1
        try:
            stampede.waiting += 1
            gevent.sleep(max(0.0, intended - time.time()))
            stampede.waiting -= 1
            self.play(intended, buyer, round_)
        finally:
            stampede.busy -= 1

    def play(self, intended: float, buyer: dict[str, Any], round_: int) -> None:
        """Buy one unit; follow the order, or come back if it was sold out."""
        given, report, token = stampede.options, stampede.report, buyer["token"]
        # A buyer may take part in many runs: their keys differ.
        key = f"{given.product}-{given.arrival_seed}-{round_}"
        bought = buy(
            self.client,
            report,
            user_id=buyer["user_id"],
            token=token,
            product=given.product,
            key=key,
            intended_at=intended,
            patience_s=given.patience_s,
        )
        if bought is None:
            return
        if bought.status == ACCEPTED:
            if stampede.draws.random() < given.follow:
                stampede.following += 1
                gevent.spawn(self.follow, bought, token)
            else:
                stampede.unfollowed.append((bought.order_id, token))
        elif bought.code == "sold_out":
            report.seconds.setdefault("sold_out_after_s", bought.answered_at - stampede.began)
            again_at = bought.answered_at + PAUSE_S
            persistent = round_ > 0 or stampede.draws.random() < given.persistence
            if persistent and again_at < stampede.until:
                heapq.heappush(stampede.schedule, (again_at, next(stampede.serial), buyer, round_ + 1))

    def follow(self, bought: Bought, token: str) -> None:
        """Poll an order until it is final."""
        try:
            poll_until_final(self.client, stampede.report, bought, token=token, longest_s=stampede.options.follow_s)
        finally:
            stampede.following -= 1
