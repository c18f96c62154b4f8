"""Accounts: administrators, buyers, tokens and new passwords."""

from __future__ import annotations

import json
import os
import sys
from typing import IO, TYPE_CHECKING

import click

from flashsale.cli.group import main, print_result, process_settings, run_command
from flashsale.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flashsale.domain.users import User
    from flashsale.usecases.accounts import Accounts
    from flashsale.usecases.ports import Users


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
    settings = as_owner(process_settings("admin"))
    password = "" if demote else _read_password(email)

    async def run(accounts: Accounts, _: Users) -> str:
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

    settings = process_settings("accounts")

    async def run(_: Accounts, users: Users) -> str:
        return Tokens(settings.auth).issue_reset((await _account(users, email)).principal)

    _with_accounts("password-reset", settings, run)


@main.command(epilog="Example: flashsale sign-out ada@example.com")
@click.argument("email")
def sign_out(email: str) -> None:
    """End every token of an account; its password stays."""

    async def run(_: Accounts, users: Users) -> str:
        user = await _account(users, email)
        await users.raise_generation(user.user_id)
        return f"signed out {user.email}: {user.user_id}"

    _with_accounts("sign-out", process_settings("accounts"), run)


def _with_accounts(
    name: str, settings: Settings, use: Callable[[Accounts, Users], Coroutine[object, object, str]]
) -> None:
    """Open the accounts for a command, and print its result."""
    from flashsale.bootstrap import open_accounts, require_servers

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
            # Enough bytes to tell that a password is too long.
            password = sys.stdin.buffer.read(4 * PASSWORD_MAX + 3).decode()
            password = password.removesuffix("\n").removesuffix("\r")
        check_password(password, email=email)
    except UnicodeDecodeError:
        sys.exit("flashsale: the password must be UTF-8.")
    except InvalidInput as error:
        sys.exit(f"flashsale: {error.detail}")
    return password
