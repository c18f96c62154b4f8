"""The stack in containers, as a Compose project of its own on a free loopback port, and what can be asked of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from flashsale.local.stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = str(ROOT / "docker/deploy")
COMPOSE = ("docker", "compose", "-f", str(ROOT / "docker/compose.yaml"))


class Failed(Exception):
    """Something is not as it must be."""


class Exercise:
    """What the steps share."""

    def __init__(self, folder: Path) -> None:
        """Keep secrets, histories and logs in `folder`."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.loads: list[subprocess.Popen[bytes]] = []
        """Load generators that were started."""
        self.began_s = time.monotonic()
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": "flashsale-exercise",
            "COMPOSE_ENV_FILES": str(folder / "env"),
            "LISTEN": f"127.0.0.1:{self.port}",
            # All buyers come from one address.
            "ACCOUNT_REQUESTS_PER_S": "100000",
            "ADDRESS_REQUESTS_PER_S": "100000",
            "ADDRESS_CONNECTIONS": "10000",
            "FLASHSALE_LOG__LEVEL": "warning",
        }
        here = self.run("docker", "images", "--format", "{{.Tag}}", "nginx").split()
        if here and "1.30" not in here:
            self.environment["NGINX_VERSION"] = here[0]

    def say(self, step: str) -> None:
        """Print a step."""
        click.echo(f"[{time.monotonic() - self.began_s:5.1f} s] {step}")

    def run(self, *command: str, text: str | None = None, check: bool = True) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            command, env=self.environment, input=text, capture_output=True, text=True, check=False, cwd=ROOT
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + ("" if check else done.stderr)

    def compose(self, *arguments: str, **options: Any) -> str:
        """Run docker compose."""
        return self.run(*COMPOSE, *arguments, **options)

    def deploy(self, *arguments: str, **environment: str) -> None:
        """Run docker/deploy, and show what it says."""
        began_s = time.monotonic()
        self.environment |= environment
        click.echo(self.run(DEPLOY, "--env-file", str(self.folder / "env"), *arguments).rstrip())
        self.say(f"docker/deploy {' '.join(arguments)}: {time.monotonic() - began_s:.0f} s")

    def containers(self, service: str) -> list[str]:
        """Return the ids of the running containers of a service."""
        return self.compose("ps", "-q", service).split()

    def sql(self, query: str) -> str:
        """Ask Postgres for one value; empty while it is away."""
        found = self.compose("exec", "-T", "postgres", "psql", "-qtA", "-U", "flashsale", "-c", query, check=False)
        return found.strip() if re.fullmatch(r"[\w-]*\n?", found) else ""

    def request(self, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], str]:
        """Send one request to nginx, on a connection of its own; gives status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            data = json.dumps(body) if body is not None else None
            headers |= {"Content-Type": "application/json"} if data else {}
            connection.request("POST" if data else "GET", path, data, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def product(self, name: str, units: int) -> int:
        """Return the id of the product of that name; it is made if there is none."""
        products = {one["name"]: one["id"] for one in json.loads(self.request("/api/products")[2])}
        if name not in products:
            secrets = dict(re.findall(r"(?m)^(\w+)=(.*)$", (self.folder / "env").read_text()))
            login = {"email": secrets["ADMIN_EMAIL"], "password": secrets["ADMIN_PASSWORD"]}
            token = json.loads(self.request("/api/auth/login", login)[2])["token"]
            product = {"name": name, "price": "999.99", "stock": units}
            made = self.request("/api/admin/products", product, Authorization=f"Bearer {token}")
            products[name] = json.loads(made[2])["id"]
        return int(products[name])

    def buyers(self, prefix: str, count: int) -> Path:
        """Make buyers; returns the file that holds them."""
        command = ("exec", "-T", "api", "flashsale", "buyers", "--count", str(count), "--prefix", prefix)
        path = self.folder / f"{prefix}-buyers.jsonl"
        path.write_text(self.compose(*command))
        return path

    def audit_command(self) -> str:
        """Return the command that holds a history, named last, against the database of this stack."""
        audit = shlex.join([*COMPOSE, "exec", "-T", "payments", "flashsale", "audit", "--history", "/dev/stdin"])
        return shlex.join(["sh", "-c", f'{audit} < "$2"', "audit"])

    def load(self, test: str, name: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a load test; `name` names its folder, with `history.jsonl`, `summary.json` and `locust.log`."""
        folder = self.folder / name
        folder.mkdir()
        options |= {"history": folder / "history.jsonl", "summary": folder / "summary.json"}
        flat = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", f"loadtest/{test}.py"]
        with (folder / "locust.log").open("w") as log:
            load = subprocess.Popen(
                [*command, "--host", f"http://127.0.0.1:{self.port}", *flat],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self.environment,
            )
        self.loads.append(load)
        return load
