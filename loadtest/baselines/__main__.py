"""Run one process of a baseline: `python -m baselines serve naive --fd 3`."""

from __future__ import annotations

import socket

import click
import uvloop

from baselines.lua import Lua
from baselines.mutex import Mutex
from baselines.naive import Naive
from baselines.redis_queue import RedisQueue
from baselines.shop import Servers, Shop, run_worker, serve
from baselines.synchronous import RowLock, Synchronous
from flashsale.runtime.logs import tell_ready

SHOPS: dict[str, type[Shop]] = {
    "naive": Naive,
    "synchronous": Synchronous,
    "row_lock": RowLock,
    "mutex": Mutex,
    "redis_queue": RedisQueue,
    "lua": Lua,
}


@click.group(epilog="Example: python -m baselines serve naive --port 8100")
def main() -> None:
    """Run one process of a baseline; the servers are named by BASELINE_POSTGRES, BASELINE_REDIS and so on."""


@main.command("serve", epilog="Example: python -m baselines serve naive --port 8100")
@click.argument("approach", type=click.Choice(list(SHOPS)))
@click.option("--port", type=int, default=8100, show_default=True)
@click.option("--fd", type=int, help="Inherited listening socket, instead of --port.")
@click.option("--ready-fd", type=int, help="File descriptor that receives a line when the process is ready.")
def serve_command(approach: str, port: int, fd: int | None, ready_fd: int | None) -> None:
    """Serve an approach over HTTP."""
    sock = socket.socket(fileno=fd) if fd is not None else socket.create_server(("127.0.0.1", port), backlog=4096)
    shop = SHOPS[approach]
    uvloop.run(serve(shop(Servers.from_environment()), sock, ready=lambda: tell_ready(ready_fd)))


@main.command("work", epilog="Example: python -m baselines work redis_queue payments")
@click.argument("approach", type=click.Choice(list(SHOPS)))
@click.argument("kind")
@click.option("--ready-fd", type=int, help="File descriptor that receives a line when the process is ready.")
def work_command(approach: str, kind: str, ready_fd: int | None) -> None:
    """Run a worker process of an approach."""
    shop = SHOPS[approach]
    if kind not in shop.workers:
        raise click.UsageError(f"{approach} has no worker {kind!r}; it has: {', '.join(shop.workers) or 'none'}.")
    uvloop.run(run_worker(shop(Servers.from_environment()), kind, ready=lambda: tell_ready(ready_fd)))


@main.command("create", epilog="Example: python -m baselines create naive --units 1000")
@click.argument("approach", type=click.Choice(list(SHOPS)))
@click.option("--units", type=click.IntRange(min=1), required=True)
def create_command(approach: str, units: int) -> None:
    """Put product 1 on sale; the tables must be there (`schema.sql`)."""

    async def create() -> None:
        shop = SHOPS[approach](Servers.from_environment())
        await shop.open()
        await shop.create(1, name="Phone", price_minor=99_999, currency="USD", stock=units)
        await shop.close()

    uvloop.run(create())


if __name__ == "__main__":
    main()
