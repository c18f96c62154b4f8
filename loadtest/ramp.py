"""The arrival ramp: more and more buyers a second, in steps and in an open model, until the system breaks.

Every arrival is one buy under a key of its own, at a time drawn beforehand, and is sent once. A step broke the system
if more than `--broken-share` of its arrivals had no definite answer, or had it later than `--late-s` after the intended
start; no further step is sent then. Buyers take turns, so that none comes near a rate limit. Ends by itself. Example,
against `flashsale up`, with buyers made by `flashsale buyers`:

    locust --headless -f loadtest/ramp.py --host http://127.0.0.1:8000 -u 400 -r 400 \
        --buyers-file buyers.jsonl --product 1 --rates 100,500,1700
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import gevent
from buyer import leave, press, read_buyers
from fleet import in_one_process
from locust import FastHttpUser, constant, events, task
from report import ACCEPTED, Report, add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment

RATES = "100,500,1700,3500,6000"
GIVE_UP_S = 3.0
"""A buyer who has no answer by then gives up: it is the players' network time-out."""


events.init.add_listener(in_one_process)


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Add the ramp's options to locust's."""
    group = parser.add_argument_group("ramp")
    group.add_argument("--buyers-file", required=True, help="JSON lines {user_id, token}: one per buyer")
    group.add_argument("--product", type=int, required=True, help="product id")
    group.add_argument("--rates", default=RATES, help="arrivals a second, step by step")
    group.add_argument("--step-s", type=float, default=3.0, help="how long a step takes")
    group.add_argument("--late-s", type=float, default=2.0, help="a definite answer after more than this is late")
    group.add_argument(
        "--broken-share", type=float, default=0.05, help="share of bad arrivals above which a step broke"
    )
    group.add_argument("--arrival-seed", type=int, default=1, help="seed of the arrival times")
    add_options(parser)


class Ramp:
    """What the players share: the arrivals of the step, and what came of them."""

    def __init__(self, environment: Environment) -> None:
        """Read the buyers."""
        given: Any = environment.parsed_options
        self.options = given
        self.report = Report(environment, "ramp")
        self.draws = random.Random(given.arrival_seed)
        self.buyers = itertools.cycle(read_buyers(given.buyers_file))
        self.numbers = itertools.count(1)
        self.arrivals: deque[float] = deque()
        """Intended starts that nobody has taken yet."""
        self.open = 0
        """Arrivals of this step without an end."""
        self.counts: Counter[str] = Counter()
        """Ends of this step's arrivals."""
        self.report.pulse.began(time.time(), users=lambda: self.open - len(self.arrivals))

    def run(self) -> None:
        """Send one step after the other, until one breaks the system."""
        given = self.options
        for rate in map(int, given.rates.split(",")):
            self.counts.clear()
            began = time.time() + 0.2
            self.open = round(rate * given.step_s)
            self.arrivals.extend(
                began + at for at in sorted(self.draws.uniform(0, given.step_s) for _ in range(self.open))
            )
            arrived = self.open
            while self.open:
                gevent.sleep(0.02)
            bad = self.counts["failed"] + self.counts["timed_out"] + self.counts["late"]
            step = {"rate": rate, "seconds": given.step_s, "began_at": began, "ended_at": time.time()}
            step |= {"arrived": arrived, "bad_share": bad / arrived, "broke": bad / arrived > given.broken_share}
            names = ("accepted", "refused", "failed", "timed_out", "late")
            self.report.pulse.steps.append({**step, **{name: self.counts[name] for name in names}})
            if step["broke"]:
                break

    def ended(self, intended: float, answered_at: float, *, status: int, definite: bool) -> None:
        """Count the end of an arrival."""
        self.open -= 1
        if not status:
            self.counts["timed_out"] += 1
        elif not definite:
            self.counts["failed"] += 1
        else:
            self.counts["accepted" if status == ACCEPTED else "refused"] += 1
            self.counts["late"] += answered_at > intended + self.options.late_s


ramp: Ramp


@events.test_start.add_listener
def start(environment: Environment, **_: object) -> None:
    """Set the stage."""
    global ramp  # noqa: PLW0603 - locust builds the users itself
    ramp = Ramp(environment)

    def run() -> None:
        players = ramp.options.num_users
        while environment.runner is not None and environment.runner.user_count < players:
            gevent.sleep(0.02)
        ramp.run()
        if environment.runner is not None:
            environment.runner.quit()

    gevent.spawn(run)


@events.test_stop.add_listener
def stop(environment: Environment, **_: object) -> None:
    """Print summary and verdict."""
    ramp.report.close(environment)


class Player(FastHttpUser):
    """Plays one arrival after the other, each at its time."""

    wait_time = constant(0)
    network_timeout = GIVE_UP_S
    connection_timeout = GIVE_UP_S

    @task
    def next_arrival(self) -> None:
        """Play the next arrival; without one, wait a little."""
        if not ramp.arrivals:
            gevent.sleep(0.02)
            return
        intended = ramp.arrivals.popleft()
        gevent.sleep(max(0.0, intended - time.time()))
        buyer, key = next(ramp.buyers), f"{ramp.options.product}-{ramp.options.arrival_seed}-{next(ramp.numbers)}"
        if time.time() > intended + GIVE_UP_S:
            # Every player waits for an answer: this buyer never got a connection.
            leave(ramp.report, user_id=buyer["user_id"], product=ramp.options.product, key=key, intended_at=intended)
            ramp.ended(intended, time.time(), status=0, definite=False)
            return
        bought = press(
            self.client,
            ramp.report,
            user_id=buyer["user_id"],
            token=buyer["token"],
            product=ramp.options.product,
            key=key,
            intended_at=intended,
        )
        if bought.status == ACCEPTED:
            ramp.report.accepted.add(bought.order_id)
        ramp.ended(intended, bought.answered_at, status=bought.status, definite=bought.definite)
