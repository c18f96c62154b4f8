"""The process that hashes passwords: a script that answers each line of its standard input until the input ends.

Hashing needs a separate process: one hash occupies a core for 21 ms, and a thread of low priority would return the
interpreter's lock to the event loop too late. The script imports nothing of the project, so it starts quickly and
stays small.
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
    """Answer `[password, hash]` with whether the password matches the hash, and `[password, null]` with a new hash."""
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
    """Lower the priority of this process, so that a flood of logins does not slow the buys down."""
    os.setsid()
    os.nice(NICE)
    # Where the kernel shares processors equally among sessions, the session needs the priority: sched(7), autogroup.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))


if __name__ == "__main__":
    with suppress(BrokenPipeError, KeyboardInterrupt):
        main()
