"""Postgres' own programs `pg_dump` and `pg_restore`, on the database that a URL names."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import asyncpg

from flashsale.local.binaries import MissingBinary, postgres_bin
from flashsale.local.children import ChildFailed

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM_S = 3600.0
"""Longest time of a dump, and of a restore."""

INTO_ONE = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")


async def dump(url: str, file: Path, *, copies: Path | None = None) -> None:
    """Write a database to a file, as it is at one instant.

    Raises:
        ChildFailed: if it cannot be read or written, in one line.
        MissingBinary: if there is no `pg_dump`.
    """
    await _run("pg_dump", url, "--format=custom", f"--file={file}", copies=copies)


async def load(url: str, file: Path, *, copies: Path | None = None) -> None:
    """Load a file of `dump` into an empty database: all of it, or nothing.

    Raises:
        ChildFailed: if that fails, in one line.
        MissingBinary: if there is no `pg_restore`.
    """
    await _run("pg_restore", url, *INTO_ONE, str(file), copies=copies)


def database_of(url: str) -> str:
    """Return the name of the database that a URL names."""
    return unquote(urlsplit(url).path.removeprefix("/"))


async def server_version(url: str) -> str:
    """Return the version of the server."""
    connection = await asyncpg.connect(url)
    try:
        version: str = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return version


async def _run(name: str, url: str, *arguments: str, copies: Path | None) -> None:
    place, password = _without_password(url)
    environment = {**os.environ, **({} if password is None else {"PGPASSWORD": password})}
    process = await asyncio.create_subprocess_exec(
        _program(name, copies),
        f"--dbname={place}",
        "--no-password",
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROGRAM_S):
            _, said = await process.communicate()
    except TimeoutError:
        raise ChildFailed(f"{name} took longer than {PROGRAM_S:g} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ChildFailed(_why(name, process.returncode, said.decode(errors="replace")))


def _why(name: str, code: int, said: str) -> str:
    """Return one line: the first error that the program printed, or the signal that ended it."""
    if code < 0:
        return f"{name} was ended by a signal: {signal.strsignal(-code)}."
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return (errors or lines or [f"{name} failed with {code}."])[0]


def _without_password(url: str) -> tuple[str, str | None]:
    """Return a URL without its password, and the password: every user of the machine can read the arguments."""
    parts = urlsplit(url)
    account, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = account.partition(":")
    return parts._replace(netloc=f"{user}{at}{hosts}").geturl(), unquote(password) if colon else None


def _program(name: str, copies: Path | None) -> str:
    try:
        program = postgres_bin(copies=copies) / name
    except MissingBinary:
        program = None
    if program is not None and program.exists():
        return str(program)
    found = shutil.which(name)
    if found is None:
        raise MissingBinary(f"No `{name}`: install Postgres' client programs, or the dependency group `local`.")
    return found
