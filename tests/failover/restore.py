"""Point-in-time restore: a base backup, an archive of the log, a mistake, and the second before the mistake."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from flashsale.demo.sale import Sale, open_sale
from flashsale.local.children import Child
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import DATABASE, POSTGRES_URL, ROOT, Stack
from tests.failover.servers import back_up, run_statement, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNITS, BUYERS = 60, 150
MISTAKE = "UPDATE product_live SET free = free + 7"
COUNTS = "SELECT count(*) || ' orders, ' || count(*) FILTER (WHERE status = 'confirmed') || ' confirmed' FROM orders"


async def run(folder: Path, say: Callable[[str], None]) -> bool:
    """Sell, make a mistake, restore to the second before it, and audit; True if the audit holds."""
    archive = folder / "archive"
    archive.mkdir(parents=True)
    archive.chmod(0o777)
    settings = {"archive_mode": "on", "archive_command": f"test ! -f {archive}/%f && cp %p {archive}/%f"}
    server = LocalPostgres(folder / "server", settings=settings)
    await server.start()
    await run_statement(server.url, f"CREATE DATABASE {DATABASE}")
    url = server.url.rpartition("/")[0] + f"/{DATABASE}"
    async with Stack(folder / "stack", api=1, port=0, postgres_url=url) as stack:
        copy = await back_up(server, folder / "copy", stream=False)
        sale = Sale(units=UNITS, buyers=BUYERS, seconds=3, players=40)
        async with open_sale(stack, sale, folder / "sale") as sold:
            await sold.prepare()
            sold.begin()
            await sold.watch(lambda _: None, every_s=0.5, deadline_s=120)
        before = await run_statement(url, COUNTS)
        moment = await run_statement(url, "SELECT clock_timestamp()::text")
        say(f"at {moment}: {before}; audit: {await audit(stack.environment, folder)}")
        await asyncio.sleep(1)
        await run_statement(url, MISTAKE)
        say(f"after `{MISTAKE}`: {await audit(stack.environment, folder)}")
        segment = await run_statement(url, "SELECT pg_walfile_name(pg_switch_wal())")
        await until(url, f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver")
        # As after the loss of the machine: what is left is the base backup and the archive.
        await server.kill()
        return await restore(folder, copy.url.rpartition("/")[0] + f"/{DATABASE}", moment, before, stack, say)


async def restore(folder: Path, url: str, moment: str, before: str, stack: Stack, say: Callable[[str], None]) -> bool:
    """Start the base backup with the archive up to a moment, and compare."""
    began_s = time.monotonic()
    settings = {
        "restore_command": f"cp {folder / 'archive'}/%f %p",
        "recovery_target_time": moment,
        "recovery_target_action": "promote",
    }
    server = LocalPostgres(folder / "copy", settings=settings)
    (folder / "copy" / "cluster" / "recovery.signal").touch()
    await server.start()
    try:
        await until(url, "SELECT NOT pg_is_in_recovery()")
        after = await run_statement(url, COUNTS)
        verdict = await audit({**stack.environment, POSTGRES_URL: url}, folder)
        say(f"restored to that moment in {time.monotonic() - began_s:.1f} s: {after}; audit: {verdict}")
        return bool(after == before and "0 violated" in verdict)
    finally:
        await server.stop()


async def audit(environment: dict[str, str], folder: Path) -> str:
    """Run `flashsale audit`; returns its last line."""
    child = Child(
        "audit",
        [sys.executable, "-m", "flashsale.cli", "audit", "--bypass-ok"],
        log_path=folder / f"audit-{time.time_ns()}.log",
        environment=environment,
        cwd=ROOT,
    )
    await child.wait()
    return child.log_path.read_text().strip().splitlines()[-1]
