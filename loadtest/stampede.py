"""The stampede: many buyers arrive within seconds, in an open model; black box over HTTP.

Arrival times are drawn beforehand, and latency counts from the intended arrival, so a slow server cannot slow the load
down. A fixed pool of locust users plays the buyers. Every buy has an idempotency key and is repeated under it after
429, 503 and lost answers. Ends by itself; SIGUSR1 ends the patience of persistent buyers early. Example, against
`flashsale up`, with buyers made by `flashsale buyers`:

    locust --headless -f loadtest/stampede.py --host http://127.0.0.1:8000 -u 200 -r 200 \
        --buyers-file buyers.jsonl --product 1 --arrive-s 5 --history sale.jsonl
"""

from __future__ import annotations

import hashlib
import heapq
import http.client
import itertools
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, constant, events, task
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment

ACCEPTED, CONFLICT, TOO_MANY, UNAVAILABLE = 202, 409, 429, 503
ANSWERS = frozenset({ACCEPTED, CONFLICT, TOO_MANY, UNAVAILABLE})
"""What a sale answers; everything else counts as a failure."""
AGAIN = frozenset({0, TOO_MANY, 502, UNAVAILABLE, 504})
"""Answers (0: none) after which the same request is sent again under its key."""
PATIENCE_S = 60.0
"""How long a buyer repeats one request without a definite answer."""
PAUSE_S = 1.0
"""Between two tries, and between two attempts of a persistent buyer."""
POLL_S = 0.5
FINAL = frozenset({"confirmed", "payment_failed", "expired", "cancelled", "failed", "refunded"})


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    """Add the stampede's options to locust's."""
    group = parser.add_argument_group("stampede")
    group.add_argument("--buyers-file", required=True, help="JSON lines {user_id, token}: one per buyer")
    group.add_argument("--product", type=int, required=True, help="product id")
    group.add_argument("--arrive-s", type=float, default=5.0, help="buyers arrive within so many seconds")
    group.add_argument("--persistence", type=float, default=0.05, help="share of sold-out buyers that keep trying")
    group.add_argument("--persist-s", type=float, default=10.0, help="how long these go on after the last arrival")
    group.add_argument("--follow", type=float, default=0.1, help="share of accepted orders polled at once until final")
    group.add_argument("--streams", type=int, default=5, help="readers of the stock's stream")
    group.add_argument("--follow-s", type=float, default=60.0, help="longest time that an order is waited for")
    group.add_argument("--arrival-seed", type=int, default=1, help="seed of the arrival times")
    group.add_argument("--history", default="", help="write every observation to this file (JSON lines)")
    group.add_argument("--summary", default="", help="write the summary to this file (JSON)")


class Sale:
    """What the players share: the schedule, the counters, the history."""

    def __init__(self, environment: Environment) -> None:
        """Draw the arrival times."""
        options: Any = environment.parsed_options
        self.options = options
        self.body = json.dumps({"productId": options.product}).encode()
        self.draws = random.Random(options.arrival_seed)
        buyers = [json.loads(line) for line in Path(options.buyers_file).read_text().splitlines()]
        self.began = time.time() + 1.0
        self.serial = itertools.count()
        self.schedule: list[tuple[float, int, dict[str, Any], int]] = [
            (self.began + self.draws.uniform(0, options.arrive_s), next(self.serial), buyer, 0) for buyer in buyers
        ]
        heapq.heapify(self.schedule)
        self.until = self.began + options.arrive_s + options.persist_s
        self.busy = 0
        self.following = 0
        self.unfollowed: list[tuple[str, str]] = []
        """Accepted orders that nobody polls: id and its buyer's token."""
        self.closing = gevent.event.Event()
        self.counts: Counter[str] = Counter()
        self.from_intended_ms: list[float] = []
        self.from_sent_ms: list[float] = []
        self.to_final_ms: list[float] = []
        self.finals: Counter[str] = Counter()
        self.first_sold_out_s = 0.0
        self.history = Path(options.history).open("w") if options.history else None  # noqa: SIM115

    def satisfy(self) -> None:
        """Let nobody who was told `sold out` try again, from now on."""
        self.until = 0.0
        self.schedule = [entry for entry in self.schedule if entry[3] == 0]
        heapq.heapify(self.schedule)

    def note(self, **entry: object) -> None:
        """Write a line of history."""
        if self.history is not None:
            self.history.write(json.dumps(entry) + "\n")

    @property
    def over(self) -> bool:
        """Whether nobody is going to arrive any more and everybody has been served."""
        return not self.schedule and not self.busy and not self.following


