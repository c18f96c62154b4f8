"""What a buyer does over HTTP: buy with patience, follow an order, watch the stock. Every observation is noted."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gevent
from report import ACCEPTED, ANSWERS, TOO_MANY, UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from locust.contrib.fasthttp import FastHttpSession
    from report import Report

AGAIN = frozenset({0, TOO_MANY, 502, UNAVAILABLE, 504})
"""Answers (0: none) after which the same request is sent again under its key."""
LOCKED = "locked"
"""Code of a 409 that decides nothing: an architecture with a lock for each product tells the buyer to come back."""
PATIENCE_S = 60.0
"""How long a buyer repeats one request without a definite answer."""
PAUSE_S = 1.0
"""Longest pause between two tries; the shortest is half of it."""
POLL_S = 0.5
SETTLE_S = 2.0
"""Within this time the last change must reach every stream (I14)."""
FINAL = frozenset({"confirmed", "payment_failed", "expired", "cancelled", "failed", "refunded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """The definite answer to a buy."""

    status: int
    code: str
    """The problem's code; empty for a 202."""
    order_id: str
    answered_at: float

    @property
    def definite(self) -> bool:
        """Whether the answer decides; after another one the same request is sent again under its key."""
        return self.status not in AGAIN and self.code != LOCKED


def read_buyers(path: str) -> list[dict[str, str]]:
    """Read buyers, JSON lines {user_id, token}.

    Raises:
        SystemExit: with a sentence, if the file has none, or one without a token.
    """
    try:
        buyers = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
        if not buyers or not all(buyer["user_id"] and buyer["token"] for buyer in buyers):
            raise ValueError("it has no buyers, or a buyer without a token")  # noqa: TRY301
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is no file of buyers: {error}. `flashsale buyers` makes one.") from error
    return buyers


def press(
    client: FastHttpSession, report: Report, *, user_id: str, token: str, product: int, key: str, intended_at: float
) -> Bought:
    """Send a buy of one unit once; status 0: no answer came."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key, "Content-Type": "application/json"}
    body = json.dumps({"productId": product})
    sent_at = time.time()
    with client.post("/api/order/buy-flash", data=body, headers=headers, name="buy", catch_response=True) as response:
        answered_at = time.time()
        status = response.status_code or 0
        content = response.content or b""
        if status in ANSWERS:
            response.success()
    answer = json.loads(content) if status in ANSWERS else {}
    report.took("buy_from_sent", answered_at - sent_at)
    report.statuses[status] += 1
    bought = Bought(
        status=status, code=answer.get("code", ""), order_id=answer.get("orderId", ""), answered_at=answered_at
    )
    report.note(
        kind="buy",
        user=user_id,
        key=key,
        product=product,
        quantity=1,
        intended_at=intended_at,
        sent_at=sent_at,
        answered_at=answered_at,
        status=status,
        order_id=bought.order_id or None,
        code=bought.code or None,
        body=hashlib.sha256(content).hexdigest() if status == ACCEPTED else None,
        answer=_bought(answer) if status == ACCEPTED else None,
    )
    return bought


def leave(report: Report, *, user_id: str, product: int, key: str, intended_at: float) -> None:
    """Note a buyer who gave up before a connection was free: the buy was never sent."""
    now = time.time()
    report.statuses[0] += 1
    buy = {"user": user_id, "key": key, "product": product, "quantity": 1, "intended_at": intended_at}
    report.note(kind="buy", **buy, sent_at=now, answered_at=now, status=0, order_id=None, code=None, body=None)


def buy(
    client: FastHttpSession,
    report: Report,
    *,
    user_id: str,
    token: str,
    product: int,
    key: str,
    intended_at: float,
    patience_s: float = PATIENCE_S,
) -> Bought | None:
    """Buy one unit, repeating the same request until there is a definite answer; None if patience ends first."""
    if time.time() > intended_at + patience_s:
        leave(report, user_id=user_id, product=product, key=key, intended_at=intended_at)
        report.counts["given_up"] += 1
        return None
    for number in itertools.count():
        bought = press(client, report, user_id=user_id, token=token, product=product, key=key, intended_at=intended_at)
        if number == 0:
            report.took("buy_from_intended", bought.answered_at - intended_at)
        if bought.definite:
            if bought.status == ACCEPTED:
                report.counts["replays"] += bool(number) or bought.order_id in report.accepted
                report.accepted.add(bought.order_id)
            else:
                report.counts[bought.code or "unexpected"] += 1
            return bought
        if bought.answered_at > intended_at + patience_s:
            report.counts["given_up"] += 1
            return None
        gevent.sleep(PAUSE_S * random.uniform(0.5, 1.0))
    raise AssertionError


def poll_until_final(client: FastHttpSession, report: Report, bought: Bought, *, token: str, longest_s: float) -> None:
    """Poll an accepted order until it is final."""
    while time.time() < bought.answered_at + longest_s:
        with client.get(
            f"/api/order/{bought.order_id}/status",
            headers={"Authorization": f"Bearer {token}"},
            name="status",
            catch_response=True,
        ) as response:
            answer = _document(response.content)
            if response.status_code in {0, UNAVAILABLE}:
                response.success()
        if "version" in answer and _seen(report, f"poll-{bought.order_id}", answer, bought):
            return
        gevent.sleep(POLL_S)
    report.counts["not_final"] += 1


def stream_until_final(host: str, report: Report, bought: Bought, *, token: str, longest_s: float) -> None:
    """Follow an accepted order's stream until it is final, connecting again whenever it ends before."""
    version = 0
    until = bought.answered_at + longest_s
    while time.time() < until:
        headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": str(version)}
        for event in events(host, f"/sse/orders/{bought.order_id}", headers, report, until=until):
            version = event["version"]
            if _seen(report, f"sse-{bought.order_id}", event, bought):
                return
        gevent.sleep(PAUSE_S * random.uniform(0.5, 1.0))
    report.counts["not_final"] += 1


