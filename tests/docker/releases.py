"""Streams that stay, a release that does not work, and the way back."""

from __future__ import annotations

import re
import selectors
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.docker.exercise import Failed

if TYPE_CHECKING:
    from tests.docker.exercise import Exercise

STREAMS = 1000
KEEPALIVE_S = 20
"""More than live.keepalive_s: every stream that is open says something in this time."""

BROKEN = """\
FROM flashsale:latest
CMD ["sh", "-c", "echo 'this release is broken' >&2; exit 3"]
"""
"""The Dockerfile of a release whose API ends at once."""


def begin(exercise: Exercise) -> None:
    """Bring the stack up as it is by default."""
    exercise.deploy("--product", "watched", "--stock", "100", PAYMENT_CONTAINERS="1", COMMIT="first")


def hold_streams(exercise: Exercise) -> None:
    """Hold streams while every API container is killed and replaced by another."""
    product = exercise.product("watched", 100)
    request = f"GET /sse/stock/{product} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as opened:
        streams = []
        for _ in range(STREAMS):
            stream = opened.enter_context(socket.create_connection(("127.0.0.1", exercise.port), timeout=10))
            stream.sendall(request)
            streams.append(stream)
        for old in exercise.containers("api"):
            exercise.run("docker", "rm", "--force", old)
            exercise.compose("up", "--detach", "--no-deps", "--no-recreate", "--wait", "api")
            if not all(exercise.request("/api/products")[0] == 200 for _ in range(20)):
                raise Failed("The API does not answer through nginx.")
        heard, closed = _hear(streams)
    exercise.say(
        f"{STREAMS:,} streams held, each API container killed and replaced: {closed} closed, {heard:,} heard of"
    )
    if closed or heard < STREAMS:
        raise Failed(f"{closed} of {STREAMS} streams were closed, {heard} said something")


def _hear(streams: list[socket.socket]) -> tuple[int, int]:
    """Return how many streams say something from now on, and how many ended."""
    heard, closed = set(), set()
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            stream.setblocking(False)
            while True:
                try:
                    if not stream.recv(65_536):
                        closed.add(stream)
                        break
                except BlockingIOError:
                    selector.register(stream, selectors.EVENT_READ)
                    break
        deadline = time.monotonic() + KEEPALIVE_S
        while len(heard) + len(closed) < len(streams) and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                (heard if one.recv(65_536) else closed).add(one)
                selector.unregister(one)
    return len(heard), len(closed)


def take_back(exercise: Exercise) -> None:
    """Roll out a release that ends at once: what ran before runs on, and nothing of the new one is left."""
    before = {service: exercise.containers(service) for service in ("api", "sse", "orders", "payments")}
    release = _release(exercise)
    dockerfile, broken = exercise.folder / "Broken.Dockerfile", exercise.folder / "broken.yaml"
    dockerfile.write_text(BROKEN)
    broken.write_text(f"services: {{migrate: {{build: {{dockerfile: {dockerfile}}}}}}}\n")
    began_s = time.monotonic()
    exercise.environment["COMMIT"] = "broken"
    said = exercise.run(
        "python3",
        "docker/deploy",
        "--env-file",
        str(exercise.folder / "env"),
        "--rolling",
        "-f",
        str(broken),
        check=False,
    )
    exercise.say(f"a release that does not work, {time.monotonic() - began_s:.0f} s: {said.strip().splitlines()[-2:]}")
    after = {service: exercise.containers(service) for service in before}
    images = exercise.run("docker", "images", "--format", "{{.Tag}}", "flashsale")
    left = exercise.compose("ps", "--all", "--format", "{{.Image}}")
    if "this release is broken" not in said or f"Release {release} runs again" not in said:
        raise Failed(f"It does not say why: {said}")
    if after["api"] != before["api"] or after["sse"] != before["sse"] or "broken" in images + left:
        raise Failed(f"Something is left: {before}, {after}, {images}, {left}")
    if _release(exercise) != release:
        raise Failed(f"{_release(exercise)} is noted as the release")


def go_back(exercise: Exercise) -> None:
    """Roll out a release, and return to the one before."""
    first = _release(exercise)
    exercise.deploy("--rolling", "--product", "watched", COMMIT="second")
    second = _release(exercise)
    exercise.deploy("--rollback", "--product", "watched")
    if first == second or _release(exercise) != first:
        raise Failed(f"From {second} it returned to {_release(exercise)}, not {first}")
    running = set(exercise.compose("ps", "--format", "{{.Image}}").split()) & {
        f"flashsale:{first}",
        f"flashsale:{second}",
    }
    if running != {f"flashsale:{first}"}:
        raise Failed(f"{running} run")


def refuse(exercise: Exercise) -> None:
    """Give wrong settings, one at a time: each is one line that names the variable, and nothing is stopped."""
    file = exercise.folder / "env"
    good = file.read_text()
    before = exercise.compose("ps", "--quiet")
    for name, value in {
        "FLASHSALE_POSTGRES__POOL_MAX": "many",
        "FLASHSALE_PAYMENTS__PROVIDER": "paypal",
        "JWT_SECRET": "short",
        "API_CONTAINERS": "two",
        "PAYMENTS_CONTAINERS": "3",
    }.items():
        kept = re.sub(rf"(?m)^{name}=.*\n", "", good)
        file.write_text(f"{kept.rstrip()}\n{name}={value}\n")
        said = exercise.run("python3", "docker/deploy", "--env-file", str(file), check=False).strip().splitlines()
        told = [line for line in said if name in line]
        exercise.say(f"{name}={value}: {told}")
        if len(told) != 1 or exercise.compose("ps", "--quiet") != before:
            raise Failed(f"{name}={value}: {said}")
    file.write_text(good)


def _release(exercise: Exercise) -> str:
    found = re.search(r"(?m)^TAG=(.*)$", (exercise.folder / "env").read_text())
    return found[1] if found else ""
