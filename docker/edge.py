"""nginx in front of the stack, for `docker/deploy`: its faults and ports before it starts, and the API behind it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Failed(Exception):
    """The stack is not as it must be; the text says why."""


def faults_of_nginx(said: str) -> list[str]:
    """Return what nginx has against its configuration, a line for each."""
    lines = re.findall(r"(?m)^(CELLS: .*)$|\[emerg\] (?:\d+#\d+: )?(.*)$", said)
    return list(dict.fromkeys(f"nginx: {ours or its}" for ours, its in lines)) or [said.strip()]


def busy_ports(wanted: list[dict[str, Any]], held: list[dict[str, Any]]) -> list[str]:
    """Say of each port that nginx is to publish if another program listens there; `held` are published by it now."""
    ours = {int(place["HostPort"]) for ports in held for places in ports.values() for place in places or ()}
    told = []
    for port in wanted:
        host, number = port.get("host_ip", ""), int(port.get("published") or 0)
        if number in {0, *ours}:
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, number))
            except PermissionError:
                pass  # a low port: the engine may
            except OSError as error:
                name = {8080: "LISTEN", 8443: "LISTEN_TLS"}.get(port["target"], "a port of nginx")
                told.append(f"{name} (docker/.env): {host or '*'} port {number}: {error.strerror}")
    return told


def address(ports: dict[str, Any], *, tls: bool) -> str:
    """Return the URL of the edge on this machine, by the ports that the engine publishes."""
    published = (ports.get("8443/tcp" if tls else "8080/tcp") or [None])[0]
    if published is None:
        raise Failed("no port of nginx is published")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(published["HostIp"], published["HostIp"])  # noqa: S104 - compared
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{published['HostPort']}"


class Edge:
    """The API as buyers reach it."""

    def __init__(self, base_url: str, certificate: Path | None) -> None:
        """Believe only this certificate, whatever name it has: the server is asked by its address."""
        self._base_url = base_url
        self._context = None
        if certificate is not None:
            self._context = ssl.create_default_context(cafile=str(certificate))
            self._context.check_hostname = False
            self._context.verify_flags |= 0x80000  # ssl.VERIFY_X509_PARTIAL_CHAIN, from Python 3.10 on

    def call(self, path: str, body: object = None, token: str = "") -> Any:
        """Ask, as JSON."""
        headers = {"Content-Type": "application/json", "Host": "localhost"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._base_url + path, data, headers)  # noqa: S310 - ours
        try:
            with urllib.request.urlopen(request, timeout=15, context=self._context) as response:  # noqa: S310 - ours
                return json.load(response)
        except urllib.error.HTTPError as error:
            problem = error.read().decode(errors="replace")
            raise Failed(f"{error.url} answered {error.code}: {problem}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError among them
            raise Failed(f"the edge does not answer at {self._base_url}: {error}") from error
