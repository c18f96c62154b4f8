"""The shipped nginx keeps floods out, and no buyers who share an address."""

import asyncio
import json
import re
import time
from collections import Counter
from contextlib import asynccontextmanager
from urllib.request import urlopen

import pytest

from flashsale.local.access import free_port
from tests.fuzz.target import serving
from tests.support.shipped_nginx import BINARIES, SHIPPED, shipped_nginx
from tests.support.upstream_server import upstream_server

pytestmark = pytest.mark.skipif(not BINARIES, reason="needs nginx")

CURRENT = BINARIES.get("current") or next(iter(BINARIES.values()), None)
LOGIN, BUY = "POST /api/auth/login", "POST /api/order/buy-flash"


def match(pattern: str, text: str) -> str:
    """Return what the pattern's group finds."""
    found = re.search(pattern, text)
    assert found is not None, pattern
    return found[1]


@asynccontextmanager
async def before_an_app(folder, **options):
    """Run the shipped nginx before an app that takes everything."""
    async with serving() as (_, app):
        with shipped_nginx(folder, CURRENT, upstream=app, **options) as (edge, _):
            yield edge


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


def account(number):
    return f"Authorization: Bearer {number}\r\n"


async def crowd(port, buyers, calls=(LOGIN, BUY)):
    """Buyers at one address, all at once: each does these calls and looks at the order. Gives the statuses."""
    looks = [f"GET /api/order/{number}/status" for number in range(buyers)]
    told = await asyncio.gather(
        *(send(port, *((call, account(look)) for call in calls), (look, account(look))) for look in looks)
    )
    return Counter(status for statuses, _, _ in told for status in statuses)


async def test_200_buyers_behind_one_address_at_once_are_refused_nothing(tmp_path):
    async with before_an_app(tmp_path) as edge:
        assert await crowd(edge.port, 200) == {200: 600}


async def test_2000_buyers_behind_one_address_in_a_second_are_refused_nothing(tmp_path):
    async with before_an_app(tmp_path) as edge:
        began_s = time.monotonic()
        told = await crowd(edge.port, 2000, [BUY])
        # An application that a busy machine holds up is 503, no limit.
        assert told.keys() <= {200, 503}
        assert told[200] > 2000
        print(f"2,000 buyers, 4,000 requests in {time.monotonic() - began_s:.2f} s")  # noqa: T201


async def test_a_limit_by_address_that_was_meant_to_be_fair_would_refuse_them(tmp_path):
    """The control: the same crowd where an address may do what a buyer may."""
    shipped = (SHIPPED / "locations.conf").read_text()
    fair = {"locations.conf": shipped.replace("burst=400", "burst=50")}
    async with before_an_app(tmp_path, files=fair, ADDRESS_LOGINS_PER_S="5") as edge:
        assert (await crowd(edge.port, 200))[429] > 50


FLOODS = {
    "one account, 300 requests": ([(BUY, account(1))] * 30, 300 - 40 - 60),
    "logins, 900 requests": ([(LOGIN, "")] * 90, 900 - 400 - 200),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_is_refused_logged_once_and_counted(tmp_path, name):
    calls, refused_min = FLOODS[name]
    async with before_an_app(tmp_path) as edge:
        answers = await asyncio.gather(*(send(edge.port, *calls) for _ in range(10)))
        refused = sum(statuses.count(429) for statuses, _, _ in answers)
        assert refused >= refused_min
        _, head, body = next(answer for answer in answers if answer[0][-1] == 429)
        assert "retry-after: 1" in head
        assert json.loads(body)["code"] == "rate_limited"
        if CURRENT is BINARIES.get("current"):
            assert await counted(edge, "requests") == refused
        async with asyncio.timeout(60):
            while edge.log.read_text().count('"status":429') < refused:
                await asyncio.sleep(0.1)
        assert edge.log.read_text().count('"status":429') == refused
        assert "limiting" not in edge.errors.read_text()


async def counted(edge, limit):
    """Return how many refusals by a limit nginx says that it counted."""
    text = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{edge.inner}/metrics").read().decode())
    assert "# TYPE flashsale_edge_refusals_total counter" in text
    lines = re.findall(rf'(?m)^flashsale_edge_refusals_total\{{limit="{limit}",place="\w+"\}} (\d+)$', text)
    return sum(map(int, lines))


async def held(port, count):
    """Open streams."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in connections:
        writer.write(b"GET /sse/stock/1 HTTP/1.1\r\nHost: a\r\n\r\n")
    return connections


@pytest.mark.parametrize("own", [True, False], ids=["as shipped", "control: streams count as requests"])
async def test_streams_that_fill_their_limit_lock_nobody_out_of_the_api(tmp_path, own):
    """More people than the limit have a stream behind one address; the next one still looks at products."""
    shipped = (SHIPPED / "locations.conf").read_text()
    files = {} if own else {"locations.conf": shipped.replace("include /run/flashsale/streams.conf;", "")}
    port = free_port()
    with (
        upstream_server("127.0.0.1", port),
        shipped_nginx(tmp_path, CURRENT, upstream=port, files=files, ADDRESS_CONNECTIONS="200") as (edge, _),
    ):
        streams = await held(edge.port, 200)
        for reader, _ in streams:
            assert b" 200 " in await reader.readline()
        refused, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"GET /sse/stock/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 429 " in await refused.readline()
        (status,), _, _ = await send(edge.port, ("GET /api/products", ""))
        assert status == (200 if own else 429)
        for _, one in [*streams, (None, writer)]:
            one.close()
