"""A buyer buys, watches the order, pays at the provider, and hears that the order is confirmed: over HTTP alone."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.by_buyer.sale import PUBLISHABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

LONGEST_S = 60


@dataclass(frozen=True, kw_only=True)
class Journey:
    """One order, in the trace of its caller."""

    order_id: str
    trace_id: str
    caller_id: str
    states: tuple[str, ...]
    """What the stream said."""


@dataclass(kw_only=True)
class Buyer:
    """A buyer with a client."""

    base_url: str
    provider_url: str
    headers: Mapping[str, str]
    http: aiohttp.ClientSession
    states: list[str] = field(default_factory=list)

    async def buy(self, product_id: int) -> Journey:
        """Buy one unit of a `by_buyer` product and pay it."""
        trace_id, caller_id = secrets.token_hex(16), secrets.token_hex(8)
        headers = {**self.headers, "traceparent": f"00-{trace_id}-{caller_id}-01"}
        async with asyncio.timeout(LONGEST_S):
            answer = await self._post(f"{self.base_url}/api/order/buy-flash", {"productId": product_id}, headers)
            order_id = answer["orderId"]
            async for status in self._watch(order_id):
                self.states.append(status)
                if status == "awaiting_payment":
                    await self._pay(order_id)
                if status == "confirmed":
                    break
        return Journey(order_id=order_id, trace_id=trace_id, caller_id=caller_id, states=tuple(self.states))

    async def _watch(self, order_id: str) -> AsyncIterator[str]:
        async with self.http.get(f"{self.base_url}/sse/orders/{order_id}", headers=self.headers) as stream:
            assert stream.status == 200
            async for line in stream.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))["status"]

    async def _pay(self, order_id: str) -> None:
        asked = await self._post(f"{self.base_url}/api/order/{order_id}/pay", None, self.headers)
        secret = asked["clientSecret"]
        intent = secret.partition("_secret")[0]
        async with self.http.post(
            f"{self.provider_url}/v1/payment_intents/{intent}/confirm",
            data={"client_secret": secret, "payment_method": "pm_card_visa"},
            headers={"Authorization": f"Bearer {PUBLISHABLE}"},
        ) as answer:
            assert answer.status == 200, await answer.text()

    async def _post(self, url: str, body: dict[str, Any] | None, headers: Mapping[str, str]) -> Any:
        async with self.http.post(url, json=body, headers=headers) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()
