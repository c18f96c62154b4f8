"""The command line. `flashsale COMMAND --help` explains each command and shows an example."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import structlog

from flashsale import __version__
from flashsale.runtime.logs import configure_logs, tell_ready
from flashsale.runtime.outputs import guard_errors, progress
from flashsale.settings import LogSettings, Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flashsale.adapters.postgres.users import PostgresUsers
    from flashsale.domain.users import User
    from flashsale.usecases.accounts import Accounts

# Each command imports its modules when it runs, so `--help` starts fast.


class Commands(click.Group):
    """The commands. Ctrl-C ends each with exit code 130 and prints nothing."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """A flash-sale backend: a fixed number of units, far more buyers, no unit sold twice, no order lost."""
    guard_errors()


def _run(coroutine: Coroutine[object, object, int | None]) -> None:
    """Run a command. An expected failure prints one line and exits with 1."""
    from flashsale.domain.errors import FlashSaleError
    from flashsale.local.binaries import MissingBinary
    from flashsale.local.children import ChildFailed
    from flashsale.usecases.ports import PoisonBatch

    try:
        code = asyncio.run(coroutine)
    except OSError as error:
        _forget_output()
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"flashsale: {place}{error.strerror or error}")
    except (ChildFailed, MissingBinary) as error:
        sys.exit(f"flashsale: {error}")
    except FlashSaleError as error:
        sys.exit(f"flashsale: {error.detail}")
    except PoisonBatch as error:
        sys.exit(f"flashsale: Postgres refused: {error}")
    if code:
        sys.exit(code)


@main.command(epilog="Example: flashsale up --api 4 --port 9000")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=".flashsale",
    show_default=True,
    help="Directory of data and logs.",
)
@click.option(
    "--api", type=click.IntRange(1, 64), default=2, show_default=True, help="Number of API processes behind one port."
)
@click.option("--orders", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of order workers.")
@click.option("--payments", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of payment workers.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port of the API; 0 means any free port.",
)
def up(data_dir: Path, api: int, orders: int, payments: int, port: int) -> None:
    """Start the whole stack on this machine and run it until Ctrl-C.

    The command also starts Postgres and Valkey, unless FLASHSALE_POSTGRES__URL or FLASHSALE_REDIS__URL names a running
    server. It reads every other setting (docs/reference/settings.md) from the environment.
    """
    from rich.console import Console

    from flashsale.local.stack import Stack
    from flashsale.local.up import up as run_up

    console = Console(file=progress())
    configure_logs(LogSettings(level="warning"))
    stack = Stack(
        data_dir,
        api=api,
        orders=orders,
        payments=payments,
        port=port,
        environment=_named_servers(),
        say=console.print,
    )
    _run(run_up(stack, console))


@main.command(epilog="Example: flashsale demo --units 100 --buyers 2000 --seconds 3")
@click.option("--units", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Number of units.")
@click.option("--buyers", type=click.IntRange(1, 100_000), default=10_000, show_default=True, help="Number of buyers.")
@click.option(
    "--seconds", type=click.FloatRange(0.5, 300), default=5.0, show_default=True, help="Time in which they arrive."
)
@click.option("--price", default="999.99", show_default=True, help="Price of a unit.")
@click.option("--api", type=click.IntRange(1, 64), default=2, show_default=True, help="Number of API processes.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of arrivals, payments and declines.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Directory that keeps data, logs and history.")
def demo(units: int, buyers: int, seconds: float, price: str, api: int, seed: int, data_dir: Path | None) -> None:
    """Run a whole sale on this machine and check the result.

    The command starts the stack, creates buyers, sends all buys with a load generator, waits for the last order,
    prints a table and the audit, and stops everything. It exits with 0 only if every invariant holds and every unit is
    confirmed or free.
    """
    from flashsale.demo.run import run_demo
    from flashsale.demo.sale import Sale

    configure_logs(LogSettings(level="warning"))
    sale = Sale(units=units, buyers=buyers, seconds=seconds, price=price, seed=seed)

    async def run(folder: Path) -> int:
        return await run_demo(sale, data_dir=folder, api=api, environment=_named_servers())

    if data_dir is not None:
        _run(run(data_dir))
    else:
        with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
            _run(run(Path(folder)))


@main.command(epilog="Example: flashsale backup sale.flashsale")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=".flashsale",
    show_default=True,
    help="Directory of the stack.",
)
def backup(file: Path, data_dir: Path) -> None:
    """Write the local stack to one file, also during a sale: the database, the simulator's ledger, the secrets."""
    from flashsale.local.backup import backup as run_backup

    configure_logs(LogSettings(level="warning"))

    async def run() -> None:
        _print_result(await run_backup(data_dir, file))

    _run(run())