sale: Sale


@events.test_start.add_listener
def start(environment: Environment, **_: object) -> None:
    """Set the stage, and end the run once everybody has been served."""
    global sale  # noqa: PLW0603 - locust builds the users itself
    sale = Sale(environment)
    gevent.signal_handler(signal.SIGUSR1, sale.satisfy)
    streams = [gevent.spawn(read_stock, environment.host, number) for number in range(sale.options.streams)]

    def watch() -> None:
        while not sale.over:
            gevent.sleep(0.1)
        # Only then is the stock at rest, and what the streams show at the end can be held against it.
        await_the_rest(environment.host)
        sale.closing.set()
        gevent.joinall(streams, timeout=10)
        if environment.runner is not None:
            environment.runner.quit()

    gevent.spawn(watch)


@events.test_stop.add_listener
def stop(environment: Environment, **_: object) -> None:
    """Print the summary."""
    if sale.history is not None:
        sale.history.close()
    summary = summarise()
    if sale.options.summary:
        Path(sale.options.summary).write_text(json.dumps(summary, indent=2) + "\n")
    table = Table("figure", "value", title="stampede", title_justify="left")
    for name, value in summary.items():
        table.add_row(name.replace("_", " "), f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
    Console(file=sys.stdout).print(table)
    environment.process_exit_code = int(any(summary[name] for name in ("unexpected_answers", "given_up", "not_final")))


class Player(FastHttpUser):
    """Plays one buyer after the other, each at its time."""

    wait_time = constant(0)
    network_timeout = 10.0
    connection_timeout = 10.0

    @task
    def next_buyer(self) -> None:
        """Play the next buyer of the schedule; without one, wait a little."""
        if not sale.schedule:
            gevent.sleep(0.05)
            return
        intended, _, buyer, round_ = heapq.heappop(sale.schedule)
        sale.busy += 1
        try:
            gevent.sleep(max(0.0, intended - time.time()))
            self.buy(intended, buyer, round_)
        finally:
            sale.busy -= 1

    def buy(self, intended: float, buyer: dict[str, Any], round_: int) -> None:
        """Buy one unit; the same request again until there is an answer."""
        # A buyer may take part in many runs: their keys differ.
        key = f"{sale.options.product}-{sale.options.arrival_seed}-{round_}"
        code = ""
        for number in itertools.count():
            sent_at = time.time()
            with self.client.post(
                "/api/order/buy-flash",
                data=sale.body,
                headers={
                    "Authorization": f"Bearer {buyer['token']}",
                    "Idempotency-Key": key,
                    "Content-Type": "application/json",
                },
                name="buy",
                catch_response=True,
            ) as response:
                answered_at = time.time()
                status = response.status_code or 0
                content = response.content or b""
                if status in ANSWERS:
                    response.success()
            answer = json.loads(content) if status in ANSWERS else {}
            code = answer.get("code", "")
            body = hashlib.sha256(content).hexdigest() if status == ACCEPTED else None
            sale.from_sent_ms.append((answered_at - sent_at) * 1000)
            if number == 0 and round_ == 0:
                sale.from_intended_ms.append((answered_at - intended) * 1000)
            sale.counts[str(status)] += 1
            sale.note(
                kind="buy",
                user=buyer["user_id"],
                key=key,
                product=sale.options.product,
                quantity=1,
                sent_at=sent_at,
                answered_at=answered_at,
                status=status,
                order_id=answer.get("orderId"),
                code=code or None,
                body=body,
            )
            if status not in AGAIN:
                break
            if answered_at > intended + PATIENCE_S:
                sale.counts["given_up"] += 1
                return
            gevent.sleep(PAUSE_S * sale.draws.uniform(0.5, 1.0))
        if status == ACCEPTED:
            sale.counts["accepted"] += 1
            if sale.draws.random() < sale.options.follow:
                sale.following += 1
                gevent.spawn(self.follow, answer["orderId"], buyer["token"], answered_at)
            else:
                sale.unfollowed.append((answer["orderId"], buyer["token"]))
        elif code == "sold_out":
            sale.counts["sold_out"] += 1
            sale.first_sold_out_s = sale.first_sold_out_s or answered_at - sale.began
            again_at = answered_at + PAUSE_S
            persistent = round_ > 0 or sale.draws.random() < sale.options.persistence
            if persistent and again_at < sale.until:
                heapq.heappush(sale.schedule, (again_at, next(sale.serial), buyer, round_ + 1))

    def follow(self, order_id: str, token: str, accepted_at: float) -> None:
        """Poll an order until it is final."""
        try:
            while time.time() < accepted_at + sale.options.follow_s:
                with self.rest(
                    "GET",
                    f"/api/order/{order_id}/status",
                    headers={"Authorization": f"Bearer {token}"},
                    name="status",
                ) as response:
                    answer = response.js if isinstance(response.js, dict) else {}
                if "version" in answer:
                    seen = {"order_id": order_id, "version": answer["version"], "status": answer["status"]}
                    sale.note(kind="order", reader=f"poll-{order_id}", **seen)
                if answer.get("status") in FINAL:
                    sale.to_final_ms.append((time.time() - accepted_at) * 1000)
                    sale.finals[answer["status"]] += 1
                    return
                gevent.sleep(POLL_S)
            sale.counts["not_final"] += 1
        finally:
            sale.following -= 1


def await_the_rest(host: str) -> None:
    """Ask for each order that nobody followed, until it is final; one after the other, on one connection."""
    place = urlsplit(host)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    until = time.time() + sale.options.follow_s
    for order_id, token in sale.unfollowed:
        while True:
            try:
                connection.request("GET", f"/api/order/{order_id}/status", headers={"Authorization": f"Bearer {token}"})
                status = json.loads(connection.getresponse().read()).get("status")
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                connection.close()
                status = None
            if status in FINAL:
                sale.finals[status] += 1
                break
            if time.time() >= until:
                sale.counts["not_final"] += 1
                break
            gevent.sleep(PAUSE_S / 4)


def read_stock(host: str, number: int) -> None:
    """Read the stock's stream, connecting again with Last-Event-ID, until the run ends and one second longer."""
    place = urlsplit(host)
    last: dict[str, Any] = {}

    def read() -> None:
        nonlocal last
        while True:
            try:
                connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
                headers = {"Last-Event-ID": str(last["version"])} if last else {}
                connection.request("GET", f"/sse/stock/{sale.options.product}", headers=headers)
                response = connection.getresponse()
                while line := response.readline():
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        last = {"product": event["productId"], "version": event["version"], "stock": event["stock"]}
                        sale.note(kind="stock", reader=f"sse-{number}", **last)
                        sale.counts["stock_events"] += 1
            except (OSError, http.client.HTTPException):
                sale.counts["stream_reconnects"] += 1
            gevent.sleep(PAUSE_S)

    reading = gevent.spawn(read)
    sale.closing.wait()
    # The last change reaches every stream within 2 s, or the audit of the history says so.
    gevent.sleep(2)
    reading.kill()
    if last:
        sale.note(kind="stock", reader=f"sse-{number}", last=True, **last)


def percentile(values: list[float], share: float) -> float:
    """Give the value that `share` of the values do not exceed; 0.0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def summarise() -> dict[str, float | int]:
    """Give the figures of the run."""
    counts = sale.counts
    summary: dict[str, float | int] = {
        "buys_sent": len(sale.from_sent_ms),
        "accepted": counts["accepted"],
        "sold_out_answers": counts["sold_out"],
        "answers_429": counts[str(TOO_MANY)],
        "answers_503": counts[str(UNAVAILABLE)],
        "no_answer": counts["0"],
        "5xx_other_than_503": sum(
            count for name, count in counts.items() if name.isdigit() and name[0] == "5" and name != str(UNAVAILABLE)
        ),
        "unexpected_answers": sum(
            count for name, count in counts.items() if name.isdigit() and name != "0" and int(name) not in ANSWERS
        ),
        "given_up": counts["given_up"],
        "confirmed": sale.finals["confirmed"],
        "declined": sale.finals["payment_failed"],
        "not_final": counts["not_final"],
        "stock_events": counts["stock_events"],
        "sold_out_after_s": sale.first_sold_out_s,
    }
    for name, values in (
        ("buy_from_intended_ms", sale.from_intended_ms),
        ("buy_from_sent_ms", sale.from_sent_ms),
        ("202_to_final_ms", sale.to_final_ms),
    ):
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            summary[f"{name}_{label}"] = round(percentile(values, share), 1)
    return summary
