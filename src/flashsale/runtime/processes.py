"""Runs several processes of one kind, so that a container can use several cores."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING

import structlog
from prometheus_client.multiprocess import mark_process_dead

from flashsale.runtime.outputs import drain
from flashsale.runtime.restarts import Restarts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

log = structlog.get_logger(__name__)

COLLECT_EVERY = 20_000
"""GC generation-0 threshold. Python's default of 700 equals about 20 requests in flight, so every collection would scan
live objects."""

PAUSE_MAX_S = 2.0
"""Longest pause before a child is started again: the parent handles no signal during a pause."""

WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def run_processes(count: int, run: Callable[[], None], sock: socket.socket | None = None) -> None:
    """Call `run` in this process or, if `count` is more than 1, in `count` forks, which share `sock`.

    The children receive this process' SIGTERM and SIGINT; the call returns once all have ended. A child that ends
    earlier is started again. Call this before there are threads or an event loop.
    """
    allow_files()
    if count == 1:
        run()
        return
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        # This process serves no client, and its gauges would count as gauges of a serving process.
        with contextlib.suppress(OSError):
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    children = {_fork(run): Restarts(longest_s=PAUSE_MAX_S) for _ in range(count)}
    stopping = False
    while children:
        number = signal.sigwait(WATCHED)
        if number != signal.SIGCHLD:
            stopping = True
            if sock is not None:
                # Otherwise clients could connect to a socket that no process serves.
                sock.close()
            for child in children:
                os.kill(child, number)
        while children and (ended := os.waitpid(-1, os.WNOHANG)[0]):
            if ended not in children:
                continue  # a child of a child that died
            restarts = children.pop(ended)
            if not stopping:
                log.error("process.ended", pid=ended)
                time.sleep(restarts.pause_s())
                children[_fork(run)] = restarts


def allow_files() -> None:
    """Raise the soft limit of open files to the hard limit, because each connection is a file.

    Many systems set a soft limit of 1,024 for the sake of programs that call `select`.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # macOS refuses an unlimited number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settle_collector() -> None:
    """Exclude all present objects from garbage collection, and collect new objects seldom.

    Call this once a process is up. A collection that scans all objects of a started process takes 100 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 20)


def _fork(run: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        # Python warns of a fork with threads. The only thread here writes logs, and the child starts its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        run()
        drain()
        os._exit(0)
    except SystemExit as error:
        # As at the end of any Python process, a text is printed to standard error.
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
        sys.excepthook(*sys.exc_info())
    drain()
    os._exit(1)
