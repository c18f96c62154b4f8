"""Output that cannot be written is dropped and counted: it raises nowhere, blocks nobody and ends with the process."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import time

from flashsale.runtime.outputs import QUEUE_BYTES_MAX, Output
from tests.support.sinks import closed, full_disk, full_pipe, nothing, unread, unread_and_nonblocking

PROCESS = """
import sys, time
import structlog
from flashsale.runtime.logs import configure_logs
from types import SimpleNamespace
configure_logs(SimpleNamespace(format="json", level="info"))
began = time.monotonic()
for number in range(1500):
    structlog.get_logger().info("event", number=number, filling="x" * 1000)
assert time.monotonic() - began < 60, "a log line waited for its reader"
class Unshowable:
    def __repr__(self):
        raise RuntimeError("no")
structlog.get_logger().info("event", value=Unshowable())
sys.exit(EXIT)
"""
EXITS = {"0": "0", "a number": "7", "a message": "'the last words'", "an error": "int('x')"}
CODES = {"0": 0, "a number": 7, "a message": 1, "an error": 1}


def sleeping_terminal():
    """A terminal that somebody stopped with Ctrl-S."""
    import termios
    import tty

    reading, writing = os.openpty()
    tty.setraw(writing)
    termios.tcflow(writing, termios.TCOOFF)
    return reading, writing


SINKS = [unread, unread_and_nonblocking, closed, full_disk, sleeping_terminal, nothing]


def test_a_process_logs_and_ends_as_ever_whatever_its_sink_does():
    """Every sink with every way to end, all at once: those whose sink is stuck wait a second before they end."""
    running = []
    for sink in SINKS:
        for ending, code in EXITS.items():
            reading, writing = sink()
            command = [sys.executable, "-c", PROCESS.replace("EXIT", code)]
            if writing is None:
                command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
            process = subprocess.Popen(command, stderr=writing)
            if writing is not None:
                os.close(writing)
            running.append((sink.__name__, ending, process, reading))
    for name, ending, process, reading in running:
        assert process.wait(60) == CODES[ending], (name, ending)
        if reading is not None:
            os.close(reading)
    assert len(running) == len(SINKS) * len(EXITS)


def test_a_file_at_its_limit_of_size_ends_nothing(tmp_path):
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS.replace("EXIT", "7")],
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
            check=False,
        )
    assert done.returncode == 7


def read_all(descriptor):
    os.set_blocking(descriptor, False)
    data = b""
    while True:
        try:
            data += os.read(descriptor, 2**16)
        except BlockingIOError:
            return data


def test_lines_are_dropped_whole_counted_and_told_of_once_there_is_room():
    reading, writing = full_pipe()
    output = Output(writing)
    line = b"%d " + b"y" * 1000 + b"\n"
    sent = 2 * QUEUE_BYTES_MAX // len(line)
    for number in range(sent):
        output.write(b"%d " % number)
        output.write(b"y" * 1000 + b"\n")
    assert 0 < output.dropped < sent
    dropped = output.dropped
    deadline_s = time.monotonic() + 10
    received = b""
    while output._waiting_bytes:
        received += read_all(reading)
        assert time.monotonic() < deadline_s
    output.write(b"after\n")
    output.drain(5)
    lines = (received + read_all(reading)).lstrip(b"x").decode().splitlines()
    assert lines[-1] == "after"
    assert lines[-2].startswith(f"{dropped} lines were dropped")
    kept = [int(one.split()[0]) for one in lines[:-2]]
    assert kept == list(range(len(kept))), "those that found room, in their order"
    assert len(kept) + dropped == sent
    assert all(one.endswith("y" * 1000) for one in lines[:-2])


def test_after_a_failure_the_next_line_begins_at_its_beginning(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        output = Output(file.fileno())
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            output.write(b"a word, and more than fits\n")
            output.drain(5)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        output.write(b"whole\n")
        output.drain(5)
    assert path.read_text().splitlines() == [
        "a word, an",
        "1 lines were dropped: this output was full or could not be written",
        "whole",
    ]


def test_a_forked_child_writes_its_own_lines_only():
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    output = Output(writing)
    output.write(b"parent\n")
    output.drain(5)
    child = os.fork()
    if not child:
        output.write(b"child\n")
        output.drain(5)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert read_all(reading) == b"parent\nchild\n"
