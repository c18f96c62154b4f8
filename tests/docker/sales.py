"""Three sales through nginx, each disturbed: killed containers, a new version, a second deployment."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from typing import TYPE_CHECKING

import click

from flashsale.local.access import free_port
from flashsale.settings.values import EXAMPLE
from tests.docker.exercise import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docker.exercise import Exercise

PROBE_S = 0.1
"""Pause between two requests on connections of their own."""
ENDED_S = 600
"""Longest time that a sale may take."""


class Sale:
    """A product, buyers who arrive in a process of their own, and what became of it."""

    def __init__(self, exercise: Exercise, name: str, *, units: int, buyers: int, seconds: float) -> None:
        """Make the product, if `docker/deploy` has not, and the buyers; then let them arrive."""
        self.exercise = exercise
        self.units = units
        self.product = exercise.product(name, units)
        people = exercise.buyers(name, buyers)
        self.history, self._summary = (exercise.folder / name / file for file in ("history.jsonl", "summary.json"))
        self.load = exercise.load(
            "stampede",
            name,
            buyers_file=people,
            product=self.product,
            arrive_s=seconds,
            audit="",
            follow_s=180,
            users=50,
            spawn_rate=50,
        )
        exercise.say(f"sale of {units:,} {name} to {buyers:,} buyers who arrive within {seconds:g} s")

    def until(self, share: float) -> None:
        """Wait until this share of the units has been sold."""
        count = f"SELECT count(*) FROM orders WHERE product_id = {self.product}"
        deadline = time.monotonic() + ENDED_S
        while int(self.exercise.sql(count) or 0) < share * self.units:
            if time.monotonic() > deadline or self.load.poll() is not None:
                raise Failed(f"The sale of {self.product} never came to {share:.0%}.")
            time.sleep(0.2)
        self.exercise.say(f"{share:.0%} sold")

    def end(self) -> dict[str, float]:
        """Wait for the last order and audit with what the clients saw; returns the load generator's figures."""
        self.load.wait(ENDED_S)
        exercise = self.exercise
        summary: dict[str, float] = json.loads(self._summary.read_text())
        names = ("buys_sent", "accepted", "confirmed", "declined", "sold_out_answers", "answers_503", "no_answer")
        exercise.say(", ".join(f"{name.replace('_', ' ')} {summary[name]:,.0f}" for name in names))
        audit = ("exec", "-T", "payments", "flashsale", "audit", "--history", "/dev/stdin")
        said = exercise.compose(*audit, text=self.history.read_text(), check=False)
        violated = re.findall(r"(?m)^(\w+) +VIOLATED.*$", said)
        exercise.say(
            "\n".join([line[:200] for line in said.splitlines() if " VIOLATED " in line or line.startswith("audit:")])
        )
        if "audit:" not in said or violated:
            raise Failed(said)
        units = f"SELECT count(*) FROM units WHERE product_id = {self.product}"
        if int(exercise.sql(units)) != self.units:
            raise Failed(f"There are {exercise.sql(units)} units of {self.units}.")
        return summary


class Probe:
    """Buys, one after the other, each on a connection of its own and never repeated, until told to stop."""

    def __init__(self, exercise: Exercise) -> None:
        """Make buyers and a product of its own, because it may still buy when the streams of a sale have ended."""
        self._buyers: Iterator[str] = iter(exercise.buyers("probe", 3000).read_text().splitlines())
        self._exercise, self._product = exercise, exercise.product("probe", 4000)
        self._stopping = threading.Event()
        self.answers: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(PROBE_S):
            buyer = json.loads(next(self._buyers))
            try:
                body = {"productId": self._product}
                status, _, _ = self._exercise.request(
                    "/api/order/buy-flash", body, Authorization=f"Bearer {buyer['token']}"
                )
                answer = str(status)
            except (OSError, http.client.HTTPException) as error:
                answer = type(error).__name__
            self.answers[answer] = self.answers.get(answer, 0) + 1

    def stop(self) -> None:
        """End it; raises Failed if any request was answered with something else than 202 or 409."""
        self._stopping.set()
        self._thread.join()
        self._exercise.say(f"probe, each buy on its own connection, none repeated: {self.answers}")
        if self.answers.keys() - {"202", "409"}:
            raise Failed(f"The probe's answers: {self.answers}")


