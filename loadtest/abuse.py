"""Abuse: bots that hammer, share tokens and try for more than their limit, while honest buyers want one unit each.

Several clients share each bot's account. Each sends buys under new keys at its rate, from the first moment to the last,
and heeds no Retry-After. Honest buyers arrive at times drawn beforehand and have patience, as in the stampede. Ends by
itself. Example, against `flashsale up`, with accounts made by `flashsale buyers` (`--prefix` makes two sets):

    locust --headless -f loadtest/abuse.py --host http://127.0.0.1:8000 -u 300 -r 300 \
        --buyers-file buyers.jsonl --bots-file bots.jsonl --product 1
"""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import gevent
from buyer import PATIENCE_S, buy, press, read_buyers
from fleet import in_one_process
from locust import FastHttpUser, constant, events, task
from report import ACCEPTED, Report, add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment


events.init.add_listener(in_one_process)


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Add the options of the crowd to locust's."""
    group = parser.add_argument_group("abuse")
    group.add_argument("--buyers-file", required=True, help="JSON lines {user_id, token}: honest buyers")
    group.add_argument("--bots-file", required=True, help="JSON lines {user_id, token}: accounts of bots")
    group.add_argument("--product", type=int, required=True, help="product id")
    group.add_argument("--arrive-s", type=float, default=5.0, help="honest buyers arrive within so many seconds")
    group.add_argument("--clients", type=int, default=5, help="clients that share the token of a bot")
    group.add_argument("--bot-rate", type=float, default=10.0, help="buys a second that each client of a bot sends")
    group.add_argument("--patience-s", type=float, default=PATIENCE_S, help="how long a buyer repeats one request")
    group.add_argument("--arrival-seed", type=int, default=1, help="seed of the arrival times")
    add_options(parser)


class Abuse:
    """What bots and buyers share."""

    def __init__(self, environment: Environment) -> None:
        """Draw the arrival times."""
        given: Any = environment.parsed_options
        self.options = given
        self.report = Report(environment, "abuse")
        draws = random.Random(given.arrival_seed)
        self.began = time.time() + 1.0
        self.until = self.began + given.arrive_s
        buyers = read_buyers(given.buyers_file)
        times = sorted(draws.uniform(self.began, self.until) for _ in buyers)
        self.arrivals = deque(zip(times, buyers, strict=True))
        bots = [bot for bot in read_buyers(given.bots_file) for _ in range(given.clients)]
        self.bots = deque(bots)
        """Clients of bots that no player plays yet: the first players take them."""
        self.under_way = 0
        self.taken = 0
        """Honest buyers that a player plays, arrived or not."""
        self.numbers = itertools.count(1)
        self.report.pulse.began(self.began, users=lambda: self.under_way)

    @property
    def over(self) -> bool:
        """Whether everybody has been served."""
        return time.time() > self.until and not self.arrivals and not self.taken and not self.under_way


abuse: Abuse


@events.test_start.add_listener
def start(environment: Environment, **_: object) -> None:
    """Set the stage."""
    global abuse  # noqa: PLW0603 - locust builds the users itself
    abuse = Abuse(environment)
    # Nobody waits longer for an answer than the buyer has patience.
    Player.network_timeout = min(Player.network_timeout, abuse.options.patience_s)

    def watch() -> None:
        while not abuse.over:
            gevent.sleep(0.1)
        if environment.runner is not None:
            environment.runner.quit()

    gevent.spawn(watch)


@events.test_stop.add_listener
def stop(environment: Environment, **_: object) -> None:
    """Print summary and verdict."""
    abuse.report.close(environment)


class Player(FastHttpUser):
    """Plays a client of a bot, or one honest buyer after the other."""

    wait_time = constant(0)
    network_timeout = 10.0
    connection_timeout = 10.0

    @task
    def play(self) -> None:
        """Take a bot's part if one is free, else the next buyer's."""
        if abuse.bots:
            self.hammer(abuse.bots.popleft())
        elif abuse.arrivals:
            self.arrive(*abuse.arrivals.popleft())
        else:
            gevent.sleep(0.05)

    def hammer(self, bot: dict[str, str]) -> None:
        """Buy and buy again, from the first moment to the last."""
        gevent.sleep(max(0.0, abuse.began - time.time()))
        while (now := time.time()) < abuse.until:
            abuse.under_way += 1
            try:
                bought = press(self.client, abuse.report, intended_at=now, **self.order(bot))
            finally:
                abuse.under_way -= 1
            if bought.status == ACCEPTED:
                abuse.report.accepted.add(bought.order_id)
            gevent.sleep(max(0.0, now + 1 / abuse.options.bot_rate - time.time()))

    def arrive(self, intended: float, buyer: dict[str, str]) -> None:
        """Buy one unit, with patience."""
        abuse.taken += 1
        gevent.sleep(max(0.0, intended - time.time()))
        abuse.under_way += 1
        try:
            buy(
                self.client,
                abuse.report,
                intended_at=intended,
                patience_s=abuse.options.patience_s,
                **self.order(buyer),
            )
        finally:
            abuse.under_way -= 1
            abuse.taken -= 1

    @staticmethod
    def order(account: dict[str, str]) -> dict[str, Any]:
        """Return whose buy it is, under a new key."""
        given = abuse.options
        key = f"{given.product}-{given.arrival_seed}-{next(abuse.numbers)}"
        return {"user_id": account["user_id"], "token": account["token"], "product": given.product, "key": key}
