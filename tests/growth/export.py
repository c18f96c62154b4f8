"""Exports of many orders take constant memory: `nox -s export`, or `python -m tests.growth.export --orders 10000`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from flashsale.local.stack import OWNER_URL, ROOT, Stack
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from tests.growth.old_orders import ORDERS_PER_PRODUCT, add_old_orders
from tests.support.api import FAST, admin_headers

if TYPE_CHECKING:
    from datetime import datetime

PART = 10
"""The small export has one order in so many."""

MORE_MIB_MAX = 16.0
"""What the large export may take more than the small one, of each process: noise of the allocator."""

MIB = 2**20
BEGIN = "SELECT min(created_at), max(created_at) FROM orders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What an export took."""

    form: str
    orders: int
    file_bytes: int
    seconds: float
    command_bytes: int
    """Peak resident memory of the command."""
    api_bytes: int
    """The same of the API process."""


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(line)


def forget_peak(pid: int) -> None:
    """Let the peak begin with what is resident now: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def export(stack: Stack, token: str, form: str, since: datetime, out: Path) -> Export:
    """Run the command and measure it and the API process."""
    (api,) = (child.pid for child in stack.children["api"])
    command = [sys.executable, "-m", "flashsale.cli", "orders", "export", "--format", form, "--out", str(out)]
    environment = {"PATH": os.environ["PATH"], "FLASHSALE_URL": stack.base_url, "FLASHSALE_TOKEN": token}
    forget_peak(api)
    began_s = time.monotonic()
    with subprocess.Popen([*command, "--created-from", since.isoformat()], env=environment, cwd=ROOT) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the export ended with {process.returncode}")
    seconds = time.monotonic() - began_s
    content = out.read_bytes()
    orders = content.count(b"\r\n") - 1 if form == "csv" else content.count(b"\n")
    return Export(
        form=form,
        orders=orders,
        file_bytes=len(content),
        seconds=seconds,
        command_bytes=used.ru_maxrss * 1024,
        api_bytes=peak_bytes(api),
    )


async def measure(folder: Path, orders: int, console: Console) -> list[Export]:
    """Write the orders, and export a part of them and all of them in both formats."""
    async with Stack(folder, port=0, api=1, environment=FAST) as stack:
        db = await asyncpg.connect(stack.environment[OWNER_URL])
        began_s = time.monotonic()
        await add_old_orders(db, orders)
        first, last = await db.fetchrow(BEGIN)
        await db.close()
        console.print(f"{orders:,} orders written in {time.monotonic() - began_s:.0f} s")
        token = admin_headers(stack)["Authorization"].removeprefix("Bearer ")
        part = last - (last - first) / PART
        # Once before: what is read and compiled for the first time is in no peak.
        await asyncio.to_thread(export, stack, token, "csv", last, folder / "first")
        return [
            await asyncio.to_thread(export, stack, token, form, since, folder / form)
            for form in ("csv", "jsonl")
            for since in (part, first)
        ]


def is_constant(done: list[Export], orders: int) -> bool:
    """Whether each export was whole, and the large ones took no more memory than the small ones."""
    small, large = done[::2], done[1::2]
    return all(one.orders == orders for one in large) and all(
        (getattr(big, name) - getattr(little, name)) / MIB <= MORE_MIB_MAX
        for little, big in zip(small, large, strict=True)
        for name in ("command_bytes", "api_bytes")
    )


@click.command(epilog="Example: python -m tests.growth.export --orders 20000")
@click.option("--orders", type=click.IntRange(100, ORDERS_PER_PRODUCT), default=ORDERS_PER_PRODUCT, show_default=True)
def main(orders: int) -> None:
    """Export many orders, and a tenth of them; exit code 0 only if both are whole and take as much memory."""
    configure_logs(LogSettings(level="error"))
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        done = asyncio.run(measure(Path(folder), orders, console))
    table = Table("format", "orders", "file, MB", "seconds", "orders/s", "command, MiB", "API process, MiB")
    for one in done:
        table.add_row(
            one.form,
            f"{one.orders:,}",
            f"{one.file_bytes / 1e6:.1f}",
            f"{one.seconds:.1f}",
            f"{one.orders / one.seconds:,.0f}",
            f"{one.command_bytes / MIB:.0f}",
            f"{one.api_bytes / MIB:.0f}",
        )
    console.print(table)
    console.print("peak resident memory; the time includes the start of the command")
    right = is_constant(done, orders)
    console.print("constant memory" if right else "WRONG: not whole, or more memory for more orders")
    sys.exit(not right)


if __name__ == "__main__":
    main()
