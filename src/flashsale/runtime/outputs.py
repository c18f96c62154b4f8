"""Standard output and error that never raise and never block: lines that cannot be written are dropped and counted.

Logs and progress are for people who watch. A closed pipe, a full disk or a slow reader must not change an answer, block
an event loop, delay the end of a process or decide its exit code. So a thread writes, from a bounded queue.
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
"""Maximum size of the queue for a slow reader; further lines are dropped."""

DRAIN_S = 1.0
"""Maximum wait of an ending process until its last lines are written."""


def said_dropped(lines: int) -> str:
    """Make the line of text that reports how many lines were dropped."""
    return f"{lines} lines were dropped: this output was full or could not be written"


class Output(io.RawIOBase):
    """A file descriptor and the thread that writes to it; the thread starts with the first line, once per process."""

    def __init__(self, descriptor: int, say_dropped: Callable[[int], str] = said_dropped) -> None:
        """Write to `descriptor`; `say_dropped` makes the line that reports how many lines are missing before it."""
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
        """Begin again in a forked child with an empty queue; the parent writes the lines that wait."""
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
        """Queue data to write, or drop it. Lines are dropped whole."""
        chunk = bytes(data)  # type: ignore[call-overload]
        size = len(chunk)
        with self._changed:
            if self._cut:
                rest = chunk.find(b"\n") + 1
                chunk, self._cut = (chunk[rest:], False) if rest else (b"", True)
            # The rest of a line whose beginning is in the queue is accepted beyond the bound.
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
        """Wait at most `timeout_s` until everything is written or dropped."""
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
        # Signals must reach the main thread, which may wait for them with sigwait.
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
                # Another process made the pipe non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                self._torn |= len(rest) < len(data)
                return False
        self._torn = False
        return True


OUTPUTS: list[Output] = []
"""All outputs of this process."""


def dropped_lines() -> int:
    """Count the lines that this process could not write."""
    return sum(output.dropped for output in OUTPUTS)


def drain() -> None:
    """Before a process ends, wait up to DRAIN_S until its last lines are written."""
    deadline_s = time.monotonic() + DRAIN_S
    for output in OUTPUTS:
        output.drain(max(0.0, deadline_s - time.monotonic()))


def guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a text stream on the same descriptor that neither raises nor blocks."""
    if stream is None:
        # The parent closed the descriptor, and its number may belong to another file by now.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    elif isinstance(stream.buffer, Output):
        return stream
    # Surrogates, which UTF-8 cannot encode, are escaped.
    raw = Output(descriptor)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[type-var]


def guard_errors() -> None:
    """Guard standard error for the whole process: logs, warnings, tracebacks and messages at exit.

    If the parent closed standard output, a write to it fails like a write to any other broken output.
    """
    _open_standard_files()
    sys.stderr = guarded(sys.stderr, 2)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")


def progress() -> TextIO:
    """Return a guarded stream to standard output for progress, which nobody needs to read."""
    return guarded(sys.stdout, 1)


def _open_standard_files() -> None:
    """Open /dev/null for each of 0, 1 and 2 that the parent closed; the next file or socket would get the number."""
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
