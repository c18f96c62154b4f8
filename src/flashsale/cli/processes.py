"""Commands that run one service: the API, the payment simulator, the mailbox."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import click

from flashsale.cli.group import listening, main, process_settings


@main.command(epilog="Example: flashsale serve --port 8000")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option("--fd", type=int, help="Inherited listening socket; replaces host and port.")
@click.option("--ready-fd", type=int, help="File descriptor that receives a line when the process is ready.")
def serve(host: str, port: int, fd: int | None, ready_fd: int | None) -> None:
    """Run the API in FLASHSALE_HTTP__PROCESSES processes. SIGTERM and SIGINT let open requests finish."""
    import uvloop

    from flashsale.asgi import serve as run_serve
    from flashsale.bootstrap.servers import require_servers
    from flashsale.bootstrap.tracing import require_tracing
    from flashsale.runtime.processes import run_processes

    settings = process_settings("api")
    require_tracing(settings)
    require_servers(settings)
    sock = listening(host, port, fd)
    run_processes(settings.http.processes, lambda: uvloop.run(run_serve(settings, sock=sock, ready_fd=ready_fd)), sock)


@main.command(epilog="Example: FLASHSALE_SIMULATOR__DECLINE_RATE=0.5 flashsale simulator --port 9100")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9100, show_default=True, help="Port to listen on.")
@click.option("--fd", type=int, help="Inherited listening socket; replaces host and port.")
@click.option("--ready-fd", type=int, help="File descriptor that receives a line when the process is ready.")
def simulator(host: str, port: int, fd: int | None, ready_fd: int | None) -> None:
    """Run the payment gateway simulator, which keeps a ledger and charges nobody."""
    import uvloop

    from flashsale.runtime.logs import tell_ready
    from flashsale.runtime.processes import settle_collector
    from flashsale.simulator.journal import LedgerFailedError, LedgerLockedError
    from flashsale.simulator.ledger import LedgerDamagedError
    from flashsale.simulator.service import run_simulator

    settings = process_settings("simulator")
    secret = settings.payments.gateway_secret.get_secret_value()
    if not secret:
        sys.exit("FLASHSALE_PAYMENTS__GATEWAY_SECRET: set the secret that callers send.")

    def ready() -> None:
        settle_collector()
        tell_ready(ready_fd)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run_simulator(settings.simulator, secret, sock=listening(host, port, fd), ready=ready, stop=stop)

    try:
        uvloop.run(run())
    except (LedgerDamagedError, LedgerFailedError, LedgerLockedError, OSError) as error:
        sys.exit(f"flashsale: the gateway's ledger: {error}")


@main.command(epilog="Example: flashsale mailbox --port 2525 --folder mail")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=2525, show_default=True, help="Port to listen on.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Folder that gets a file per e-mail.")
@click.option("--fd", type=int, help="Inherited listening socket; replaces host and port.")
@click.option("--ready-fd", type=int, help="File descriptor that receives a line when the process is ready.")
def mailbox(host: str, port: int, folder: Path, fd: int | None, ready_fd: int | None) -> None:
    """Run a mail server for development, which keeps every e-mail as a file and sends none on."""
    from flashsale.local.mailbox import installed, run_mailbox
    from flashsale.runtime.logs import tell_ready

    process_settings("mailbox")
    if not installed():
        sys.exit("flashsale: the mail server for development needs aiosmtpd: install the group `local`.")

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run_mailbox(folder, sock=listening(host, port, fd), ready=lambda: tell_ready(ready_fd), stop=stop)

    asyncio.run(run())
