"""The API of a running stack: its clients, tokens and audit."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import uuid

import httpx

from flashsale.local.stack import ROOT

FAST = {
    "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.05",
    "FLASHSALE_SIMULATOR__DECLINE_RATE": "0",
    "FLASHSALE_REDIS__TIMEOUT_S": "10",
    "FLASHSALE_PAYMENTS__RETRY_S": "0.2",
    "FLASHSALE_PAYMENTS__TIMEOUT_S": "2",
    "FLASHSALE_GATE__RATE_LIMIT": "0",
    "FLASHSALE_LOGINS__FREE_TRIES": "100000",
    "FLASHSALE_LOGINS__ORIGIN_FAILURES": "10000000",
    "FLASHSALE_LIMITS__ORDERS": "0",
    "FLASHSALE_LIMITS__STREAMS": "0",
    "FLASHSALE_LIMITS__ADMINISTRATION": "0",
    "FLASHSALE_HTTP__CORS_ORIGINS": '["https://shop.example", "https://other.example"]',
    "FLASHSALE_HTTP__CORS_CREDENTIALS": "true",
    "FLASHSALE_LIVE__RETRY_MS": "100",
    "FLASHSALE_LOG__LEVEL": "debug",
}
"""Payments take milliseconds, so that tests do not wait; what is limited elsewhere is limited in tests of its own."""


PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""`verify` of a client that speaks plain HTTP: by default each client reads all certificates of the machine, for 30 ms."""


def admin_headers(stack):
    body = {"email": stack.secrets["admin_email"], "password": stack.secrets["admin_password"]}
    token = httpx.post(f"{stack.base_url}/api/auth/login", json=body, timeout=30).json()["token"]
    return {"Authorization": f"Bearer {token}"}


def buyer_tokens(stack, count: int, *, prefix: str = "buyer") -> list[str]:
    """Make buyers in bulk, as for a load test; the same prefix, the same buyers."""
    done = subprocess.run(
        [sys.executable, "-m", "flashsale.cli", "buyers", "--count", str(count), "--prefix", prefix],
        env=stack.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line)["token"] for line in done.stdout.splitlines()]


def buyer_headers(stack, count: int) -> list[dict[str, str]]:
    """Make buyers of whom nobody knows."""
    return [{"Authorization": f"Bearer {token}"} for token in buyer_tokens(stack, count, prefix=uuid.uuid4().hex)]


async def waiting_order(api, product_id, owner):
    """Buy; returns the order's id once it waits for its buyer."""
    order_id = (await api.post("/api/order/buy-flash", json={"productId": product_id}, headers=owner)).json()["orderId"]
    async with api.stream("GET", f"/sse/orders/{order_id}", headers=owner) as stream:
        async for line in stream.aiter_lines():
            if "awaiting_payment" in line:
                return order_id
    raise AssertionError("the stream ended")


BUY = "/api/order/buy-flash"


async def final(api, order_id, headers):
    """Wait until an order is final; returns its status."""
    for _ in range(1200):
        answer = (await api.get(f"/api/order/{order_id}/status", headers=headers)).json()
        if answer["status"] in {"confirmed", "payment_failed", "expired", "cancelled", "failed"}:
            return answer["status"]
        await asyncio.sleep(0.05)
    raise AssertionError(answer)


def audit(stack, *arguments):
    """Run `flashsale audit` against the stack."""
    return subprocess.run(
        [sys.executable, "-m", "flashsale.cli", "audit", *arguments],
        env=stack.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
