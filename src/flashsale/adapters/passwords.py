"""argon2id in threads."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from flashsale.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
"""OWASP Password Storage Cheat Sheet, argon2id: 19 MiB, 2 iterations, 1 degree of parallelism."""

NICE = 19
"""The lowest priority of the time-sharing scheduler."""

NOBODY = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${'A' * 22}${'A' * 43}"
"""A hash of no known password, as dear to compare with as any: a login of an unknown email is compared with it."""


class Argon2Passwords:
    """Implements `usecases.accounts.Passwords`. argon2 releases the GIL, so threads do."""

    def __init__(self, *, concurrency: int, queue_max: int) -> None:
        """Hash `concurrency` at once; at most `queue_max` more wait."""
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="argon2", initializer=_yield_to_others)
        self._running = 0
        self._running_max = concurrency + queue_max

    async def hash(self, password: str) -> str:
        """Give a salted hash; `Unavailable` if too many wait."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Compare; None takes as long as any hash and never matches."""
        return await self._run(lambda: self._verify(password, hashed))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, hashed: str | None) -> bool:
        try:
            self._hasher.verify(NOBODY if hashed is None else hashed, password)
        except (VerificationError, InvalidHashError):
            return False
        return hashed is not None

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._running >= self._running_max:
            raise Unavailable("Too many logins; try again.", retry_after_s=2)
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._running -= 1


def _yield_to_others() -> None:
    """Let this thread have what processor time others leave: a flood of logins must not slow the buys down."""
    if sys.platform == "linux":  # where a thread has a priority of its own: sched(7)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
