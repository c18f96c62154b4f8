"""Standard output and error that never raise and never block: what cannot be written is dropped and counted.

Logs and progress are for people who watch. A closed pipe, a full disk or a reader that sleeps changes no answer, blocks
no event loop, keeps no process from stopping and decides no exit code. So a thread writes, from a bounded queue.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

QUEUE_BYTES_MAX = 2**20
"""What waits for a slow reader at most; further lines are dropped."""

DRAIN_S = 1.0
"""How long a process that ends waits for the last lines to be written."""


def said_dropped(lines: int) -> str:
    """Say in plain text how many lines were dropped."""
    return f"{lines} lines were dropped: this output was full or could not be written"


class Output(io.RawIOBase):
    """A file descriptor, written by a thread that starts with the first line; each process has one thread."""

    def __init__(self, descriptor: int, say_dropped: Callable[[int], str] = said_dropped) -> None:
        """Write to `descriptor`; `say_dropped` makes the line that tells how many lines are missing before it."""
        self._descriptor = descriptor
        self.say_dropped = say_dropped
        self.dropped = 0
        """Lines that were not written, so far."""
        self._start_empty()
        OUTPUTS.append(self)

    def _start_empty(self) -> None:
        self._changed = threading.Condition()
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._unsaid = 0
        self._open = False
        """Whether the beginning of a line was taken, without its end."""
        self._cut = False
        """Whether the beginning of a line was dropped, and its end is still to come."""
        self._torn = False
        """Whether the last write ended within a line."""
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """Begin again in a forked child: what waits is the parent's to write."""
        self._start_empty()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: object) -> int:
        """Take what is to be written, or drop it. Lines are dropped whole."""
        chunk = bytes(data)  # type: ignore[call-overload]
        size = len(chunk)
        with self._changed:
            if self._cut:
                rest = chunk.find(b"\n") + 1
                chunk, self._cut = (chunk[rest:], False) if rest else (b"", True)
            # The rest of a line whose beginning waits is taken beyond the bound.
            fits = self._open or self._waiting_bytes + len(chunk) <= QUEUE_BYTES_MAX
            if chunk and fits and self._started():
                if self._unsaid and not self._open:
                    chunk = f"{self.say_dropped(self._unsaid)}\n".encode() + chunk
                    self._unsaid = 0
                self._chunks.append(chunk)
                self._waiting_bytes += len(chunk)
                self._open = not chunk.endswith(b"\n")
                self._changed.notify_all()
            elif chunk:
                self._drop(max(1, chunk.count(b"\n")))
                self._cut = not chunk.endswith(b"\n")
        return size

    def drain(self, timeout_s: float = DRAIN_S) -> None:
        """Wait until everything was written or dropped, but not longer than `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes, timeout_s)

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unsaid += lines

    def _started(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._write_for_ever, name="output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter ends
                return False
            self._thread = thread
        return True

    def _write_for_ever(self) -> None:
        # Signals are for the main thread, which may wait for them with sigwait.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks)
                data, self._chunks = b"".join(self._chunks), []
            written = self._write_all(b"\n" + data if self._torn else data)
            with self._changed:
                self._waiting_bytes -= len(data)
                if not written:
                    self._drop(data.count(b"\n"))
                self._changed.notify_all()

    def _write_all(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Somebody made the pipe non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                self._torn |= len(rest) < len(data)
                return False
        self._torn = False
        return True


OUTPUTS: list[Output] = []
"""Every one of this process."""


def dropped_lines() -> int:
    """Count the lines that this process could not write."""
    return sum(output.dropped for output in OUTPUTS)


def drain() -> None:
    """Return the last lines of a process that ends a moment to be written."""
    deadline_s = time.monotonic() + DRAIN_S
    for output in OUTPUTS:
        output.drain(max(0.0, deadline_s - time.monotonic()))


def guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a text stream on the same descriptor that neither raises nor blocks."""
    if stream is None:
        # The parent closed it, and the number may be that of another file by now.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    elif isinstance(stream.buffer, Output):
        return stream
    # Characters that UTF-8 has no form for (surrogates) are escaped.
    raw = Output(descriptor)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[type-var]


def guard_errors() -> None:
    """Make standard error such a stream for the whole process: logs, warnings, tracebacks and last words.

    A standard output that the parent closed becomes one that fails when it is written, as any other that cannot be.
    """
    _open_standard_files()
    sys.stderr = guarded(sys.stderr, 2)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")


def progress() -> TextIO:
    """Return a stream to standard output for what people may watch, or not."""
    return guarded(sys.stdout, 1)


def _open_standard_files() -> None:
    """Open what the parent closed of 0, 1 and 2 on nothing: the next file or socket would get its number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)


def _after_fork() -> None:
    for output in OUTPUTS:
        output.after_fork()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(drain)
