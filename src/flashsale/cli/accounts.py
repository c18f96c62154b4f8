"""Accounts: administrators, buyers, tokens and new passwords."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from typing import IO, TYPE_CHECKING

import click

from flashsale.cli.group import main, print_result, process_settings, run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flashsale.domain.trail import Author
    from flashsale.domain.users import User
    from flashsale.settings import Settings
    from flashsale.usecases.accounts import Accounts
    from flashsale.usecases.ports import Users


@main.group(epilog='Example: printf %s "$PASSWORD" | flashsale admin create ada@example.com')
def admin() -> None:
    """Create accounts of staff, and change their passwords and roles, as the owner of the tables."""


@admin.command("create", epilog='Example: printf %s "$PASSWORD" | flashsale admin create ada@example.com')
@click.argument("email")
@click.option(
    "--role",
    type=click.Choice(["support", "operator", "admin"]),
    default="admin",
    show_default=True,
    help="support reads, cancels and refunds orders; operator reads, pauses and resumes sales; admin: everything.",
)
@click.option("--if-missing", is_flag=True, help="Change nothing if the account exists with this role.")
def create_staff(email: str, role: str, if_missing: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Create an account of staff; the command asks for the password at a terminal, or reads standard input."""
    from flashsale.domain.users import Role

    password = _read_password(email)

    async def run(accounts: Accounts, _: Users) -> str:
        user = await accounts.create_staff(
            email=email, password=password, role=Role(role), if_missing=if_missing, by=author_of("admin create")
        )
        return _told(user)

    _as_owner(run)


@admin.command("password", epilog='Example: printf %s "$PASSWORD" | flashsale admin password ada@example.com')
@click.argument("email")
def set_password(email: str) -> None:
    """Give an account of staff a new password, typed or from standard input; its tokens end at once."""
    password = _read_password(email)

    async def run(accounts: Accounts, _: Users) -> str:
        return _told(await accounts.set_staff_password(email=email, password=password, by=author_of("admin password")))

    _as_owner(run)


@admin.command("role", epilog="Example: flashsale admin role ada@example.com operator")
@click.argument("email")
@click.argument("role", type=click.Choice(["buyer", "support", "operator", "admin"]))
def set_role(email: str, role: str) -> None:
    """Give an account a role; its tokens end at once."""
    from flashsale.domain.users import Role

    async def run(accounts: Accounts, _: Users) -> str:
        return _told(await accounts.set_role(email, Role(role), by=author_of("admin role")))

    _as_owner(run)


def _told(user: User) -> str:
    return f"{user.role} {user.email}: {user.user_id}"


def author_of(command: str) -> Author:
    """Name the user and the machine that the trail shows for a command."""
    from flashsale.domain.trail import Author

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        name = str(os.getuid())
    return Author(user_id=None, action=command, origin=f"{name}@{socket.gethostname()}")


def _as_owner(use: Callable[[Accounts, Users], Coroutine[object, object, str]]) -> None:
    from flashsale.bootstrap.servers import as_owner

    _with_accounts("admin", as_owner(process_settings("admin")), use)


@main.command(epilog="Example: flashsale buyers --count 10000 --out buyers.jsonl")
@click.option("--count", type=click.IntRange(1, 1_000_000), required=True, help="Number of buyers.")
@click.option(
    "--prefix", default="buyer", show_default=True, help="Start of their names; the same prefix gives the same buyers."
)
@click.option("--out", type=click.File("w"), default="-", help="File for one JSON line per buyer: user_id, token.")
def buyers(count: int, prefix: str, out: IO[str]) -> None:
    """Create buyers without passwords, each with a token, for load tests."""
    from flashsale.bootstrap.commands import open_accounts
    from flashsale.bootstrap.servers import require_servers
    from flashsale.domain.users import Principal, Role
    from flashsale.http.auth import Tokens

    os.umask(0o077)  # the file with the tokens is made at its first line
    settings = process_settings("accounts")
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

    run_command(run())


@main.command(epilog="Example: TOKEN=$(flashsale token admin@flashsale.invalid)")
@click.argument("email")
def token(email: str) -> None:
    """Print a login token for an existing account, for scripts and first steps."""
    from flashsale.http.auth import Tokens

    settings = process_settings("accounts")

    async def run(_: Accounts, users: Users) -> str:
        user = await _account(users, email)
        await users.note(user.user_id, author_of("token"))
        return Tokens(settings.auth).issue(user.principal)

    _with_accounts("token", settings, run)


@main.command(epilog="Example: flashsale password-reset ada@example.com")
@click.argument("email")
def password_reset(email: str) -> None:
    """Print a token with which the owner of an account sets a new password, once.

    Send it to the owner: POST /api/auth/reset {"token": ..., "password": ...}. It expires after
    FLASHSALE_AUTH__RESET_TOKEN_TTL_S, and with the next change of the password.
    """
    from flashsale.http.auth import Tokens

    settings = process_settings("accounts")

    async def run(_: Accounts, users: Users) -> str:
        user = await _account(users, email)
        await users.note(user.user_id, author_of("password-reset"))
        return Tokens(settings.auth).issue_reset(user.principal)

    _with_accounts("password-reset", settings, run)


@main.command(epilog="Example: flashsale sign-out ada@example.com")
@click.argument("email")
def sign_out(email: str) -> None:
    """End every token of an account; its password stays."""

    async def run(_: Accounts, users: Users) -> str:
        user = await _account(users, email)
        await users.raise_generation(user.user_id, by=author_of("sign-out"))
        return f"signed out {user.email}: {user.user_id}"

    _with_accounts("sign-out", process_settings("accounts"), run)


def _with_accounts(
    name: str, settings: Settings, use: Callable[[Accounts, Users], Coroutine[object, object, str]]
) -> None:
    """Open the accounts for a command, and print its result."""
    from flashsale.bootstrap.commands import open_accounts
    from flashsale.bootstrap.servers import require_servers

    require_servers(settings)

    async def run() -> None:
        async with open_accounts(settings, name=name) as (accounts, users):
            result = await use(accounts, users)
        print_result(result)

    run_command(run())


async def _account(users: Users, email: str) -> User:
    found = await users.credentials(email)
    if found is None:
        sys.exit(
            f"flashsale: no account has the email {email}. Create one with `flashsale buyers` or "
            "`flashsale admin create`."
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
            # Enough bytes to tell that a password is too long.
            password = sys.stdin.buffer.read(4 * PASSWORD_MAX + 3).decode()
            password = password.removesuffix("\n").removesuffix("\r")
        check_password(password, email=email)
    except UnicodeDecodeError:
        sys.exit("flashsale: the password must be UTF-8.")
    except InvalidInput as error:
        sys.exit(f"flashsale: {error.detail}")
    return password
