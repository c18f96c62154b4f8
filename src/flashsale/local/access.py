"""Ports and passwords of the local stack's servers, chosen once and stored in files."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import asyncpg

from flashsale.local.children import ChildFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADMIN_EMAIL = "admin@flashsale.invalid"

DATABASE_ROLES: Mapping[str, str] = {
    "api": "flashsale_api",
    **dict.fromkeys(("orders", "payments", "maintenance"), "flashsale_worker"),
}
"""The database user of each kind of process; other kinds connect as the owner of the tables."""

PORTS = range(10_000, 32_768)
"""Below the range from which Linux takes ports of outgoing connections: none of those can take a port that is ours
while the server is down for a moment."""


def free_port() -> int:
    """Return a free loopback port."""
    for port in secrets.SystemRandom().sample(PORTS, 100):
        if is_free(port):
            return port
    raise ChildFailed("No free port on 127.0.0.1")


def is_free(port: int) -> bool:
    """Say whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def read_access(data_dir: Path, port: int | None, *, keep: bool) -> tuple[int, str]:
    """Return the port and password of the server below `data_dir`; the first call chooses them at random.

    A port stays the same over restarts. If another program has taken the port, another is chosen, unless `keep`.
    `port` asks for a certain port.

    Raises:
        ChildFailed: if the port must be kept, or was asked for, and is not free; if the file is damaged.
    """
    path = data_dir / "access"
    known = path.read_text().split() if path.exists() else None
    if known is not None and not (len(known) == 2 and known[0].isdecimal()):  # noqa: PLR2004 - port and password
        raise ChildFailed(f"{path} is damaged: it must hold the server's port and password.")
    chosen = port or (int(known[0]) if known is not None else free_port())
    if not is_free(chosen):
        if port is not None or keep:
            raise ChildFailed(
                f"Port {chosen} on 127.0.0.1, for the server in {data_dir}, is in use by another program."
            )
        chosen = free_port()
    password = known[1] if known is not None else secrets.token_hex(16)
    write_secret(path, f"{chosen} {password}\n")
    return chosen, password


def take_lock(data_dir: Path, refusal: str) -> IO[str]:
    """Lock a stack's directory for this process, until the file that is returned is closed.

    Raises:
        ChildFailed: with `refusal`, if another process holds the lock.
    """
    lock = (data_dir / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ChildFailed(refusal) from None
    lock.truncate(0)
    return lock


def write_secret(path: Path, text: str) -> None:
    """Write a file that only this user may read, atomically even if the machine loses power."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    with new.open("w") as file:
        file.write(text)
        file.flush()
        # Without the sync, the new name could belong to an empty file after a loss of power.
        os.fsync(file.fileno())
    new.replace(path)


def write_secrets(data_dir: Path, values: Mapping[str, str]) -> None:
    """Write the secrets of a stack."""
    write_secret(data_dir / "secrets.json", json.dumps(values, indent=2) + "\n")


def read_secrets(data_dir: Path) -> dict[str, str]:
    """Return the secrets of a stack; the first call makes them.

    Raises:
        ChildFailed: if the file of the secrets is damaged.
    """
    path = data_dir / "secrets.json"
    made = {
        "jwt_secret": secrets.token_urlsafe(48),
        "gateway_secret": secrets.token_urlsafe(24),
        "admin_email": ADMIN_EMAIL,
        "admin_password": secrets.token_urlsafe(18),
    }
    # Missing in files of older releases, in which every process connected as the owner of the tables.
    added = {role: secrets.token_hex(16) for role in sorted(set(DATABASE_ROLES.values()))}
    # The second key of the tokens, while the first is replaced.
    added["jwt_second_secret"] = ""
    if not path.exists():
        write_secrets(data_dir, {**made, **added})
    try:
        loaded: dict[str, str] = json.loads(path.read_text())
        known = {name: {**added, **loaded}[name] for name in (*made, *added)}
    except (ValueError, KeyError, TypeError):
        raise ChildFailed(f"{path} is damaged: delete it, and new secrets are made.") from None
    if known != loaded:
        write_secrets(data_dir, known)
    return known


async def ensure_database(url: str) -> None:
    """Create the database that a URL names, if it is missing.

    Raises:
        ChildFailed: if the server cannot be reached, or refuses.
    """
    parts = urlsplit(url)
    try:
        try:
            connection = await asyncpg.connect(url, timeout=10)
        except asyncpg.InvalidCatalogNameError:
            name = unquote(parts.path.removeprefix("/")).replace('"', '""')
            connection = await asyncpg.connect(parts._replace(path="/postgres").geturl(), timeout=10)
            await connection.execute(f'CREATE DATABASE "{name}"')
        await connection.close()
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise ChildFailed(
            f"Postgres at {parts.hostname}:{parts.port or 5432} refused: {str(error) or type(error).__name__}. "
            f"Is FLASHSALE_POSTGRES__URL right?"
        ) from None
