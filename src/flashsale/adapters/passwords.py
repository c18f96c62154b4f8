"""argon2id in separate processes (`hasher.py`), which start with the first password."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from flashsale.adapters import hasher
from flashsale.domain.errors import Unavailable
from flashsale.usecases.accounts import Lane

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

log = structlog.get_logger(__name__)

HASH_S = 30.0
"""Longest time of one comparison, which takes 21 ms where nothing else runs; after it the process is replaced."""

NOBODY = f"$argon2id$v=19$m={hasher.MEMORY_KIB},t={hasher.PASSES},p={hasher.LANES}${'A' * 22}${'A' * 43}"
"""A hash of no known password. A login with an unknown email is compared with this hash, so it takes as long as any."""


class Argon2Passwords:
    """Implements `usecases.accounts.Passwords`."""

    def __init__(self, *, concurrency: int, queue_max: int, wait_s: float) -> None:
        """Run `concurrency` hashes at once, each in its own process; each lane queues `queue_max` for `wait_s`."""
        self._free = concurrency
        self._queue_max = queue_max
        self._wait_s = wait_s
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._idle: list[Process] = []

    def check_room(self, lane: Lane) -> None:
        """Raise `Unavailable` if too many wait."""
        if not self._free and len(self._waiting[lane]) >= self._queue_max:
            raise _busy()

    async def hash(self, password: str) -> str:
        """Return a salted hash; `Unavailable` if too many wait, or for too long."""
        return str(await self._ask(password, None, Lane.OTHERS))

    async def verify(self, password: str, hashed: str | None, lane: Lane) -> bool:
        """Compare a password with a hash. None takes as long as any hash and never matches."""
        matches = await self._ask(password, NOBODY if hashed is None else hashed, lane)
        return bool(matches) and hashed is not None

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, password: str, hashed: str | None, lane: Lane) -> str | bool:
        try:
            async with self._turn(lane):
                process = self._idle.pop() if self._idle else await _start()
                try:
                    async with asyncio.timeout(HASH_S):
                        answer = await _answer(process, [password, hashed])
                except BaseException:
                    # The process is lost, or its answer was not read to the end.
                    await _end(process)
                    raise
                self._idle.append(process)
                return answer
        except (OSError, ValueError) as error:
            log.warning("hasher.lost", error=type(error).__name__)
            raise Unavailable("Passwords cannot be checked just now; try again.") from error

    @asynccontextmanager
    async def _turn(self, lane: Lane) -> AsyncIterator[None]:
        """Wait for a turn. The first lane with a waiting caller gets the next one."""
        self.check_room(lane)
        if self._free:
            self._free -= 1
        else:
            await self._wait(lane)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, lane: Lane) -> None:
        mine = asyncio.get_running_loop().create_future()
        queue = self._waiting[lane]
        queue.append(mine)
        try:
            async with asyncio.timeout(self._wait_s):
                await mine
        except BaseException as error:
            if mine in queue:
                queue.remove(mine)
            elif not mine.cancelled():
                # The turn came while the caller was cancelled: pass the turn on.
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise _busy() from None
            raise

    def _pass_on(self) -> None:
        for queue in self._waiting.values():
            while queue:
                next_one = queue.popleft()
                if not next_one.done():
                    next_one.set_result(None)
                    return
        self._free += 1


def _busy() -> Unavailable:
    return Unavailable("Too many logins; try again.", retry_after_s=2)


async def _start() -> Process:
    # Python starts in isolated mode and without the environment: the script needs no setting and no secret.
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
