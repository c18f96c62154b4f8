"""The shipped nginx keeps floods out, and no buyers who share an address."""

import asyncio
import json
import re
import socket
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import yaml

from tests.conftest import ROOT
from tests.fuzz.target import NGINX, serving

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")

SHIPPED = ROOT / "docker/nginx"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def match(pattern: str, text: str, flags: int = 0) -> str:
    """Return what the pattern's group finds."""
    found = re.search(pattern, text, flags)
    assert found is not None, pattern
    return found[1]


@asynccontextmanager
async def edge(folder, files=None, **limits):
    """Run the shipped configuration, with the limits of Compose or these, before an app that takes everything; returns its port."""
    environment = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["nginx"]["environment"]
    values = {name: match(r":-(.*)\}", text) for name, text in environment.items()} | limits
    port = free_port()
    async with serving() as (_, app):
        made = folder / "made"
        made.mkdir()
        heredoc = match(r"cat > \$made/limits\.conf <<END\n(.*?)END\n", (SHIPPED / "run").read_text(), re.DOTALL)
        expanded = re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], heredoc).replace("\\$", "$")
        (made / "limits.conf").write_text(expanded)
        (made / "hosts.conf").write_text("map $host $foreign_host { default ''; }")
        (made / "main.conf").write_text("events { worker_connections 4096; } daemon off;")
        for upstream in ("api", "sse"):
            (made / upstream).write_text(f"server 127.0.0.1:{app};")
        for path in SHIPPED.glob("*.conf"):
            text = (
                (files or {})
                .get(path.name, path.read_text())
                .replace("/run/flashsale", str(made))
                .replace("/run/nginx.pid", str(folder / "pid"))
            )
            text = text.replace("listen 8080", f"listen 127.0.0.1:{port}").replace(
                "127.0.0.1:8081", f"127.0.0.1:{free_port()}"
            )
            (folder / path.name).write_text(text.replace("/dev/stdout", str(folder / "access")))
        process = await asyncio.create_subprocess_exec(
            str(NGINX), "-c", folder / "nginx.conf", stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(30):
                while True:
                    try:
                        (await asyncio.open_connection("127.0.0.1", port))[1].close()
                        break
                    except OSError:
                        assert process.returncode is None, "nginx ended"
                        await asyncio.sleep(0.02)
            yield port
        finally:
            process.terminate()
            await process.wait()


async def send(port, *calls):
    """Send calls over one connection, without waiting between them; returns the statuses and the last answer's head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        requests = [f"{call} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n" for call, fields in calls]
        writer.write("".join(requests).encode())
        statuses = []
        async with asyncio.timeout(60):
            for _ in calls:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                body = await reader.readexactly(int(match(r"content-length: (\d+)", head)))
                statuses.append(int(head.split(" ")[1]))
        return statuses, head, body
    finally:
        writer.close()
        await writer.wait_closed()


LOGIN, BUY = "POST /api/auth/login", "POST /api/order/buy-flash"


def account(number):
    return f"Authorization: Bearer {number}\r\n"


async def crowd(port, buyers):
    """Buyers at one address, all at once: each logs in, buys and looks at the order. Gives the statuses."""
    looks = [f"GET /api/order/{number}/status" for number in range(buyers)]
    told = await asyncio.gather(
        *(send(port, (LOGIN, ""), (BUY, account(look)), (look, account(look))) for look in looks)
    )
    return Counter(status for statuses, _, _ in told for status in statuses)


async def test_200_buyers_behind_one_address_at_once_are_refused_nothing(tmp_path):
    async with edge(tmp_path) as port:
        began_s = time.monotonic()
        assert await crowd(port, 200) == {200: 600}
        print(f"200 buyers, 600 requests in {time.monotonic() - began_s:.2f} s")  # noqa: T201


async def test_a_limit_by_address_that_was_meant_to_be_fair_would_refuse_them(tmp_path):
    """The control: the same crowd where an address may do what a buyer may."""
    shipped = (SHIPPED / "locations.conf").read_text()
    fair = {"locations.conf": shipped.replace("burst=400", "burst=50")}
    async with edge(tmp_path, fair, ADDRESS_LOGINS_PER_S="5") as port:
        assert (await crowd(port, 200))[429] > 50


@pytest.mark.parametrize(("call", "fields", "count"), [(BUY, account(1), 300), (LOGIN, "", 900)])
async def test_a_flood_of_one_account_and_one_of_logins_are_refused(tmp_path, call, fields, count):
    async with edge(tmp_path) as port:
        answers = await asyncio.gather(*(send(port, *[(call, fields)] * (count // 10)) for _ in range(10)))
    assert sum(statuses.count(429) for statuses, _, _ in answers) > 50
    refused = next(answer for answer in answers if answer[0][-1] == 429)
    assert "retry-after: 1" in refused[1]
    assert json.loads(refused[2])["code"] == "rate_limited"
