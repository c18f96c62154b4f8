"""The shipped nginx with TLS, put together as the head of docker/nginx/tls.conf.example says, before a stack."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.parse
from contextlib import asynccontextmanager

import yaml

from flashsale.local.stack import ROOT
from tests.fuzz.target import NGINX
from tests.support.certificates import certificate

SHIPPED = ROOT / "docker/nginx"
PLAIN_SERVER = re.compile(r"    server \{\n        listen 8080 .*?\n    \}\n", re.DOTALL)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@asynccontextmanager
async def edge(folder, upstream_url):
    """Run nginx before the API at this URL; returns the URL of the edge."""
    port, upstream = _free_port(), urllib.parse.urlsplit(upstream_url).port
    # The workers write below it; where root runs the tests they are another user.
    folder.chmod(0o755)
    made = folder / "made"
    made.mkdir()
    certificate(folder, "localhost")
    limits = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["nginx"]["environment"]
    values = {name: text.partition(":-")[2].rstrip("}") for name, text in limits.items()}
    (heredoc,) = re.findall(r"cat > \$made/limits\.conf <<END\n(.*?)END\n", (SHIPPED / "run").read_text(), re.DOTALL)
    expanded = re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], heredoc).replace("\\$", "$")
    (made / "limits.conf").write_text(expanded)
    (made / "hosts.conf").write_text("map $host $foreign_host { default ''; }")
    (made / "main.conf").write_text("events { worker_connections 1024; } daemon off;")
    for name in ("api", "sse"):
        (made / name).write_text(f"server 127.0.0.1:{upstream};")
    files = {path.name: path.read_text() for path in SHIPPED.glob("*.conf")}
    servers = (SHIPPED / "tls.conf.example").read_text()
    files["nginx.conf"], replaced = PLAIN_SERVER.subn(lambda _: servers, files["nginx.conf"])
    assert replaced == 1, "nginx.conf has no server that tls.conf.example could replace"
    here = {
        "/run/flashsale": str(made),
        "/etc/nginx/certificate/fullchain.pem": str(folder / "localhost.crt"),
        "/etc/nginx/certificate/privkey.pem": str(folder / "localhost.key"),
        "/dev/stdout": str(folder / "access"),
        "/dev/stderr": str(folder / "error"),
        "listen 8080": f"listen 127.0.0.1:{_free_port()}",
        "listen 8443": f"listen 127.0.0.1:{port}",
        "127.0.0.1:8081": f"127.0.0.1:{_free_port()}",
        "worker_processes auto": "worker_processes 1",
    }
    for name, text in files.items():
        for shipped, there in here.items():
            text = text.replace(shipped, there)  # noqa: PLW2901 - one replacement after the other
        (folder / name).write_text(text)
    process = await asyncio.create_subprocess_exec(
        str(NGINX), "-p", folder, "-c", folder / "nginx.conf", stderr=asyncio.subprocess.PIPE
    )
    try:
        await _listening(port, process)
        yield f"https://localhost:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _listening(port, process):
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None, (await process.stderr.read()).decode()
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
