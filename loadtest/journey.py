"""The journey: people come, register, log in, look, buy and follow their order; in a ramp of virtual users.

0 to 50 users in 30 s, to 150 in 1 min, to 300 in 2 min, down to 100 in 1 min and to 0 in 30 s; `--peak` scales the
users, `--factor` the times. With `--buyers-file` nobody registers or logs in: for crowds that would do nothing but have
their passwords hashed. Ends by itself. Example, against `flashsale up`:

    locust --headless -f loadtest/journey.py --host http://127.0.0.1:8000 --product 1 --factor 0.2
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
import time
from typing import TYPE_CHECKING, Any

import gevent
from buyer import (
    AGAIN,
    PATIENCE_S,
    PAUSE_S,
    Bought,
    await_final,
    buy,
    poll_until_final,
    read_buyers,
    stream_until_final,
)
from fleet import in_several_processes, share
from locust import FastHttpUser, LoadTestShape, between, events, task
from locust.exception import StopUser
from report import ACCEPTED, Report, add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment

PEAK = 300
RAMP = ((30, 50), (60, 150), (120, 300), (60, 100), (30, 0))
"""Seconds, and users at their end, of which PEAK is the most."""


events.init.add_listener(in_several_processes)


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Add the journey's options to locust's."""
    group = parser.add_argument_group("journey")
    group.add_argument("--product", type=int, required=True, help="product id")
    group.add_argument("--peak", type=int, default=PEAK, help="most users at once")
    group.add_argument("--factor", type=float, default=1.0, help="the ramp takes 5 minutes times this")
    group.add_argument("--buyers-file", default="", help="JSON lines {user_id, token}; without it everybody registers")
    group.add_argument("--stream", type=float, default=0.5, help="share of orders followed by stream, the rest polled")
    group.add_argument("--replay", type=float, default=0.1, help="share of accepted buys sent once more")
    group.add_argument("--patience-s", type=float, default=PATIENCE_S, help="how long a buyer repeats one request")
    group.add_argument("--follow-s", type=float, default=60.0, help="longest time that an order is waited for")
    add_options(parser)


class Journey:
    """What the visitors share."""

    def __init__(self, environment: Environment) -> None:
        """Read the buyers, if there are."""
        given: Any = environment.parsed_options
        self.options = given
        self.report = Report(environment, "journey")
        self.buyers = itertools.cycle(share(environment, read_buyers(given.buyers_file))) if given.buyers_file else None
        self.began = time.time()
        self.report.pulse.began(self.began, users=lambda: environment.runner.user_count if environment.runner else 0)
        self.run = secrets.token_hex(4)
        self.numbers = itertools.count(1)
        self.open: dict[str, str] = {}
        """Orders whose visitor has not seen their end: id and token."""


journey: Journey


@events.test_start.add_listener
def start(environment: Environment, **_: object) -> None:
    """Set the stage."""
    global journey  # noqa: PLW0603 - locust builds the users itself
    journey = Journey(environment)


@events.test_stop.add_listener
def stop(environment: Environment, **_: object) -> None:
    """Wait for the orders of those who were sent home, then print summary and verdict."""
    await_final(environment.host or "", journey.report, journey.open.items(), longest_s=journey.options.follow_s)
    journey.report.close(environment)


class Ramp(LoadTestShape):
    """The ramp, in straight lines."""

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there should be now, and how many may come in a second; None at the end."""
        given: Any = self.runner.environment.parsed_options if self.runner else None
        at, before = self.get_run_time() / given.factor, 0
        for seconds, users in RAMP:
            if at < seconds:
                wanted = before + (users - before) * at / seconds
                return max(1, round(wanted * given.peak / PEAK)), max(1.0, given.peak / 10)
            at, before = at - seconds, users
        return None


class Visitor(FastHttpUser):
    """One person."""

    wait_time = between(1, 3)
    network_timeout = 30.0
    connection_timeout = 10.0
    user_id = token = ""

    def on_start(self) -> None:
        """Come with an account, or make one and log in."""
        if journey.buyers is not None:
            buyer = next(journey.buyers)
            self.user_id, self.token = buyer["user_id"], buyer["token"]
            return
        email = f"visitor-{journey.run}-{next(journey.numbers)}@example.com"
        account = {"email": email, "password": secrets.token_urlsafe(12)}
        registered = self.send("/api/auth/register", "register", {**account, "name": "Visitor"})
        self.user_id = registered["user"]["id"]
        self.token = self.send("/api/auth/login", "log in", account)["token"]

    @task
    def visit(self) -> None:
        """Look, buy, follow; who is told `sold out` looks again."""
        given, report = journey.options, journey.report
        self.client.get("/api/products", name="products")
        with self.client.get(f"/api/products/{given.product}", name="product", catch_response=True) as response:
            looked = response.status_code
        if not looked:
            return
        bought = self.buy(f"{journey.run}-{next(journey.numbers)}")
        if bought is None or bought.status != ACCEPTED:
            if bought is not None and bought.code == "sold_out":
                report.seconds.setdefault("sold_out_after_s", bought.answered_at - journey.began)
            return
        journey.open[bought.order_id] = self.token
        if random.random() < given.stream:
            stream_until_final(self.host or "", report, bought, token=self.token, longest_s=given.follow_s)
        else:
            poll_until_final(self.client, report, bought, token=self.token, longest_s=given.follow_s)
        del journey.open[bought.order_id]

    def buy(self, key: str) -> Bought | None:
        """Buy one unit, and some of the accepted a second time under the same key."""
        given = journey.options
        bought = None
        for _ in range(2):
            bought = buy(
                self.client,
                journey.report,
                user_id=self.user_id,
                token=self.token,
                product=given.product,
                key=key,
                intended_at=time.time(),
                patience_s=given.patience_s,
            )
            if bought is None or bought.status != ACCEPTED or random.random() >= given.replay:
                break
        return bought

    def send(self, path: str, name: str, body: dict[str, str]) -> dict[str, Any]:
        """Post until there is an answer other than `later`; a visitor who gets none goes home."""
        until = time.time() + PATIENCE_S
        while time.time() < until:
            with self.client.post(path, json=body, name=name, catch_response=True) as response:
                status = response.status_code or 0
                if status in AGAIN:
                    response.success()
                elif response.ok:
                    answer: dict[str, Any] = json.loads(response.content or b"{}")
                    return answer
                else:
                    response.failure(f"answered {status}")
                    break
            gevent.sleep(PAUSE_S * random.uniform(0.5, 1.0))
        journey.report.counts["sent_home"] += 1
        raise StopUser
