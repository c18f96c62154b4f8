"""argon2id in processes of their own (`hasher.py`), started when first needed."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from flashsale.adapters import hasher
from flashsale.domain.errors import Unavailable

if TYPE_CHECKING:
    from asyncio.subprocess import Process

log = structlog.get_logger(__name__)

NOBODY = f"$argon2id$v=19$m={hasher.MEMORY_KIB},t={hasher.PASSES},p={hasher.LANES}${'A' * 22}${'A' * 43}"
"""A hash of no known password, as dear to compare with as any: a login of an unknown email is compared with it."""


class Argon2Passwords:
    """Implements `usecases.accounts.Passwords`."""

    def __init__(self, *, concurrency: int, queue_max: int) -> None:
        """Hash `concurrency` at once, in a process each; at most `queue_max` more wait."""
        self._running = 0
        self._running_max = concurrency + queue_max
        self._turns = asyncio.Semaphore(concurrency)
        self._idle: list[Process] = []

    def check_room(self) -> None:
        """Raise `Unavailable` if too many wait."""
        if self._running >= self._running_max:
            raise Unavailable("Too many logins; try again.", retry_after_s=2)

    async def hash(self, password: str) -> str:
        """Give a salted hash; `Unavailable` if too many wait."""
        return str(await self._ask(password, None))

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Compare; None takes as long as any hash and never matches."""
        matches = await self._ask(password, NOBODY if hashed is None else hashed)
        return bool(matches) and hashed is not None

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, password: str, hashed: str | None) -> str | bool:
        self.check_room()
        self._running += 1
        try:
            async with self._turns:
                process = self._idle.pop() if self._idle else await _start()
                try:
                    answer = await _answer(process, [password, hashed])
                except BaseException:
                    # Lost, or left in the middle of an answer.
                    await _end(process)
                    raise
                self._idle.append(process)
                return answer
        except (OSError, ValueError) as error:
            log.warning("hasher.lost", error=type(error).__name__)
            raise Unavailable("Passwords cannot be checked just now; try again.") from error
        finally:
            self._running -= 1


async def _start() -> Process:
    # Isolated, and without the environment: it needs no setting and no secret.
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, "-I", hasher.__file__, stdin=pipe, stdout=pipe, env={})


async def _answer(process: Process, question: list[str | None]) -> str | bool:
    if process.stdin is None or process.stdout is None:
        raise ValueError("no pipes")
    process.stdin.write(f"{json.dumps(question)}\n".encode())
    answer: str | bool = json.loads(await process.stdout.readline())
    return answer


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
