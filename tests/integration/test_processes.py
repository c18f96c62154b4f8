import os
import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest

from tests.conftest import ROOT
from tests.support.api import PLAIN
from tests.support.processes import wait_for


@pytest.fixture
def served(postgres_url, valkey, redis, tmp_path):
    """`flashsale serve` with two processes: its address, itself, its folder of metrics."""
    with socket.create_server(("127.0.0.1", 0)) as sock, (tmp_path / "serve.log").open("w") as log:
        # The soft limit of open files that many systems give a program.
        few_files = ["sh", "-c", 'ulimit -S -n 1024 && exec "$@"', "sh"]
        command = [*few_files, sys.executable, "-m", "flashsale.cli", "serve", "--fd", str(sock.fileno())]
        environment = {
            **os.environ,
            "FLASHSALE_POSTGRES__URL": postgres_url,
            "FLASHSALE_REDIS__URL": valkey.url,
            "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
            "FLASHSALE_HTTP__PROCESSES": "2",
            "FLASHSALE_HTTP__UNREADY_S": "3",
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        }
        parent = subprocess.Popen(command, env=environment, pass_fds=[sock.fileno()], stderr=log, cwd=ROOT)
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        yield address, parent, tmp_path
    finally:
        parent.terminate()
        parent.wait(30)


def answering(address):
    """Return the processes that answer connections: a request's id begins with its process' own."""
    ids = [httpx.get(f"{address}/health/live", timeout=60, verify=PLAIN).headers["x-request-id"] for _ in range(20)]
    return {one.partition("-")[0] for one in ids}


def children(parent):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True, check=False
    )
    return {int(line) for line in listed.stdout.split()}


def test_several_processes_share_a_socket_start_again_and_stop_together(served):
    address, parent, folder = served
    seen: set[int] = set()

    def see():
        seen.update(answering(address))
        return seen

    wait_for(lambda: len(see()) == 2, timeout_s=60)
    assert not list(folder.glob(f"gauge_live*_{parent.pid}.db"))
    for pid in (parent.pid, *children(parent)):
        files, files_max = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
        assert files == files_max > 1024
    killed = min(children(parent))
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(see()) == 3, timeout_s=60)
    assert len(children(parent)) == 2
    assert killed not in children(parent)
    with httpx.Client(base_url=address, timeout=60, headers={"Connection": "close"}) as client:
        assert client.get("/health/ready").status_code == 200
        parent.send_signal(signal.SIGTERM)
        # A load balancer is told first: the process is not ready and still accepts connections.
        wait_for(lambda: client.get("/health/ready").status_code == 503, timeout_s=2)
        assert client.get("/api/products").status_code == 200
    assert parent.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health/live", verify=PLAIN)
