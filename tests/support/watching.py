"""Streams of this process' own hub, and what their clients are told."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

from flashsale.http.streams.channel import Stream
from flashsale.http.streams.hub import LiveHub

SOON_S = 30.0


class Watcher:
    """A client that wants details: events as (name, data), in the order in which it got them."""

    def __init__(self, hub, channel):
        self.told, self.ended = [], False
        self._channel = channel  # the hub's own reference to the channel of an order is weak
        hub.join(channel, Stream(channel, 0, self._send, details=0))

    async def _send(self, message):
        self.ended = self.ended or not message["more_body"]
        fields = dict(line.split(": ", 1) for line in message["body"].decode().splitlines() if line)
        if "data" in fields:
            self.told.append((fields.get("event", "message"), json.loads(fields["data"])))

    def last(self, name):
        """Return the data of the newest event of this name; None before the first."""
        return next((data for of, data in reversed(self.told) if of == name), None)

    async def until(self, check):
        """Wait until `check` holds."""
        async with asyncio.timeout(SOON_S):
            while not check(self):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(services):
    """Run the hub of an API process, once notifications arrive."""
    hub = LiveHub(services)
    running = asyncio.create_task(hub.run())
    try:
        async with asyncio.timeout(SOON_S):
            while not services.feed.connected:
                await asyncio.sleep(0.005)
        yield hub
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def watch_product(services, hub, product_id):
    watcher = Watcher(hub, await hub.stock(product_id))
    await watcher.until(lambda one: one.last("product"))
    return watcher


async def watch_order(services, hub, order_id):
    channel = hub.order(order_id)
    hub.put_order(channel, (await services.order_rows.get_many([order_id]))[order_id])
    watcher = Watcher(hub, channel)
    await watcher.until(lambda one: one.last("message"))
    return watcher
