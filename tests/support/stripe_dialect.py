"""The simulator asked in Stripe's dialect: forms, keys, and a buyer who pays in the page."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp

from tests.support.gateway import SECRET, Service, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PUBLISHABLE_KEY = "pk_test_simulator"
MANUAL = {"amount": 99_999, "currency": "usd", "capture_method": "manual", "payment_method_types[0]": "card"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer of the dialect."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str | None:
        return self.body["error"].get("code")


@dataclass(slots=True, kw_only=True)
class Dialect:
    """A running simulator and a session without a key of its own."""

    service: Service
    http: aiohttp.ClientSession

    async def ask(
        self, method: str, path: str, form: Mapping[str, Any] | None = None, *, key: str | None = None, **headers: str
    ) -> Reply:
        """Send a call as the shop does."""
        sent = {"Authorization": f"Bearer {SECRET}", **headers}
        if key is not None:
            sent["Idempotency-Key"] = key
        return await self._send(method, path, form or {}, sent)

    async def intent(self, *, key: str | None = None, **changes: Any) -> Any:
        """Open an intent; the answer must be 200."""
        reply = await self.ask("POST", "/v1/payment_intents", {**MANUAL, **changes}, key=key)
        assert reply.status == 200, reply.body
        return reply.body

    async def pay(self, intent: Mapping[str, Any], method: str = "pm_card_visa", **form: Any) -> Reply:
        """Confirm an intent as the payment element does in the buyer's page: client secret and publishable key."""
        said = {"client_secret": intent["client_secret"], "payment_method": method, **form}
        path = f"/v1/payment_intents/{intent['id']}/confirm"
        return await self._send("POST", path, said, {"Authorization": f"Bearer {PUBLISHABLE_KEY}"})

    async def ledger(self) -> dict[str, Any]:
        """Read the ledger's lines, by key."""
        url = f"{self.service.url}/v1/ledger"
        async with self.service.http.get(url) as response:
            lines = [json.loads(line) for line in (await response.text()).splitlines()]
        return {line["key"]: line for line in lines}

    async def _send(self, method: str, path: str, form: Mapping[str, Any], headers: dict[str, str]) -> Reply:
        encoded = urlencode(form)
        url = self.service.url + path
        if method != "POST":
            url, encoded = f"{url}?{encoded}", ""
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        async with self.http.request(method, url, data=encoded or None, headers=headers) as response:
            return Reply(status=response.status, body=await response.json(), headers=response.headers.copy())


@asynccontextmanager
async def dialect(**settings: Any) -> AsyncIterator[Dialect]:
    """Run the simulator in this process; settings as for `running`, limits off unless they are given."""
    values = {"rate_limit_per_s": 0, "account_limit_per_s": 0, **settings}
    async with running(**values) as service, aiohttp.ClientSession() as http:
        yield Dialect(service=service, http=http)
