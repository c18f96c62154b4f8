"""`flashsale up`: the stack, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from rich.table import Table

from flashsale.local.binaries import MissingBinary
from flashsale.local.children import ChildFailed
from flashsale.runtime.restarts import Restarts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rich.console import Console

    from flashsale.local.children import Child
    from flashsale.local.postgres_server import LocalPostgres
    from flashsale.local.stack import Stack
    from flashsale.local.valkey_server import LocalValkey


async def up(stack: Stack, console: Console) -> None:
    """Start a stack, show its addresses, restart processes that end, and stop on SIGINT or SIGTERM.

    A second signal kills what is still running.

    Raises:
        ChildFailed: if the stack does not come up.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stopping.is_set():
            stack.abort()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    told_to_stop = asyncio.create_task(stopping.wait())
    starting = asyncio.create_task(stack.start())
    keeping: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait({starting, told_to_stop}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            console.print(addresses(stack))
            console.print("Ctrl-C stops everything; the data stays.")
            keeping = _keep_all(stack, console, stopping)
            loop.add_signal_handler(signal.SIGHUP, lambda: keeping.append(asyncio.create_task(_reload(stack, console))))
            await told_to_stop
    finally:
        for task in (starting, told_to_stop, *keeping):
            task.cancel()
        await asyncio.gather(starting, told_to_stop, *keeping, return_exceptions=True)
        console.print("stopping: open requests and running jobs finish (once more to kill them)")
        await stack.stop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    console.print("stopped")


async def _reload(stack: Stack, console: Console) -> None:
    """Let the API processes use the keys that `flashsale secret` wrote."""
    try:
        await stack.reload_keys()
    except ChildFailed as error:
        console.print(str(error), highlight=False, markup=False)
    else:
        console.print(f"{time.strftime('%H:%M:%S')} the API processes have the new keys", highlight=False)


def addresses(stack: Stack) -> Table:
    """Render the table of addresses, without passwords."""
    table = Table("what", "where", title="flashsale is up", title_justify="left")
    table.add_row("shop", f"{stack.base_url}/")
    table.add_row("API", stack.base_url)
    table.add_row("console for staff", f"{stack.base_url}/console")
    table.add_row("OpenAPI document", f"{stack.base_url}/schema")
    for role in ("api", "orders", "payments", "maintenance"):
        table.add_row(f"metrics: {role}", f"{stack.url(role)}/metrics")
    table.add_row("payment gateway simulator", stack.gateway_url)
    if stack.counts["mailbox"]:
        table.add_row("e-mails to buyers", f"{stack.mail_dir}/*.eml")
    for name, setting in (("Postgres", "FLASHSALE_POSTGRES__URL"), ("Valkey or Redis", "FLASHSALE_REDIS__URL")):
        table.add_row(name, stack.environment[setting].rpartition("@")[2].rpartition("//")[2])
    table.add_row("administrator and secrets", str(stack.data_dir / "secrets.json"))
    table.add_row("settings for a shell", f"set -a; . {stack.environment_file}; set +a")
    table.add_row("logs", str(stack.log_dir))
    return table


def _keep_all(stack: Stack, console: Console, stopping: asyncio.Event) -> list[asyncio.Task[None]]:
    def process(role: str, index: int) -> asyncio.Task[None]:
        return asyncio.create_task(
            _keep(
                f"{role} {index + 1}",
                lambda: stack.children[role][index],
                lambda: stack.start_child(role, index),
                console,
                stopping,
            )
        )

    def server(name: str, kept: LocalPostgres | LocalValkey) -> asyncio.Task[None]:
        return asyncio.create_task(_keep(name, lambda: kept.child, kept.start, console, stopping))

    tasks = [process(role, index) for role, count in stack.counts.items() for index in range(count)]
    servers = (("postgres", stack.postgres), ("valkey", stack.valkey))
    return tasks + [server(name, kept) for name, kept in servers if kept is not None]


async def _keep(
    name: str,
    current: Callable[[], Child | None],
    start: Callable[[], Awaitable[object]],
    console: Console,
    stopping: asyncio.Event,
) -> None:
    """Restart a process whenever it ends, after a pause that grows while the process does not stay up."""
    restarts = Restarts()
    # Check the flag too: a library that is connecting may swallow the cancellation.
    while (child := current()) is not None and not stopping.is_set():
        restarts.began()
        code = await child.wait()
        died_s = time.monotonic()
        # Another task may have restarted it.
        while current() is child and not stopping.is_set():
            pause_s = restarts.pause_s()
            died = f"{time.strftime('%H:%M:%S')} {name} ended with {code}; starting it again in {pause_s:g} s"
            console.print(died, highlight=False)
            await asyncio.sleep(pause_s)
            try:
                if current() is child:
                    await start()
                    away_s = time.monotonic() - died_s
                    console.print(
                        f"{time.strftime('%H:%M:%S')} {name} runs again after {away_s:.1f} s", highlight=False
                    )
            except (ChildFailed, MissingBinary, OSError) as error:
                # Try again after every failure: the disk may be full, or the process limit reached.
                console.print(str(error), highlight=False, markup=False)
                if current() is not child:
                    break
