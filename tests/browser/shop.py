"""A shop on a running stack: its products, buyers, orders and money, as the tests look at them from outside."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx

from flashsale.local.stack import ROOT

PASSWORD = "a long password of a buyer"


@dataclass(frozen=True, slots=True)
class Buyer:
    """An account."""

    email: str
    password: str
    headers: dict[str, str]


class Shop:
    """The API of a stack, the provider behind it, and its processes."""

    def __init__(self, stack):
        self.stack = stack
        self._client = httpx.AsyncClient(base_url=stack.base_url, timeout=30)
        self._admin: dict[str, str] | None = None

    async def close(self):
        await self._client.aclose()

    async def _login(self, email, password):
        answer = await self._client.post("/api/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    @property
    def operator(self):
        """E-mail and password of the administrator."""
        return self.stack.secrets["admin_email"], self.stack.secrets["admin_password"]

    async def manage(self, method, path, body=None):
        """Call the administration; returns the answer's document."""
        answer = await self._client.request(method, f"/api/admin{path}", json=body, headers=await self._headers())
        assert answer.is_success, answer.text
        return answer.json()

    async def _headers(self):
        if self._admin is None:
            self._admin = await self._login(*self.operator)
        return self._admin

    async def product(self, **changes):
        """Create a product; returns its id."""
        body = {"name": "Aurora Phone", "price": "999.99", "stock": 10, **changes}
        return (await self.manage("POST", "/products", body))["id"]

    async def stock(self, product_id):
        return (await self._client.get(f"/api/products/{product_id}")).json()["stock"]

    async def buyer(self):
        """Register a new account."""
        email = f"ada-{uuid.uuid4().hex[:12]}@example.com"
        body = {"name": "Ada", "email": email, "password": PASSWORD}
        answer = await self._client.post("/api/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        return Buyer(email, PASSWORD, {"Authorization": f"Bearer {answer.json()['token']}"})

    async def buy(self, product_id, buyer):
        """Buy over the API; returns the order's id."""
        body = {"productId": product_id, "requestId": uuid.uuid4().hex}
        answer = await self._client.post("/api/order/buy-flash", json=body, headers=buyer.headers)
        assert answer.status_code == 202, answer.text
        return answer.json()["orderId"]

    async def orders(self, buyer):
        """List what an account bought."""
        answer = await self._client.get("/api/orders", headers=buyer.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ends_as(self, buyer, status):
        """Wait until the only order of an account has this state."""
        async with asyncio.timeout(60):
            while [one["status"] for one in await self.orders(buyer)] != [status]:
                await asyncio.sleep(0.1)

    async def captured(self, order_id):
        """Count the charges of an order in the provider's ledger, and what was refunded of them."""
        headers = {"Authorization": f"Bearer {self.stack.secrets['gateway_secret']}"}
        ledger = await self._client.get(f"{self.stack.gateway_url}/v1/ledger", headers=headers)
        lines = [json.loads(line) for line in ledger.text.splitlines()]
        mine = [line for line in lines if line.get("orderId") == order_id or line["key"].startswith(order_id)]
        return sum(line["captures"] for line in mine), sum(line["refundedMinor"] for line in mine)

    async def provider(self, **behaviour):
        """Change how the provider behaves."""
        headers = {"Authorization": f"Bearer {self.stack.secrets['gateway_secret']}"}
        answer = await self._client.put(f"{self.stack.gateway_url}/v1/faults", json=behaviour, headers=headers)
        assert answer.status_code == 200, answer.text

    async def tag(self, product_id, base_url):
        """Return the tag that an administrator gets from this address."""
        answer = await self._at(base_url, "GET", f"/products/{product_id}")
        return answer.headers["etag"]

    async def pause(self, product_id, base_url, *, tag):
        """Pause a product through this address, if it still has this tag."""
        answer = await self._at(base_url, "POST", f"/products/{product_id}/pause", {"If-Match": tag})
        assert answer.status_code == 200, answer.text

    async def moved(self, product_id):
        """Let the free units of a product leave for another cell, which is not there."""
        connection = await asyncpg.connect(self.stack.environment["FLASHSALE_POSTGRES__OWNER_URL"])
        async with connection.transaction():
            await connection.execute("SELECT leave_cell_v1($1, $2, 1, true)", product_id, uuid.uuid4())
            await connection.execute("UPDATE products SET moved_to = 10000001 WHERE product_id = $1", product_id)
        await connection.close()

    async def _at(self, base_url, method, path, headers=None):
        sent = {**await self._headers(), **(headers or {})}
        async with httpx.AsyncClient(base_url=base_url, verify=False) as client:  # noqa: S501 - made by the test
            return await client.request(method, f"/api/admin{path}", headers=sent)

    async def requests_of_pages(self):
        """Count the requests of product pages that the API has answered."""
        text = (await self._client.get("/metrics")).text
        counted = re.findall(r'^flashsale_http_requests_total\{[^}]*route="/p/[^}]*\} (\S+)', text, re.MULTILINE)
        return sum(map(float, counted))

    async def kill_api(self):
        """End every API process at once."""
        for index in range(self.stack.counts["api"]):
            await self.stack.kill("api", index)

    async def start_api(self):
        for index in range(self.stack.counts["api"]):
            await self.stack.start_child("api", index)

    async def gate_loaded(self):
        """Wait until the processes have loaded a gate that came back."""
        async with asyncio.timeout(60):
            while (await self._client.get("/health/ready")).json()["gate"] != "loaded":
                await asyncio.sleep(0.1)

    async def audit(self):
        """Recompute every promise from the data."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flashsale.cli", "audit",
            env=self.stack.environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()


def later(seconds):
    """Return an instant as the API takes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
