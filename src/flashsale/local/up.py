"""`flashsale up`: the stack, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from rich.table import Table

from flashsale.local.children import ChildFailed

if TYPE_CHECKING:
    from rich.console import Console

    from flashsale.local.stack import Stack

RESTART_S = 1.0
"""Pause before a process that ended by itself is started again."""


async def up(stack: Stack, console: Console) -> None:
    """Start a stack, show where everything is, start again what dies, and stop on SIGINT or SIGTERM."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with stack:
        console.print(addresses(stack))
        console.print("Ctrl-C stops everything; the data stays.")
        watching = [
            asyncio.create_task(_keep(stack, role, index, console, stopping))
            for role, children in stack.children.items()
            for index in range(len(children))
        ]
        await stopping.wait()
        console.print("stopping: open requests and running jobs finish")
        for task in watching:
            task.cancel()
    console.print("stopped")


def addresses(stack: Stack) -> Table:
    """Make the table of addresses, without passwords."""
    table = Table("what", "where", title="flashsale is up", title_justify="left")
    table.add_row("API", stack.base_url)
    table.add_row("OpenAPI document", f"{stack.base_url}/schema")
    table.add_row("metrics", f"{stack.base_url}/metrics")
    table.add_row("payment gateway simulator", stack.gateway_url)
    for name, setting in (("Postgres", "FLASHSALE_POSTGRES__URL"), ("Valkey or Redis", "FLASHSALE_REDIS__URL")):
        table.add_row(name, stack.environment[setting].rpartition("@")[2])
    table.add_row("administrator and secrets", str(stack.data_dir / "secrets.json"))
    table.add_row("logs", str(stack.log_dir))
    return table


async def _keep(stack: Stack, role: str, index: int, console: Console, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        code = await stack.children[role][index].wait()
        if stopping.is_set():
            return
        console.print(f"{role} {index + 1} ended with {code}; starting it again")
        await asyncio.sleep(RESTART_S)
        try:
            await stack.start_child(role, index)
        except ChildFailed as error:
            console.print(str(error))