def await_final(host: str, report: Report, orders: Iterable[tuple[str, str]], *, longest_s: float) -> None:
    """Ask for orders (id, token) that nobody followed until each is final, one after the other on one connection.

    Orders that there is no time left to ask for count as not final.
    """
    place = urlsplit(host)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    until = time.time() + longest_s
    for order_id, token in orders:
        while time.time() < until:
            try:
                connection.request("GET", f"/api/order/{order_id}/status", headers={"Authorization": f"Bearer {token}"})
                status = _document(connection.getresponse().read()).get("status")
            except (OSError, http.client.HTTPException):
                connection.close()
                status = None
            if status in FINAL:
                report.finals[status] += 1
                break
            gevent.sleep(PAUSE_S / 4)
        else:
            report.counts["not_final"] += 1


def watch_stock(
    host: str,
    report: Report,
    *,
    product: int,
    reader: str,
    closing: gevent.event.Event,
    on_event: Callable[[dict[str, Any]], None],
    settle_s: float = SETTLE_S,
) -> None:
    """Watch the stock, connecting again with Last-Event-ID, until `closing` is set and `settle_s` more are over."""
    last: dict[str, Any] = {}

    def read() -> None:
        nonlocal last
        while True:
            headers = {"Last-Event-ID": str(last["version"])} if last else {}
            for event in events(host, f"/sse/stock/{product}", headers, report):
                last = {"product": event["productId"], "version": event["version"], "stock": event["stock"]}
                report.counts["stock_events"] += 1
                on_event(last)
            report.counts["stream_reconnects"] += 1
            gevent.sleep(PAUSE_S * random.uniform(0.5, 1.0))

    reading = gevent.spawn(read)
    closing.wait()
    gevent.sleep(settle_s)
    reading.kill()
    if last:
        report.note(kind="stock", reader=reader, last=True, **last)


def events(
    host: str, path: str, headers: dict[str, str], report: Report, *, until: float | None = None
) -> Iterator[dict[str, Any]]:
    """Read the events of one connection until either side closes it."""
    place = urlsplit(host)
    longest_s = 60.0 if until is None else max(1.0, until - time.time())
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=longest_s)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        report.counts["streams_refused"] += response.status >= http.client.BAD_REQUEST
        while line := response.readline():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()


def _seen(report: Report, reader: str, seen: dict[str, Any], bought: Bought) -> bool:
    """Note an order's state; whether it is final."""
    status = seen["status"]
    report.note(kind="order", reader=reader, order_id=bought.order_id, version=seen["version"], status=status)
    if status not in FINAL:
        return False
    report.took("202_to_final", time.time() - bought.answered_at)
    report.finals[status] += 1
    return True


def _bought(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what a 202 says of the product, as a history has it."""
    product = answer["product"]
    return {"product": product["id"], **{name: product[name] for name in ("name", "price", "currency", "quantity")}}


def _document(content: bytes | None) -> dict[str, Any]:
    try:
        document = json.loads(content or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