@main.command(epilog="Example: flashsale restore sale.flashsale --data-dir restored")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=".flashsale", show_default=True, help="Target directory."
)
@click.option(
    "--ledger", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The simulator's newest ledger."
)
@click.option("--overwrite", is_flag=True, help="Delete the data in the target directory.")
def restore(file: Path, data_dir: Path, ledger: Path | None, overwrite: bool) -> None:  # noqa: FBT001 - by name
    """Restore the local stack from a backup and list the charges made after the backup.

    Orders accepted after the backup are lost, and charges are not undone. Each line names a lost order and the amount
    to refund. Start the stack with `flashsale up`; it loads the gate from Postgres.
    """
    from flashsale.domain.money import Money
    from flashsale.local.backup import AFTER
    from flashsale.local.backup import restore as run_restore

    configure_logs(LogSettings(level="warning"))

    async def run() -> None:
        charged = await run_restore(data_dir, file, overwrite=overwrite, ledger=ledger)
        money = {one.order_id: Money(minor=one.amount_minor, currency=one.currency) for one in charged}
        lines = [
            f"charged after the restore point: order {order_id}, {paid} {paid.currency}"
            for order_id, paid in money.items()
        ]
        lines.append(f"restored in {data_dir}; charged after the restore point: {len(charged)} ({data_dir / AFTER})")
        _print_result("\n".join(lines))

    _run(run())


@main.command(epilog="Example: flashsale audit --history sale.jsonl")
@click.option(
    "--history", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File that a load generator wrote."
)
@click.option("--overdue-s", type=float, help="Replaces FLASHSALE_AUDIT__OVERDUE_S.")
@click.option("--bypass-ok", is_flag=True, help="Accept a gate that is not loaded.")
@click.option("--json", "machine", is_flag=True, help="Print one JSON document instead of lines.")
def audit(history: Path | None, overdue_s: float | None, bypass_ok: bool, machine: bool) -> None:  # noqa: FBT001
    """Recompute every invariant from the data, print one line for each, and exit with 1 on a violation.

    The audit reads Postgres, the gate and the payment gateway's ledger, which the environment names. With --history it
    also reads what the clients of a load generator saw.
    """
    from flashsale.bootstrap import open_audit, require_servers
    from flashsale.usecases.findings import as_json, format_findings
    from flashsale.usecases.history import read_history

    settings = _process_settings("audit")
    require_servers(settings)

    async def run() -> int:
        seen = None
        if history is not None:
            try:
                seen = read_history(history.open())
            except ValueError as error:
                sys.exit(f"flashsale: {history}: {error}")
        limits = settings.audit
        async with open_audit(settings, bypass_allowed=bypass_ok) as run_audit:
            findings = await run_audit(
                history=seen,
                overdue_s=limits.overdue_s if overdue_s is None else overdue_s,
                stuck_s=limits.stuck_s,
            )
        _print_result(as_json(findings) if machine else format_findings(findings))
        return int(any(finding.violations for finding in findings))

    _run(run())


