"""Several processes of one kind: what a container with several cores runs."""

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
"""A parent that pauses before it restarts a child receives no signal during the pause."""

WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def run_processes(count: int, run: Callable[[], None], sock: socket.socket | None = None) -> None:
    """Run something in this process or, if `count` is more than 1, in so many forked ones, which share `sock`.

    These are sent SIGTERM and SIGINT, and this ends once all have; one that ends before is started again. To be called
    before there are threads or an event loop.
    """
    allow_files()
    if count == 1:
        run()
        return
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        # This process serves no client: its gauges would count as those of a serving process.
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
    """Raise the soft limit of open files to the hard one; each connection is a file.

    Many systems start programs with a soft limit of 1,024, which is for programs that call `select`.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # macOS refuses an unlimited number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settle_collector() -> None:
    """Let the garbage collector never look again at what was made until now, and seldom at what is made from now on.

    To be called once a process is up. A collection that walks over all that a process is made of takes 100 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 20)


def _fork(run: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        # Python warns of forks in a process with threads; the only thread writes logs, and starts again in the child.
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
        # As Python ends a process: a text is the last words.
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
        sys.excepthook(*sys.exc_info())
    drain()
    os._exit(1)