def begin(exercise: Exercise) -> None:
    """Bring the stack up with one payment worker; see what the edge lets through."""
    exercise.deploy("--product", "first", "--stock", "600", PAYMENT_CONTAINERS="1", COMMIT="first")
    exercise.say(
        "image "
        + exercise.run("docker", "images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}", "flashsale:latest").strip()
    )
    for path in ("/metrics", "//metrics", "/api/../metrics", "/api/%2e%2e/metrics", "/metrics/"):
        if exercise.request(path)[0] != http.client.NOT_FOUND:
            raise Failed(f"{path} is public.")
    status, headers, _ = exercise.request("/sse/orders/0197c1f0-0000-7000-8000-000000000000?token=told-nobody")
    if (
        status != http.client.UNAUTHORIZED
        or exercise.request("/health/live", **{"X-Request-ID": "mine"})[1]["x-request-id"] != "mine"
    ):
        raise Failed(f"The edge does not pass on what it should: {status}, {headers}")
    refused = (
        "-e",
        f"FLASHSALE_AUTH__JWT_SECRET={EXAMPLE * 4}",
        "--no-deps",
        "--rm",
        "-T",
        "api",
        "flashsale",
        "serve",
    )
    said = exercise.compose("run", *refused, check=False)
    if EXAMPLE not in said:
        raise Failed(f"The example's secret was taken: {said}")
    exercise.say("refused: " + next(line for line in said.splitlines() if EXAMPLE in line))
    tls(exercise)


def tls(exercise: Exercise) -> None:
    """Take the documented step to TLS, with a certificate made now, and back."""
    folder, file = exercise.folder / "certificate", exercise.folder / "env"
    folder.mkdir()
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=shop.example")
    pair = [str(folder / name) for name in ("privkey.pem", "fullchain.pem")]
    exercise.run(*made, "-keyout", pair[0], "-out", pair[1])
    (folder / "privkey.pem").chmod(0o644)  # of a throw-away pair
    before = file.read_text()
    file.write_text(f"{before}CERTIFICATES={folder}\nLISTEN_TLS=[::1]:{free_port()}\nHOSTS=shop.example\n")
    exercise.deploy("--product", "first", "--stock", "600")
    if exercise.request("/api/products")[0] != http.client.PERMANENT_REDIRECT:
        raise Failed("Without TLS nginx does not redirect.")
    file.write_text(before + "".join(re.findall(r"(?m)^TAG.*\n", file.read_text())))
    exercise.deploy("--product", "first")
    exercise.say("deployed with TLS, at an IPv6 address, and back")


def break_things(exercise: Exercise) -> None:
    """Sell while payment workers are added, containers killed, Postgres restarted."""
    sale = Sale(exercise, "first", units=600, buyers=1000, seconds=60)
    sale.until(0.1)
    exercise.say("payment workers 1 -> 6")
    exercise.compose("up", "-d", "--no-recreate", "--scale", "payments=6", "payments")
    sale.until(0.2)
    exercise.say("restarting Postgres")
    exercise.compose("restart", "postgres")
    sale.until(0.5)
    exercise.say("killing an API container and a payment worker; starting them again")
    exercise.run("docker", "kill", exercise.containers("api")[0], exercise.containers("payments")[0])
    exercise.compose("up", "-d", "--wait", "--no-recreate", "--scale", "payments=6", "api", "payments")
    click.echo(exercise.compose("ps", "--format", "table {{.Name}}\t{{.Service}}\t{{.Status}}").rstrip())
    summary = sale.end()
    if summary["given_up"] or summary["not_final"] or summary["5xx_other_than_503"]:
        raise Failed(f"Requests failed: {summary}")


def replace(exercise: Exercise) -> None:
    """Sell while the API and SSE containers are replaced by a new version; nobody may notice."""
    # More units than buyers: a request that comes while another one holds the last units is told to come again, by 503.
    sale = Sale(exercise, "second", units=4000, buyers=1500, seconds=90)
    probe = Probe(exercise)
    try:
        sale.until(0.05)
        exercise.deploy("--rolling", "--product", "second", PAYMENT_CONTAINERS="6", COMMIT="second")
        stats = ("docker", "stats", "--no-stream", "--format", "table {{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}")
        click.echo(exercise.run(*stats).rstrip())
    finally:
        probe.stop()
    summary = sale.end()
    names = ("answers_503", "no_answer", "5xx_other_than_503", "unexpected_answers", "given_up", "not_final")
    if any(summary[name] for name in names):
        raise Failed(f"Requests failed: {summary}")
    exercise.say("0 failed requests, 503 included")


def deploy_again(exercise: Exercise) -> None:
    """Deploy in mid-sale, which stops everything: no stock is reset, no order lost."""
    sale = Sale(exercise, "third", units=400, buyers=600, seconds=60)
    sale.until(0.2)
    exercise.deploy("--product", "third", "--stock", "7")
    sale.end()


def leave_no_token(exercise: Exercise) -> None:
    """See that no stream token is in nginx' log."""
    log = exercise.compose("logs", "--no-log-prefix", "nginx", check=False)
    if "told-nobody" in log:
        raise Failed("A stream token is in nginx' log.")
    line = next(line for line in log.splitlines() if '"path":"/api/order/buy-flash"' in line)
    exercise.say(f"nginx: {line}")