@main.command(epilog="Example: flashsale serve --port 8000")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option("--fd", type=int, help="Inherited listening socket; replaces host and port.")
@click.option("--ready-fd", type=int, help="File descriptor that receives a line when the process is ready.")
def serve(host: str, port: int, fd: int | None, ready_fd: int | None) -> None:
    """Run the API in FLASHSALE_HTTP__PROCESSES processes. SIGTERM and SIGINT let open requests finish."""
    import uvloop

    from flashsale.asgi import serve as run_serve
    from flashsale.bootstrap import require_servers
    from flashsale.runtime.processes import run_processes

    settings = _process_settings("api")
    require_servers(settings)
    sock = _listening(host, port, fd)
    run_processes(settings.http.processes, lambda: uvloop.run(run_serve(settings, sock=sock, ready_fd=ready_fd)), sock)


@main.command(epilog="Example: FLASHSALE_SIMULATOR__DECLINE_RATE=0.5 flashsale simulator --port 9100")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9100, show_default=True, help="Port to listen on.")
@click.option("--fd", type=int, help="Inherited listening socket; replaces host and port.")
@click.option("--ready-fd", type=int, help="File descriptor that receives a line when the process is ready.")
def simulator(host: str, port: int, fd: int | None, ready_fd: int | None) -> None:
    """Run the payment gateway simulator, which keeps a ledger and charges nobody."""
    import uvloop

    from flashsale.runtime.processes import settle_collector
    from flashsale.simulator.ledger import LedgerDamagedError, LedgerFailedError, LedgerLockedError
    from flashsale.simulator.service import run_simulator

    settings = _process_settings("simulator")
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
        await run_simulator(settings.simulator, secret, sock=_listening(host, port, fd), ready=ready, stop=stop)

    try:
        uvloop.run(run())
    except (LedgerDamagedError, LedgerFailedError, LedgerLockedError, OSError) as error:
        sys.exit(f"flashsale: the gateway's ledger: {error}")


