"""What a run leaves in its logs: events with the ids of whose work it was, and nobody's secrets or data."""

from __future__ import annotations

import asyncio
import json
import uuid

from tests.support.api import final

BUY = "/api/order/buy-flash"


async def logged(stack, log, event, order_id):
    """Wait until an order's event is in a log, which is all JSON; returns the jobs that wrote it."""
    for _ in range(1200):
        events = [json.loads(line) for line in (stack.log_dir / f"{log}.log").read_text().splitlines()]
        if jobs := [one["job_id"] for one in events if (one["event"], one.get("order_id")) == (event, order_id)]:
            return jobs
        await asyncio.sleep(0.05)
    raise AssertionError(event)


async def test_logs_name_requests_and_orders_but_neither_secrets_nor_people(api, stack, product, admin):
    password, name = f"pass-{uuid.uuid4().hex}", f"Ada {uuid.uuid4().hex}"
    email = f"ada-{uuid.uuid4().hex}@example.com"
    account = {"name": name, "email": email, "password": password}
    token = (await api.post("/api/auth/register", json=account)).json()["token"]
    assert (await api.post("/api/auth/register", json=account)).status_code == 409
    login = {"email": email, "password": password}
    assert (await api.post("/api/auth/login", json={"email": email, "password": f"{password}x"})).status_code == 401
    assert (await api.post("/api/auth/login", json=login)).status_code == 200
    wrong = {"name": name, "email": email, "password": {"is": password}}
    assert (await api.post("/api/auth/register", json=wrong)).status_code == 400

    buyer = {"Authorization": f"Bearer {token}"}
    product_id = await product(name=f"Phone of {name}")
    key = uuid.uuid4().hex
    bought = await api.post(BUY, json={"productId": product_id}, headers={**buyer, "Idempotency-Key": key})
    order_id = bought.json()["orderId"]
    assert (await api.get(f"/api/order/{order_id}/status", headers={"Authorization": f"Bearer {token}x"})).is_error
    assert await final(api, order_id, buyer) == "confirmed"
    stream = (await api.post(f"/api/order/{order_id}/stream-token", headers=buyer)).json()["token"]
    assert (await api.get(f"/sse/orders/{order_id}?token={stream}")).status_code == 200

    (job_id,) = await logged(stack, "payments-1", "payment.finished", order_id)
    assert isinstance(job_id, int), "the line names job and order"

    text = {path.name: path.read_text(errors="replace") for path in stack.log_dir.glob("*.log")}
    assert {"api-1.log", "payments-1.log", "postgres.log"} <= set(text)
    secrets = [secret for what, secret in stack.secrets.items() if secret and what != "admin_email"]
    for private in (password, name, email, token, stream, key, admin["Authorization"].split()[1], *secrets):
        for log, lines in text.items():
            assert private not in lines, f"{log} shows {private}"
