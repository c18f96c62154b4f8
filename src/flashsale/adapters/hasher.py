"""The process that hashes passwords: run as a script, it answers each line on its input until that ends.

In a separate process because a hash holds a core for 21 ms, and a thread of low priority would be late to hand the
interpreter's lock back to the event loop. It imports nothing of the project, so that it starts quickly and stays small.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
"""OWASP Password Storage Cheat Sheet, argon2id: 19 MiB, 2 iterations, 1 degree of parallelism."""

NICE = 15
"""Niceness of the hashing processes: a busy process gets 30 times as much processor time, sched(7). At the lowest
priority logins would stop on a busy machine; at 10 a flood of logins slows the buys more.
"""


def main() -> None:
    """Answer `[password, hash or null]` with whether they belong together, or with a new hash."""
    _yield_to_others()
    hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
    for line in sys.stdin:
        password, hashed = json.loads(line)
        if hashed is None:
            answer: str | bool = hasher.hash(password)
        else:
            try:
                answer = hasher.verify(hashed, password)
            except (VerificationError, InvalidHashError):
                answer = False
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _yield_to_others() -> None:
    """Have what processor time others leave: a flood of logins must not slow the buys down."""
    os.setsid()
    os.nice(NICE)
    # Where sessions share the processors in equal parts, the session needs the priority: sched(7), autogroup.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))


if __name__ == "__main__":
    with suppress(BrokenPipeError, KeyboardInterrupt):
        main()
