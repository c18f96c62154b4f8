"""What the measurements share: stacks with their audit, the control, runs in turn, buyers and their requests."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.local.children import start_ready
from flashsale.local.stack import ROOT, Stack
from tests.support.api import audit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from rich.console import Console

    from tests.bench.figures import Figure
    from tests.bench.plots import Plot
    from tests.bench.press import Pressed

USERS = 10_000
CONNECTIONS = 64
QUIET = {"FLASHSALE_LOG__LEVEL": "error"}


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves."""

    url: str
    pid: int


class Bench:
    """What the measurements share."""

    def __init__(self, folder: Path, console: Console, *, rounds: int, seconds: float) -> None:
        """Measure each figure `rounds` times for `seconds`."""
        self.folder = folder
        self.console = console
        self.rounds = rounds
        self.seconds = seconds
        self.figures: list[Figure] = []
        self.audits: dict[str, str] = {}
        self.plots: dict[str, Plot] = {}
        """By the end of their file's name."""
        self._stacks = itertools.count()

    def say(self, line: str) -> None:
        """Show progress."""
        self.console.print(line, highlight=False, soft_wrap=True)

    @asynccontextmanager
    async def stack(
        self, name: str, *, environment: dict[str, str] | None = None, **counts: int
    ) -> AsyncIterator[Stack]:
        """Run a stack; at the end its audit is noted."""
        folder = self.folder / f"stack-{next(self._stacks)}"
        async with Stack(folder, port=0, environment={**QUIET, **(environment or {})}, **counts) as stack:
            yield stack
            done = await asyncio.to_thread(audit, stack, "--overdue-s", "3600")
            found = done.stdout.strip().splitlines() or [done.stderr.strip()]
            for violated in (line for line in found if " VIOLATED " in line):
                self.say(f"{name}: {violated}")
            self.audits[name] = found[-1]

    @asynccontextmanager
    async def serve(
        self, name: str, command: Sequence[str], processes: int, *, sockets: int = 1, environment: Mapping[str, str]
    ) -> AsyncIterator[list[Server]]:
        """Run servers that take `--fd` and `--ready-fd`; they share so many sockets."""
        async with AsyncExitStack() as closing:
            listening = [
                closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096)) for _ in range(sockets)
            ]
            servers = []
            for number, sock in zip(range(processes), itertools.cycle(listening), strict=False):
                child = await start_ready(
                    f"{name} {number}",
                    [*command, "--fd", str(sock.fileno())],
                    log_path=self.folder / f"{name}.log",
                    environment=environment,
                    inherited_fds=[sock.fileno()],
                    cwd=ROOT,
                )
                closing.push_async_callback(child.stop, signal.SIGINT)
                servers.append(Server(f"http://127.0.0.1:{sock.getsockname()[1]}", child.pid))
            yield servers

    def hello(self, processes: int, *, sockets: int = 1) -> AbstractAsyncContextManager[list[Server]]:
        """Run the control."""
        command = [sys.executable, "-m", "tests.bench.hello"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        return self.serve("hello", command, processes, sockets=sockets, environment=environment)

    async def alternate(self, *measures: Callable[[], Awaitable[Pressed]]) -> list[list[Pressed]]:
        """Measure in turn, `rounds` times; returns the runs of each."""
        runs: list[list[Pressed]] = [[] for _ in measures]
        for _ in range(self.rounds):
            for place, measure in enumerate(measures):
                runs[place].append(await measure())
        return runs


def buys(stack: Stack, product_id: int, tokens: list[str], *, keyed: bool = False) -> Iterator[bytes]:
    """Return buy requests for ever, user after user."""
    body = json.dumps({"productId": product_id}).encode()
    place = stack.base_url.removeprefix("http://")
    heads = [
        f"POST /api/order/buy-flash HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
        for token in tokens
    ]
    if not keyed:
        whole = [head + b"\r\n" + body for head in heads]
        return itertools.cycle(whole)
    return (
        head + b"Idempotency-Key: %d\r\n\r\n" % number + body
        for number, head in zip(itertools.count(time.time_ns()), itertools.cycle(heads))
    )


def only(pressed: Pressed, *statuses: bytes) -> Pressed:
    """Return it back if it was answered nothing else.

    Raises:
        AssertionError: with what it was answered.
    """
    assert set(pressed.statuses) <= set(statuses), pressed.statuses
    return pressed
