"""Hold a sale over each form of Redis and Postgres that a shop may have, disturb it, and audit it: `nox -s gates`."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import click
from rich.console import Console

from flashsale.adapters.postgres.sessions import BY_INDEX, alter_role, session_settings
from flashsale.adapters.redis.cluster import slot_of
from flashsale.demo.sale import Sale
from flashsale.local.access import ensure_database
from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.stack import Stack
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings, PostgresSettings
from tests.faults.scene import Cell, Result, Scene, play
from tests.support import gate_servers as servers
from tests.support.poolers import PGBOUNCER, pgbouncer

PAUSED_S = 5.0
"""How long the old primary is silent. Sentinels appoint another one after half a second."""

SIMULATOR = {"FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "1", "FLASHSALE_LOG__LEVEL": "warning"}

Disturb = Callable[[Scene, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of server, and what happens to it in the middle of the sale."""

    name: str
    open: Callable[[Path], AbstractAsyncContextManager[tuple[dict[str, str], Any]]]
    """Gives the settings of the processes, and the servers."""
    disturb: Disturb


def gate(opened: Callable[[Path], AbstractAsyncContextManager[Any]]) -> Any:
    """Make a form of the gate's servers from a context manager that gives a URL, or something with a URL."""

    @asynccontextmanager
    async def form(folder: Path) -> AsyncIterator[tuple[dict[str, str], Any]]:
        async with opened(folder) as made:
            yield {"FLASHSALE_REDIS__URL": made if isinstance(made, str) else made.url}, made

    return form


async def nothing(scene: Scene, made: Any) -> None:
    """Disturb nothing."""
    await scene.mid_sale()


async def kill_primary(scene: Scene, made: servers.Watched) -> None:
    """SIGKILL the primary; the Sentinels appoint the replica."""
    await scene.mid_sale()
    await made.primary.kill()
    await servers.until(made.promoted, 20)
    scene.repaired()
    await scene.until_loaded()


async def pause_primary(scene: Scene, made: servers.Watched) -> None:
    """Stop the primary until another one is there, and let it answer again, as after a split of the network."""
    await scene.mid_sale()
    made.primary.pause()
    await asyncio.sleep(PAUSED_S)
    await servers.until(made.promoted, 20)
    made.primary.pause(resume=True)
    scene.repaired()
    await scene.until_loaded()


async def kill_node(scene: Scene, made: servers.Nodes) -> None:
    """SIGKILL the node with the product; its replica takes over."""
    await scene.mid_sale()
    node = made.of_slot(slot_of(str(scene.run.product_id)))
    replica = made.replicas[made.primaries.index(node)]
    await node.kill()

    async def promoted() -> bool:
        return bool((await replica.ask("ROLE"))[0] == "master")

    await servers.until(promoted, 30)
    scene.repaired()
    await scene.until_loaded()


async def move_slot(scene: Scene, made: servers.Nodes) -> None:
    """Move the product's slot to another node."""
    await scene.mid_sale()
    slot = slot_of(str(scene.run.product_id))
    source = made.of_slot(slot)
    await made.move(slot, source, next(node for node in made.primaries if node is not source))
    scene.repaired()
    await scene.until_loaded()


@asynccontextmanager
async def behind_pgbouncer(folder: Path) -> AsyncIterator[tuple[dict[str, str], Any]]:
    """Postgres behind PgBouncer, with a plain role that owns the database."""
    server = LocalPostgres(folder / "postgres-behind")
    url = await server.start()
    there = urlsplit(url)
    try:
        admin = await asyncpg.connect(url)
        await admin.execute("CREATE ROLE shop LOGIN CREATEROLE PASSWORD 'shop'")
        await admin.execute("CREATE DATABASE shop OWNER shop")
        direct = f"postgresql://shop:shop@{there.hostname}:{there.port}/shop"
        limits = session_settings(PostgresSettings(), BY_INDEX)
        await admin.execute(alter_role("shop", "shop", limits))
        await admin.close()
        await ensure_database(direct)
        async with pgbouncer(direct) as through:
            yield (
                {
                    "FLASHSALE_POSTGRES__URL": through,
                    "FLASHSALE_POSTGRES__DIRECT_URL": direct,
                    "FLASHSALE_POSTGRES__OWNER_URL": direct,
                },
                SimpleNamespace(url=through),
            )
    finally:
        await server.stop()


FORMS = [
    Form(name="rights", open=gate(servers.with_rights), disturb=nothing),
    Form(name="tls", open=gate(servers.over_tls), disturb=nothing),
    Form(name="socket", open=gate(servers.on_a_socket_file), disturb=nothing),
    Form(name="sentinels, primary killed", open=gate(servers.watched), disturb=kill_primary),
    Form(name="sentinels, primary comes back", open=gate(servers.watched), disturb=pause_primary),
    Form(
        name="cluster, node killed",
        open=gate(lambda folder: servers.cluster(folder, replicas=1)),
        disturb=kill_node,
    ),
    Form(name="cluster, slot moved", open=gate(servers.cluster), disturb=move_slot),
    Form(name="pgbouncer", open=behind_pgbouncer, disturb=nothing),
]


async def hold(form: Form, sale: Sale, folder: Path, seed: int) -> Result:
    """Hold one sale over a form."""
    async with form.open(folder) as (environment, made):
        stack = Stack(folder / "stack", port=0, environment={**SIMULATOR, **environment})
        async with stack:
            cell = Cell(name=form.name, disturb=lambda scene: form.disturb(scene, made))
            return await play(stack, cell, seed, sale, folder)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: ... --only sentinels --seed 3"
)
@click.option("--only", default="", help="Only forms whose name contains this.")
@click.option("--seed", type=int, default=1, show_default=True, help="When the disturbance comes.")
@click.option("--units", type=click.IntRange(10), default=500, show_default=True, help="Units for sale.")
@click.option("--buyers", type=click.IntRange(20), default=1500, show_default=True, help="Buyers.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep logs, histories and data below this.")
def main(only: str, seed: int, units: int, buyers: int, keep: Path | None) -> None:
    """Hold a sale over each form; exit code 0 only if every audit holds and every unit is sold."""
    configure_logs(LogSettings(level="error"))
    console = Console(width=None if sys.stdout.isatty() else 160)
    wrong = []
    for form in [form for form in FORMS if only in form.name]:
        if form.name == "pgbouncer" and PGBOUNCER is None:
            console.print(f"{form.name}: SKIPPED, needs `apt-get install pgbouncer`")
            continue
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as name:
            # Other users' servers must enter it.
            folder = Path(name)
            folder.chmod(0o711)
            result = asyncio.run(hold(form, Sale(units=units, buyers=buyers, seconds=5), folder, seed))
            if keep is not None:
                shutil.copytree(folder, keep / form.name.replace(" ", "-"), dirs_exist_ok=True)
        loaded = "" if result.gate_loaded_s is None else f", gate loaded after {result.gate_loaded_s:.1f} s"
        console.print(
            f"{form.name}: {'right' if result.right else 'WRONG'}, {result.outcome['confirmed']} of {units} confirmed, "
            f"oversold {result.oversold}, lost {result.lost}{loaded}, {time.monotonic() - began_s:.0f} s",
            highlight=False,
        )
        for problem in result.problems:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        if not result.right:
            wrong.append(form.name)
    sys.exit(f"not right: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
