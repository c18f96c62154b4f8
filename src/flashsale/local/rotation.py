"""Replaces the key of the tokens of a local stack, which may run. `docs/how-to/rotate-the-secret.md` has the steps.

Each step writes the two keys to the file of secrets and lets the running stack replace its API processes. A process
accepts both keys, and signs with the first. A stack that dies between two steps starts with the keys of the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shlex
import signal
from typing import TYPE_CHECKING

from flashsale.local.access import read_secrets, write_secrets
from flashsale.local.children import ChildFailed

if TYPE_CHECKING:
    from pathlib import Path

ROLL_S = 300.0
"""Longest time in which a stack replaces its API processes."""

LOOK_S = 0.1

KEY, SECOND_KEY = "FLASHSALE_AUTH__JWT_SECRET", "FLASHSALE_AUTH__JWT_SECOND_SECRET"

DEPLOYMENT = """\
A new key: {key}

1. Let every process accept the new key: {second}={key}
   {first} stays. Replace the API processes one after the other (docker/deploy --rolling).
2. Let every process sign with it: exchange the two values, and replace the API processes again.
3. Wait until the last token of the old key has expired: FLASHSALE_AUTH__JWT_TTL_S after step 2.
4. Empty {second}, and replace the API processes.

With Docker Compose the variables are JWT_SECRET and JWT_SECOND_SECRET in docker/.env.
If the old key leaked, set {first} to the new key at once, and leave {second} empty."""
"""The steps for other installations; docs/how-to/rotate-the-secret.md says why."""


def new_key() -> str:
    """Return a new key."""
    return secrets.token_urlsafe(48)


def deployment_steps() -> str:
    """Return the steps for an installation that is not a local stack, with a new key."""
    return DEPLOYMENT.format(key=new_key(), first=KEY, second=SECOND_KEY)


async def rotate(data_dir: Path) -> str:
    """Make a new key the one that signs; tokens of the old key stay valid.

    Raises:
        ChildFailed: if there is no stack, the last rotation is not finished, or a process does not come up.
    """
    kept = _kept(data_dir)
    if kept["jwt_second_secret"]:
        raise ChildFailed("The tokens of the last rotation's old key are still accepted: run `flashsale secret drop`.")
    old, new = kept["jwt_secret"], new_key()
    await _use(data_dir, old, new)
    await _use(data_dir, new, old)
    return "rotated: tokens of the old key are accepted until you run `flashsale secret drop`"


async def drop(data_dir: Path) -> str:
    """Refuse the tokens of the old key.

    Raises:
        ChildFailed: if there is no stack or no old key, or a process does not come up.
    """
    kept = _kept(data_dir)
    if not kept["jwt_second_secret"]:
        raise ChildFailed("There is no old key: tokens of one key are accepted.")
    await _use(data_dir, kept["jwt_secret"], "")
    return "dropped: tokens of the old key are refused"


def _kept(data_dir: Path) -> dict[str, str]:
    if not (data_dir / "secrets.json").exists():
        raise ChildFailed(f"{data_dir} has no stack: name its --data-dir, or print steps with --deployment.")
    return read_secrets(data_dir)


async def _use(data_dir: Path, signing: str, second: str) -> None:
    """Write the keys, and wait until a running stack uses them in every API process."""
    write_secrets(data_dir, {**read_secrets(data_dir), "jwt_secret": signing, "jwt_second_secret": second})
    pid = _launcher(data_dir)
    if pid is None:
        return
    os.kill(pid, signal.SIGHUP)
    wanted = {f"{KEY}={shlex.quote(signing)}", f"{SECOND_KEY}={shlex.quote(second)}"}
    try:
        async with asyncio.timeout(ROLL_S):
            while not wanted <= set((data_dir / "environment").read_text().splitlines()):  # noqa: ASYNC110
                # The launcher reports on no pipe, so its file must be polled.
                await asyncio.sleep(LOOK_S)
    except (TimeoutError, FileNotFoundError):
        raise ChildFailed(
            "The stack did not replace its API processes: see its output, then restart it; it starts with the new keys."
        ) from None


def _launcher(data_dir: Path) -> int | None:
    """Return the process that runs the stack; None if no stack runs."""
    with (data_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            with contextlib.suppress(ValueError):
                return int(lock.read())
            raise ChildFailed(f"A backup or a restore works on {data_dir}: wait until it has ended.") from None
    return None