@main.command(epilog='Example: printf %s "$PASSWORD" | flashsale admin --email admin@example.com')
@click.option("--email", required=True, help="The administrator's email.")
@click.option("--if-missing", is_flag=True, help="Do not change the password of an existing administrator.")
@click.option("--demote", is_flag=True, help="Make an administrator a buyer; needs no password.")
def admin(email: str, if_missing: bool, demote: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Create an administrator or set the password of one, from standard input or typed at a terminal.

    A new password, and --demote, end every token of the account at once.
    """
    from flashsale.bootstrap import as_owner

    if demote and if_missing:
        sys.exit("flashsale: --demote and --if-missing exclude each other.")
    settings = as_owner(_process_settings("admin"))
    password = "" if demote else _read_password(email)

    async def run(accounts: Accounts, _: PostgresUsers) -> str:
        if demote:
            user = await accounts.demote(email)
            return f"buyer {user.email}: {user.user_id}"
        user = await accounts.ensure_admin(email=email, password=password, change=not if_missing)
        return f"administrator {user.email}: {user.user_id}"

    _with_accounts("admin", settings, run)


@main.command(epilog="Example: flashsale buyers --count 10000 --out buyers.jsonl")
@click.option("--count", type=click.IntRange(1, 1_000_000), required=True, help="Number of buyers.")
@click.option(
    "--prefix", default="buyer", show_default=True, help="Start of their names; the same prefix gives the same buyers."
)
@click.option("--out", type=click.File("w"), default="-", help="File for one JSON line per buyer: user_id, token.")
def buyers(count: int, prefix: str, out: IO[str]) -> None:
    """Create buyers without passwords, each with a token, for load tests."""
    from flashsale.bootstrap import open_accounts, require_servers
    from flashsale.domain.users import Principal, Role
    from flashsale.http.auth import Tokens

    os.umask(0o077)  # the file with the tokens is made at its first line
    settings = _process_settings("accounts")
    require_servers(settings)

    async def run() -> None:
        async with open_accounts(settings, name="buyers") as (_, users):
            user_ids = await users.create_buyers(count, prefix=prefix)
            risen = await users.generations(user_ids)
        tokens = Tokens(settings.auth)
        for user_id in user_ids:
            token = tokens.issue(Principal(user_id=user_id, role=Role.BUYER, generation=risen.get(user_id, 0)))
            out.write(json.dumps({"user_id": str(user_id), "token": token}) + "\n")
        out.flush()

    _run(run())


@main.command(epilog="Example: TOKEN=$(flashsale token admin@flashsale.invalid)")
@click.argument("email")
def token(email: str) -> None:
    """Print a login token for an existing account, for scripts and first steps."""
    from flashsale.http.auth import Tokens

    settings = _process_settings("accounts")

    async def run(_: Accounts, users: PostgresUsers) -> str:
        return Tokens(settings.auth).issue((await _account(users, email)).principal)

    _with_accounts("token", settings, run)


@main.command(epilog="Example: flashsale password-reset ada@example.com")
@click.argument("email")
def password_reset(email: str) -> None:
    """Print a token with which the owner of an account sets a new password, once.

    Send it to the owner: POST /api/auth/reset {"token": ..., "password": ...}. It expires after
    FLASHSALE_AUTH__RESET_TOKEN_TTL_S, and with the next change of the password.
    """
    from flashsale.http.auth import Tokens

    settings = _process_settings("accounts")

    async def run(_: Accounts, users: PostgresUsers) -> str:
        return Tokens(settings.auth).issue_reset((await _account(users, email)).principal)

    _with_accounts("password-reset", settings, run)


@main.command(epilog="Example: flashsale sign-out ada@example.com")
@click.argument("email")
def sign_out(email: str) -> None:
    """End every token of an account; its password stays."""

    async def run(_: Accounts, users: PostgresUsers) -> str:
        user = await _account(users, email)
        await users.raise_generation(user.user_id)
        return f"signed out {user.email}: {user.user_id}"

    _with_accounts("sign-out", _process_settings("accounts"), run)


def _with_accounts(
    name: str, settings: Settings, use: Callable[[Accounts, PostgresUsers], Coroutine[object, object, str]]
) -> None:
    """Print what a command makes of the accounts."""
    from flashsale.bootstrap import open_accounts, require_servers

    require_servers(settings)

    async def run() -> None:
        async with open_accounts(settings, name=name) as (accounts, users):
            result = await use(accounts, users)
        _print_result(result)

    _run(run())


async def _account(users: PostgresUsers, email: str) -> User:
    found = await users.credentials(email)
    if found is None:
        sys.exit(
            f"flashsale: no account has the email {email}. Create one with `flashsale buyers` or `flashsale admin`."
        )
    return found[0]


def _read_password(email: str) -> str:
    """Read a new password: typed twice at a terminal, or standard input without its final newline.

    A password that is not valid ends the process with one line.
    """
    from flashsale.domain.errors import InvalidInput
    from flashsale.domain.passwords import PASSWORD_MAX, check_password

    if sys.stdin is None:
        sys.exit("flashsale: give the password on standard input, which is closed.")
    try:
        if sys.stdin.isatty():
            password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        else:
            # As many bytes as show that it is too long.
            password = sys.stdin.buffer.read(4 * PASSWORD_MAX + 3).decode()
            password = password.removesuffix("\n").removesuffix("\r")
        check_password(password, email=email)
    except UnicodeDecodeError:
        sys.exit("flashsale: the password must be UTF-8.")
    except InvalidInput as error:
        sys.exit(f"flashsale: {error.detail}")
    return password


def _forget_output() -> None:
    """Redirect standard output to /dev/null: Python would flush its buffer at exit and print a second error."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _print_result(text: str) -> None:
    """Print the result of a command. An `OSError` ends the command with one line and exit code 1."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _process_settings(process: str) -> Settings:
    settings = read_settings(process)
    configure_logs(settings.log)
    structlog.contextvars.clear_contextvars()
    return settings


def _named_servers() -> dict[str, str]:
    """Return the servers that the environment names; the stack starts the others."""
    names = ("FLASHSALE_POSTGRES__URL", "FLASHSALE_REDIS__URL")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _listening(host: str, port: int, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sys.exit(f"flashsale: cannot listen on {host}:{port}: {error.strerror}")
    sock.listen(4096)
    return sock


if __name__ == "__main__":
    main()
