"""Speed, each figure beside a control in the same minute and with the invariants that held: `nox -s bench`.

The clients (tests/bench/press.py) run in this process, the servers in others; all share the machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import click
import uvloop
from rich.console import Console
from rich.table import Table

from flashsale.local.children import pss_bytes, start_ready
from flashsale.local.sale import create_product
from flashsale.local.stack import ROOT, Stack
from flashsale.observability import configure_logs
from flashsale.settings import LogSettings
from tests.api.conftest import audit
from tests.bench.press import Pressed, Watchers, press

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

USERS = 10_000
CONNECTIONS = 64
QUIET = {"FLASHSALE_LOG__LEVEL": "error"}
KIB, MIB = 2**10, 2**20
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value, its control, and the aim."""

    name: str
    unit: str
    runs: list[float]
    control: str = ""
    control_runs: list[float] = field(default_factory=list)
    aim: str = ""

    @property
    def value(self) -> float:
        """The median of the runs."""
        return statistics.median(self.runs)

    @property
    def ratio(self) -> float | None:
        """The median over the control's median."""
        return self.value / statistics.median(self.control_runs) if self.control_runs else None


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
            self.audits[name] = done.stdout.strip().splitlines()[-1] if done.stdout else done.stderr.strip()

    @asynccontextmanager
    async def hello(self, processes: int) -> AsyncIterator[tuple[str, list[int]]]:
        """Run the control; gives its URL and process ids."""
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as sock:
            command = [sys.executable, "-m", "tests.bench.hello", "--fd", str(sock.fileno())]
            environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
            children = [
                await start_ready(
                    f"hello {number}",
                    command,
                    log_path=self.folder / "hello.log",
                    environment=environment,
                    inherited_fds=[sock.fileno()],
                    cwd=ROOT,
                )
                for number in range(processes)
            ]
            try:
                yield f"http://127.0.0.1:{sock.getsockname()[1]}", [child.pid for child in children]
            finally:
                for child in children:
                    await child.stop()

    async def alternate(self, *measures: Callable[[], Awaitable[Pressed]]) -> list[list[Pressed]]:
        """Measure in turn, `rounds` times; gives the runs of each."""
        runs: list[list[Pressed]] = [[] for _ in measures]
        for _ in range(self.rounds):
            for place, measure in enumerate(measures):
                runs[place].append(await measure())
        return runs

    def tokens(self, stack: Stack, count: int) -> list[str]:
        """Make buyers; gives their tokens."""
        done = subprocess.run(
            [sys.executable, "-m", "flashsale.cli", "buyers", "--count", str(count)],
            env=stack.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return [json.loads(line)["token"] for line in done.stdout.splitlines()]


def buys(stack: Stack, product_id: int, tokens: list[str], *, keyed: bool = False) -> Iterator[bytes]:
    """Give buy requests for ever, user after user."""
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
    """Give it back if it was answered nothing else.

    Raises:
        AssertionError: with what it was answered.
    """
    assert set(pressed.statuses) <= set(statuses), pressed.statuses
    return pressed


async def sold_out(bench: Bench) -> None:
    """The answer that nearly everybody gets."""
    async with bench.stack("sold out, status", api=1, orders=1, payments=1) as stack, bench.hello(1) as (hello_url, _):
        empty = await create_product(stack, {"name": "Phone", "price": "1", "stock": 0})
        full = await create_product(stack, {"name": "Phone", "price": "1", "stock": 10})
        tokens = bench.tokens(stack, USERS)
        warm, keyed = buys(stack, empty, tokens), buys(stack, empty, tokens, keyed=True)

        async def measure(url: str, requests: Iterator[bytes], *statuses: bytes) -> Pressed:
            return only(await press(url, requests, connections=CONNECTIONS, seconds=bench.seconds), *statuses)

        cold = only(
            await press(stack.base_url, itertools.islice(warm, USERS), connections=CONNECTIONS, seconds=60), b"409"
        )
        bought = await press(stack.base_url, itertools.islice(buys(stack, full, tokens), 1), connections=1, seconds=5)
        only(bought, b"202")
        order_id = await _one_order(stack)
        polls = itertools.repeat(
            f"GET /api/order/{order_id}/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tokens[0]}\r\n\r\n".encode()
        )
        runs, with_key, polled, control = await bench.alternate(
            lambda: measure(stack.base_url, warm, b"409"),
            lambda: measure(stack.base_url, keyed, b"409"),
            lambda: measure(stack.base_url, polls, b"200"),
            lambda: measure(hello_url, warm, b"200"),
        )
    hello = {"control": "bare ASGI hello", "control_runs": [run.rate for run in control]}
    add = bench.figures.append
    add(Figure(name="sold-out buys, one process", unit="/s", runs=[run.rate for run in runs], aim=">= 0.50", **hello))
    add(
        Figure(name="the same, each with a key", unit="/s", runs=[run.rate for run in with_key], aim=">= 0.40", **hello)
    )
    add(Figure(name="the same, each token new", unit="/s", runs=[cold.rate], **hello))
    add(Figure(name="status polls, one process", unit="/s", runs=[run.rate for run in polled], aim=">= 0.30", **hello))


async def latency(bench: Bench) -> None:
    """How long the slowest of a hundred waits for a no."""
    async with bench.stack("latency", api=2, orders=1, payments=1) as stack, bench.hello(2) as (hello_url, _):
        empty = await create_product(stack, {"name": "Phone", "price": "1", "stock": 0})
        requests = buys(stack, empty, bench.tokens(stack, USERS))
        await press(stack.base_url, itertools.islice(requests, 2 * USERS), connections=CONNECTIONS, seconds=60)
        for connections in (64, 300):
            runs, control = await bench.alternate(
                lambda connections=connections: press(
                    stack.base_url, requests, connections=connections, seconds=bench.seconds
                ),
                lambda connections=connections: press(
                    hello_url, requests, connections=connections, seconds=bench.seconds
                ),
            )
            bench.figures.append(
                Figure(
                    name=f"sold-out p99, two processes, {connections} connections",
                    unit="ms",
                    runs=[only(run, b"409").percentile_ms(0.99) for run in runs],
                    control="bare ASGI hello",
                    control_runs=[run.percentile_ms(0.99) for run in control],
                    aim="<= 3",
                )
            )


async def accepts(bench: Bench) -> None:
    """Durable orders, with plenty of stock and no workers."""
    environment = {"FLASHSALE_ORDERS__WAITING_MAX": "10000000"}
    single = {**environment, "FLASHSALE_ACCEPT__BATCH_MAX": "1"}
    counts = {"api": 2, "orders": 0, "payments": 0}
    async with (
        bench.stack("accepts", environment=environment, **counts) as stack,
        bench.stack("accepts one by one", environment=single, **counts) as control,
    ):
        measures = []
        for each in (stack, control):
            product_id = await create_product(each, {"name": "Phone", "price": "1", "stock": 200_000})
            requests = buys(each, product_id, bench.tokens(each, USERS))
            measures.append(
                lambda each=each, requests=requests: press(
                    each.base_url, requests, connections=256, seconds=bench.seconds
                )
            )
        runs, control_runs = await bench.alternate(*measures)
    bench.figures.append(
        Figure(
            name="accepted orders, two processes",
            unit="/s",
            runs=[only(run, b"202").rate for run in runs],
            control="batches of one",
            control_runs=[only(run, b"202").rate for run in control_runs],
            aim=">= 3, >= 6,000/s",
        )
    )
    bench.figures.append(
        Figure(
            name="their p99, 256 connections",
            unit="ms",
            runs=[run.percentile_ms(0.99) for run in runs],
            aim="<= 100 ms",
        )
    )


async def jobs(bench: Bench) -> None:
    """From 202 to confirmed, with a gateway that answers at once."""
    environment = {
        "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0",
        "FLASHSALE_SIMULATOR__DECLINE_RATE": "0",
        "FLASHSALE_ORDERS__ORDER_DUE_S": "120",
        "FLASHSALE_ORDERS__PAYMENT_DUE_S": "120",
    }
    orders = 3_000
    rates = []
    async with bench.stack("jobs", environment=environment, api=2, orders=1, payments=2) as stack:
        tokens = bench.tokens(stack, orders)
        for _ in range(bench.rounds):
            product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": orders})
            requests = itertools.islice(buys(stack, product_id, tokens), orders)
            only(await press(stack.base_url, requests, connections=CONNECTIONS, seconds=60), b"202")
            rates.append(await _confirmed_per_s(stack, product_id, orders))
    bench.figures.append(
        Figure(name="orders from 202 to confirmed, two payment workers", unit="/s", runs=rates, aim=">= 1,000/s")
    )


async def streams(bench: Bench, count: int) -> None:
    """Streams of a stock on one process: memory, and how long until the last one shows a change."""
    bench.say(f"opening {count:,} streams, twice")
    async with bench.stack("streams", api=1, orders=1, payments=1) as stack, bench.hello(1) as (hello_url, hello_pids):
        product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": 1_000})
        requests = buys(stack, product_id, bench.tokens(stack, 100))

        async def change() -> bytes:
            only(await press(stack.base_url, itertools.islice(requests, 1), connections=1, seconds=5), b"202")
            return b""

        serving = stack.children["api"][0].pid
        path = f"/sse/stock/{product_id}"
        kib, took_s = await _watch(
            bench, stack.base_url, path, serving, count, lambda n: b'"stock":%d' % (999 - n), change
        )

        async def hello_change() -> bytes:
            body = b'data: {"stock":%d}\n\n' % (999 - next(hello_numbers))
            request = b"POST /change HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            await press(hello_url, iter([request]), connections=1, seconds=5)
            return b""

        hello_numbers = itertools.count()
        control_kib, control_s = await _watch(
            bench, hello_url, "/stream", hello_pids[0], count, lambda n: b'"stock":%d' % (999 - n), hello_change
        )
    bare = "bare ASGI stream"
    bench.figures.append(
        Figure(
            name=f"memory of a stream, {count:,} on one process",
            unit="KiB",
            runs=[kib],
            control=bare,
            control_runs=[control_kib],
            aim="<= 12 KiB",
        )
    )
    bench.figures.append(
        Figure(
            name=f"a change reaches the last of {count:,} streams",
            unit="ms",
            runs=[one * 1000 for one in took_s],
            control=bare,
            control_runs=[one * 1000 for one in control_s],
            aim="<= 300 ms",
        )
    )


async def _watch(
    bench: Bench,
    url: str,
    path: str,
    pid: int,
    count: int,
    text: Callable[[int], bytes],
    change: Callable[[], Awaitable[bytes]],
) -> tuple[float, list[float]]:
    """Open streams and change; gives KiB a stream and the seconds from each change to its last watcher."""
    before = pss_bytes(pid)
    crowd = Watchers(url, path)
    await crowd.open(count)
    kib = (pss_bytes(pid) - before) / count / KIB
    took_s = []
    for number in range(bench.rounds):
        wanted = text(number)
        crowd.expect(wanted)
        began_s = time.perf_counter()
        await change()
        await crowd.all_seen(wanted)
        took_s.append(time.perf_counter() - began_s)
    assert not crowd.lost
    crowd.close()
    return kib, took_s


async def _one_order(stack: Stack) -> str:
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        return str(await connection.fetchval("SELECT order_id FROM orders"))
    finally:
        await connection.close()


async def _confirmed_per_s(stack: Stack, product_id: int, orders: int) -> float:
    confirmed = "SELECT count(*) FROM orders WHERE product_id = $1 AND status = 'confirmed'"
    took = (
        "SELECT extract(EPOCH FROM max(updated_at) - min(created_at))::float8 FROM orders "
        "WHERE product_id = $1 AND status = 'confirmed'"
    )
    connection = await asyncpg.connect(stack.environment["FLASHSALE_POSTGRES__URL"])
    try:
        async with asyncio.timeout(180):
            while await connection.fetchval(confirmed, product_id) < orders:
                await asyncio.sleep(POLL_S)
        took_s: float = await connection.fetchval(took, product_id)
        return orders / took_s
    finally:
        await connection.close()


MEASURES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "sold-out": sold_out,
    "latency": latency,
    "accepts": accepts,
    "jobs": jobs,
    "streams": lambda bench: streams(bench, 10_000),
}


