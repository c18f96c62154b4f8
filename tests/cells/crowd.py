"""The buyers of one product, in a process of their own: `python -m tests.cells.crowd`.

The first line on standard input says whom and what, as JSON; a second line lets the buyers who were held come. Prints `accepted`
for each accepted order, and at the end what the buyers saw.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, fields

import aiohttp

PATIENCE_S = 90.0
"""How long a buyer of a cell that is down repeats the same request."""
AGAIN_S = 2.0
ANSWER_S = 20.0
LOOK_S = 0.05
BUY = "/api/order/buy-flash"
DEFINITE = {202, 400, 401, 409, 422}


@dataclass(slots=True, kw_only=True)
class Asked:
    """The first line."""

    url: str
    product: int
    over_s: float
    held: bool
    tokens: list[str]


@dataclass(slots=True)
class Seen:
    """The last line."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    late_s: float = 0.0


class Buyers:
    """What they do, and what they saw."""

    def __init__(self, asked: Asked) -> None:
        """Take the first line."""
        self.asked = asked
        self.seen = Seen()
        self.rest_may_come = asyncio.Event()

    async def buy(self) -> None:
        """Let each buyer buy one unit with one key, the arrivals spread over a time."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(self.asked.url, connector=connector, timeout=timeout) as client:
            looking = asyncio.create_task(self._look())
            began = time.monotonic()
            await asyncio.gather(*(self._buyer(client, began, *one) for one in enumerate(self.asked.tokens)))
            looking.cancel()

    async def _look(self) -> None:
        """Measure by how much this process itself is late."""
        while True:
            due = time.monotonic() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self.seen.late_s = max(self.seen.late_s, time.monotonic() - due)

    async def _buyer(self, client: aiohttp.ClientSession, began: float, number: int, token: str) -> None:
        share = self.asked.over_s * number / len(self.asked.tokens)
        await asyncio.sleep(began + share - time.monotonic())
        if self.asked.held and number >= len(self.asked.tokens) // 4:
            await self.rest_may_come.wait()
            await asyncio.sleep(share)
        headers = {
            "Authorization": f"Bearer {token}",
            "Idempotency-Key": uuid.uuid4().hex,
            "Flashsale-Product": str(self.asked.product),
        }
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            sent = time.perf_counter()
            try:
                async with client.post(BUY, json={"productId": self.asked.product}, headers=headers) as answer:
                    status, body = answer.status, await answer.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError) as error:
                self.seen.errors[type(error).__name__] += 1
            else:
                if status in DEFINITE:
                    self.seen.seconds.append(time.perf_counter() - sent)
                    if status == 202:
                        self.seen.accepted += 1
                        sys.stdout.write("accepted\n")
                        sys.stdout.flush()
                    else:
                        self.seen.refused[body["code"]] += 1
                    return
                self.seen.errors[str(status)] += 1
            await asyncio.sleep(AGAIN_S)
        self.seen.undecided += 1


async def main() -> None:
    """Read what is asked, and do it."""
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    buyers = Buyers(Asked(**json.loads(await reader.readline())))

    async def wait() -> None:
        await reader.readline()
        buyers.rest_may_come.set()

    waiting = asyncio.create_task(wait())
    await buyers.buy()
    waiting.cancel()
    sys.stdout.write(json.dumps({one.name: getattr(buyers.seen, one.name) for one in fields(Seen)}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
