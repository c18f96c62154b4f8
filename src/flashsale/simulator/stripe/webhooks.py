"""Webhooks: signed, repeated until they are taken, and wrong in the ways that the behaviour says.

https://docs.stripe.com/webhooks: a try has a time stamp and a signature of its own; what is not answered with 2xx is
tried again, ever later; events come in any order, and more than once.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import structlog

from flashsale.simulator.rules import sample_latency_s
from flashsale.simulator.stripe.errors import invalid
from flashsale.simulator.stripe.store import API_VERSION, Change, Object, new_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashsale.simulator.rules import Simulator
    from flashsale.simulator.stripe.calls import Call
    from flashsale.simulator.stripe.store import Delivery, Store

log = structlog.get_logger(__name__)

TRIES_MAX = 16
RETRY_S_MAX = 3600.0
TIMEOUT_S = 20.0
SENDING_MAX = 64
"""Webhooks on their way at once."""
HOLD_S = 5.0
"""How long a reordered webhook waits for a later one."""
ENDPOINTS_MAX = 16
"""https://docs.stripe.com/webhooks: 16 endpoints per account."""


def create_endpoint(call: Call) -> Object:
    """POST /v1/webhook_endpoints: https://docs.stripe.com/api/webhook_endpoints/create; the secret is said once."""
    call.form.know("description", "api_version")
    url, events = call.form.required("url"), call.form.texts("enabled_events")
    if not url.startswith(("http://", "https://")):
        raise invalid("url", "Invalid URL: An explicit scheme (such as https) must be provided.", "url_invalid")
    if not events:
        raise invalid("enabled_events", "Missing required param: enabled_events.", "parameter_missing")
    if len(list(call.store.newest("webhook_endpoint"))) >= ENDPOINTS_MAX:
        raise invalid("url", f"You have reached the maximum of {ENDPOINTS_MAX} test webhook endpoints.")
    secret = f"whsec_{secrets.token_hex(16)}"
    endpoint = call.change.put(
        {
            "id": new_id("we"),
            "object": "webhook_endpoint",
            "api_version": API_VERSION,
            "created": int(time.time()),
            "description": None,
            "enabled_events": events,
            "livemode": False,
            "metadata": call.form.metadata(),
            "status": "enabled",
            "url": url,
            "_secret": secret,
        }
    )
    return {**endpoint, "secret": secret}


def delete_endpoint(call: Call) -> Object:
    """DELETE /v1/webhook_endpoints/{id}."""
    endpoint = call.change.get("webhook_endpoint", call.ids["id"])
    call.change.gone.append(endpoint["id"])
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def sign(secret: str, payload: str, *, at: int) -> str:
    """Return the header `Stripe-Signature`: https://docs.stripe.com/webhooks#verify-manually."""
    mac = hmac.new(secret.encode(), f"{at}.{payload}".encode(), hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


class Webhooks:
    """Sends what waits; an async context manager. What was not taken when it ends is sent after the next start."""

    def __init__(self, simulator: Simulator, store: Store) -> None:
        self._simulator = simulator
        self._store = store
        self._random = random.Random(simulator.seed)  # noqa: S311 - reproducible on purpose
        self._places = asyncio.Semaphore(SENDING_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent = asyncio.Event()
        """Set, and replaced, with each webhook that was sent."""
        self._session: aiohttp.ClientSession | None = None
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> None:
        """Begin with what the ledger's file left."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self.send(list(self._store.waiting))

    async def __aexit__(self, *_: object) -> None:
        """Stop sending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def send(self, deliveries: Iterable[Delivery]) -> None:
        """Send webhooks that were committed."""
        for delivery in deliveries:
            task = asyncio.create_task(self._deliver(*delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, event_id: str, endpoint_id: str) -> None:
        behaviour = self._simulator.behaviour
        lost, twice, held, badly_signed = (
            self._random.random() < rate
            for rate in (
                behaviour.webhook_loss_rate,
                behaviour.webhook_duplicate_rate,
                behaviour.webhook_reorder_rate,
                behaviour.webhook_bad_signature_rate,
            )
        )
        await self._store.ledger.flushed()  # nobody hears of what a kill could still undo
        if lost:
            self.counts["lost"] += 1
        else:
            await asyncio.sleep(
                sample_latency_s(
                    self._simulator.seed,
                    event_id,
                    mean_s=behaviour.webhook_delay_mean_s,
                    sigma=behaviour.latency_sigma,
                )
            )
            if held:
                self.counts["reordered"] += 1
                await self._a_later_one()
            await self._until_taken(event_id, endpoint_id, badly_signed=badly_signed)
            if twice:
                self.counts["duplicated"] += 1
                await self._until_taken(event_id, endpoint_id, badly_signed=False)
        change = Change(self._store, sent=[(event_id, endpoint_id)])
        self._store.commit(change)

    async def _a_later_one(self) -> None:
        try:
            async with asyncio.timeout(HOLD_S):
                await self._sent.wait()
        except TimeoutError:
            return

    async def _until_taken(self, event_id: str, endpoint_id: str, *, badly_signed: bool) -> None:
        wait_s = self._simulator.behaviour.webhook_retry_s
        for number in range(TRIES_MAX):
            await asyncio.sleep(self._simulator.outage_s)
            event, endpoint = self._store.find(event_id), self._store.find(endpoint_id)
            if event is None or endpoint is None:  # deleted meanwhile
                return
            if await self._try(event, endpoint, badly_signed=badly_signed and number == 0):
                self.counts["taken"] += 1
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_S_MAX)
        self.counts["given_up"] += 1
        log.warning("gateway.webhook_given_up", event_id=event_id, tries=TRIES_MAX)

    async def _try(self, event: Object, endpoint: Object, *, badly_signed: bool) -> bool:
        payload, at = json.dumps(event), int(time.time())
        secret = endpoint["_secret"]
        if badly_signed:
            self.counts["badly_signed"] += 1
            secret = f"not {secret}"
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": sign(secret, payload, at=at),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        assert self._session is not None  # noqa: S101 - it is entered
        try:
            async with (
                self._places,
                self._session.post(endpoint["url"], data=payload, headers=headers, allow_redirects=False) as response,
            ):
                taken = 200 <= response.status < 300  # noqa: PLR2004
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("gateway.webhook_failed", event_id=event["id"], error=type(error).__name__)
            taken = False
        self.counts["sent"] += 1
        self._sent.set()
        self._sent = asyncio.Event()
        return taken