@click.command(epilog="Example: python -m tests.bench --only sold-out --rounds 5")
@click.option("--only", "names", multiple=True, type=click.Choice(sorted(MEASURES)), help="Only this; may be repeated.")
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Runs of each figure.")
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=4, show_default=True, help="Length of a run.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures to this file (JSON).")
def main(names: tuple[str, ...], rounds: int, seconds: float, out: Path | None) -> None:
    """Measure speed beside controls in the same run; exit code 0 only if the invariants held."""
    configure_logs(LogSettings(level="error"))
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), console, rounds=rounds, seconds=seconds)
        for name in names or MEASURES:
            bench.say(f"measuring {name}")
            uvloop.run(MEASURES[name](bench))
    console.print(as_table(bench.figures))
    for name, verdict in bench.audits.items():
        bench.say(f"{name}: {verdict}")
    if out is not None:
        out.write_text(json.dumps(as_json(bench), indent=2) + "\n")
    sys.exit(any(", 0 violated" not in verdict for verdict in bench.audits.values()))


def as_table(figures: list[Figure]) -> Table:
    """Make the table: medians, with the least and the most of the runs."""
    table = Table("figure", "control", "aim", title="speed: median (least to most)", title_justify="left")
    for name in ("value", "of the control", "ratio"):
        table.add_column(name, justify="right")
    for figure in figures:
        ratio = figure.ratio
        control = _spread(figure.control_runs, figure.unit) if figure.control_runs else ""
        table.add_row(
            figure.name,
            figure.control,
            figure.aim,
            _spread(figure.runs, figure.unit),
            control,
            "" if ratio is None else f"{ratio:.2f}",
        )
    return table


def _spread(runs: list[float], unit: str) -> str:
    digits = 0 if min(runs) >= 100 else 1
    median = f"{statistics.median(runs):,.{digits}f} {unit}".replace(" /s", "/s")
    return median if len(runs) == 1 else f"{median} ({min(runs):,.{digits}f} to {max(runs):,.{digits}f})"


def as_json(bench: Bench) -> dict[str, Any]:
    """Give everything that was measured."""
    return {
        "python": platform.python_version(),
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "runs": figure.runs,
                "control": figure.control,
                "controlRuns": figure.control_runs,
                "ratio": figure.ratio,
                "aim": figure.aim,
            }
            for figure in bench.figures
        ],
        "audits": bench.audits,
    }


if __name__ == "__main__":
    main()
