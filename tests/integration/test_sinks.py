"""A process whose logs go nowhere starts, answers and stops as ever: each kind of process with each kind of sink."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess

import httpx

from tests.conftest import ROOT
from tests.support.commands import COMMANDS, environment
from tests.support.sinks import closed, full_disk, unread, unread_and_nonblocking

EVERYTHING = "FLASHSALE_TEST_SINKS" in os.environ
"""Every kind with every sink, 24 processes; else every kind with the worst sink, and the API with the others."""

KINDS = ["serve", "serve in two processes", "orders", "payments", "maintenance", "simulator"]
SINKS = [closed, full_disk, unread, unread_and_nonblocking]
AWAY = "postgresql://somebody@127.0.0.1:9/flashsale"
LOGIN = {"email": "ada@example.com", "password": "long enough"}


def launch(kind, sink, urls):
    """Start a process; returns it, the pipe that says when it is ready, its port and the other end of its sink."""
    command = [part for part in COMMANDS[kind] if part not in {"--port", "0"}]
    listener = socket.create_server(("127.0.0.1", 0))
    ready, telling = os.pipe()
    other_end, writing = sink()
    process = subprocess.Popen(
        [*command, "--fd", str(listener.fileno()), "--ready-fd", str(telling)],
        env=environment(urls[0], urls[1], kind, FLASHSALE_LOG__LEVEL="debug", FLASHSALE_HTTP__UNREADY_S="0"),
        pass_fds=[listener.fileno(), telling],
        stderr=writing,
        cwd=ROOT,
        start_new_session=True,
    )
    port = listener.getsockname()[1]
    listener.close()
    os.close(telling)
    os.close(writing)
    return process, ready, port, other_end


def test_no_sink_changes_what_a_process_answers_or_keeps_it_from_stopping(postgres_url, valkey, redis):
    tried = {}
    try:
        for sink in SINKS:
            for kind in KINDS if sink is unread or EVERYTHING else KINDS[:1]:
                # The API without Postgres: every login is a 503 and a line in the log.
                postgres = AWAY if kind.startswith("serve") else postgres_url
                tried[kind, sink.__name__] = launch(kind, sink, (postgres, valkey.url))
        for name, (process, ready, port, _) in tried.items():
            assert select.select([ready], [], [], 90)[0], (name, "is not ready")
            assert os.read(ready, 6) == b"ready\n", (name, process.poll())
            if name[0].startswith("serve"):
                answers = {
                    httpx.post(f"http://127.0.0.1:{port}/api/auth/login", json=LOGIN).status_code for _ in range(9)
                }
                assert answers == {503}, name
                assert httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 503
        for process, *_ in tried.values():
            process.send_signal(signal.SIGTERM)
        for name, (process, *_) in tried.items():
            assert process.wait(30) == 0, name
    finally:
        for process, ready, _, other_end in tried.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(ready)
            if other_end is not None:
                os.close(other_end)
    assert len(tried) == (len(KINDS) * len(SINKS) if EVERYTHING else len(KINDS) + len(SINKS) - 1)
