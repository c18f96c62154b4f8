"""Server-sent events: memory of a stream, and how long until the last one has a change."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from flashsale.local.children import pss_bytes
from flashsale.local.sale import create_product
from tests.bench.bench import Bench, buys, only
from tests.bench.figures import Figure, at_most
from tests.bench.press import Watchers, press

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KIB = 2**10


async def streams(bench: Bench, count: int = 10_000) -> None:
    """Streams of a stock on one process: memory, and how long until the last one shows a change."""
    bench.say(f"opening {count:,} streams, twice")
    async with bench.stack("streams", api=1, orders=1, payments=1) as stack, bench.hello(1) as (hello_url, hello_pids):
        product_id = await create_product(stack, {"name": "Phone", "price": "1", "stock": 1_000})
        requests = buys(stack, product_id, bench.tokens(stack, 100))

        async def change() -> bytes:
            only(await press(stack.base_url, itertools.islice(requests, 1), connections=1, seconds=5), b"202")
            return b""

        serving = stack.children["api"][0].pid
        path = f"/sse/stock/{product_id}"
        kib, took_s = await _watch(
            bench, stack.base_url, path, serving, count, lambda n: b'"stock":%d' % (999 - n), change
        )

        async def hello_change() -> bytes:
            body = b'data: {"stock":%d}\n\n' % (999 - next(hello_numbers))
            request = b"POST /change HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            await press(hello_url, iter([request]), connections=1, seconds=5)
            return b""

        hello_numbers = itertools.count()
        control_kib, control_s = await _watch(
            bench, hello_url, "/stream", hello_pids[0], count, lambda n: b'"stock":%d' % (999 - n), hello_change
        )
    bare = "bare ASGI stream"
    bench.figures.append(
        Figure(
            name=f"memory of a stream, {count:,} on one process",
            unit="KiB",
            runs=[kib],
            control=bare,
            control_runs=[control_kib],
            aims=(at_most(12),),
        )
    )
    bench.figures.append(
        Figure(
            name=f"a change reaches the last of {count:,} streams",
            unit="ms",
            runs=[one * 1000 for one in took_s],
            control=bare,
            control_runs=[one * 1000 for one in control_s],
            aims=(at_most(300),),
        )
    )


async def _watch(
    bench: Bench,
    url: str,
    path: str,
    pid: int,
    count: int,
    text: Callable[[int], bytes],
    change: Callable[[], Awaitable[bytes]],
) -> tuple[float, list[float]]:
    """Open streams and change; gives KiB a stream and the seconds from each change to its last watcher."""
    before = pss_bytes(pid)
    crowd = Watchers(url, path)
    await crowd.open(count)
    kib = (pss_bytes(pid) - before) / count / KIB
    took_s = []
    for number in range(bench.rounds):
        wanted = text(number)
        crowd.expect(wanted)
        began_s = time.perf_counter()
        await change()
        await crowd.all_seen(wanted)
        took_s.append(time.perf_counter() - began_s)
    assert not crowd.lost
    crowd.close()
    return kib, took_s
