"""A payment gateway that behaves like one: slow, sometimes declining, sometimes failing, true to its keys."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from flashsale.local.simulator_ledger import Entry, Ledger

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from flashsale.settings import SimulatorSettings

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 16_384
KEY_MAX = 255
AMOUNT_MAX = 10**15
HANG_MAX_S = 600.0
"""A call that is never answered is given up after this, should the client never do."""

FAULTS = {
    "latencyMeanS": "latency_mean_s",
    "latencySigma": "latency_sigma",
    "declineRate": "decline_rate",
    "errorRate": "error_rate",
    "chargedErrorRate": "charged_error_rate",
    "dropRate": "drop_rate",
    "hangRate": "hang_rate",
}
"""What can be changed while it runs: names over the wire and in the settings."""


def sample_latency_s(settings: SimulatorSettings, key: str) -> float:
    """Draw a key's log-normal latency: mean `latency_mean_s`, shape `latency_sigma` (mu = ln mean - sigma^2 / 2)."""
    if not settings.latency_mean_s:
        return 0.0
    mu = math.log(settings.latency_mean_s) - settings.latency_sigma**2 / 2
    return _draws(settings.seed, "latency", key).lognormvariate(mu, settings.latency_sigma)


def is_declined(settings: SimulatorSettings, key: str) -> bool:
    """Draw whether a key is declined; the same key always is, or never."""
    return _draws(settings.seed, "decline", key).random() < settings.decline_rate


def _draws(seed: int, what: str, key: str) -> random.Random:
    digest = hashlib.blake2b(f"{seed}:{what}:{key}".encode(), digest_size=8).digest()
    return random.Random(digest)  # noqa: S311 - reproducible on purpose


class Simulator:
    """The service's handlers."""

    def __init__(self, settings: SimulatorSettings, secret: str) -> None:
        """Open the ledger."""
        self._settings = settings
        self._secret = secret.encode()
        self._ledger = Ledger(Path(settings.ledger_path) if settings.ledger_path else None)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._faults = random.Random(settings.seed)  # noqa: S311

    def app(self) -> web.Application:
        """Make the web application."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.get("/health/live", self._live),
                web.post("/v1/charges", self._charge),
                web.get("/v1/charges/{key}", self._look),
                web.post("/v1/charges/{key}/cancel", self._cancel),
                web.post("/v1/charges/{key}/refunds", self._refund),
                web.get("/v1/ledger", self._dump),
                web.get("/v1/faults", self._show_faults),
                web.put("/v1/faults", self._set_faults),
            ]
        )
        return app

    def close(self) -> None:
        """Stop what runs and close the ledger; charges without an outcome are not made."""
        for task in self._running.values():
            task.cancel()
        self._ledger.close()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if request.path != "/health/live" and not hmac.compare_digest(sent, self._secret):
            return problem(401, "unauthenticated", "Send the gateway's secret: Authorization: Bearer <secret>.")
        try:
            return await handler(request)
        except BadCall as error:
            return problem(error.status, error.code, str(error))
        except web.HTTPException as error:
            return problem(error.status, "refused", error.reason)

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _charge(self, request: web.Request) -> web.StreamResponse:
        key = _key(request.headers.get("Idempotency-Key"))
        body = await _body(request)
        amount, currency = body.get("amountMinor"), body.get("currency")
        if type(amount) is not int or not 0 < amount <= AMOUNT_MAX:
            raise BadCall(400, "invalid_amount", f"amountMinor must be an integer of 1 to {AMOUNT_MAX}.")
        if not isinstance(currency, str) or len(currency) != 3 or not currency.isupper():  # noqa: PLR2004 - ISO 4217
            raise BadCall(400, "invalid_currency", "currency must be an ISO 4217 code.")
        settings, fate = self._settings, self._faults.random()
        if fate < settings.hang_rate:
            await asyncio.sleep(HANG_MAX_S)
        if settings.hang_rate <= fate < settings.hang_rate + settings.error_rate:
            return problem(503, "overloaded", "Try again.")
        entry = self._ledger.get(key)
        if entry is None:
            entry = Entry(key=key, charge_id=_charge_id(key), amount_minor=amount, currency=currency)
            self._ledger.add(entry)
        elif entry.status != "cancelled" and (entry.amount_minor, entry.currency) != (amount, currency):
            raise BadCall(422, "key_reused", "This key belongs to another charge.")
        if entry.status == "pending":
            await self._outcome(entry)
        if self._faults.random() < settings.charged_error_rate:
            return problem(500, "internal", "Something went wrong after the charge.")
        if self._faults.random() < settings.drop_rate and request.transport is not None:
            request.transport.close()
        return web.json_response(entry.public(), status=409 if entry.status == "cancelled" else 200)

    async def _outcome(self, entry: Entry) -> None:
        """Wait for the key's one charge, beginning it if nobody has; a caller who leaves does not stop it."""
        running = self._running.get(entry.key)
        if running is None:
            running = asyncio.create_task(self._settle(entry))
            self._running[entry.key] = running
            running.add_done_callback(lambda _: self._running.pop(entry.key, None))
        await asyncio.shield(running)

    async def _settle(self, entry: Entry) -> None:
        await asyncio.sleep(sample_latency_s(self._settings, entry.key))
        # One instant: nothing is awaited between looking and writing.
        if entry.status == "pending":
            if is_declined(self._settings, entry.key):
                entry.status, entry.decline_code = "declined", "card_declined"
            else:
                entry.status, entry.captures = "captured", entry.captures + 1
        await self._ledger.save(entry)

    async def _look(self, request: web.Request) -> web.Response:
        entry = self._ledger.get(request.match_info["key"])
        if entry is None:
            raise BadCall(404, "no_such_charge", "This key was never seen.")
        return web.json_response(entry.public())

    async def _cancel(self, request: web.Request) -> web.Response:
        key = _key(request.match_info["key"])
        entry = self._ledger.get(key)
        if entry is None:
            entry = Entry(key=key, charge_id=_charge_id(key), amount_minor=0, currency="")
            self._ledger.add(entry)
        if entry.status == "pending":
            entry.status = "cancelled"
        await self._ledger.save(entry)
        return web.json_response(entry.public())

    async def _refund(self, request: web.Request) -> web.Response:
        key = _key(request.headers.get("Idempotency-Key"))
        amount = (await _body(request)).get("amountMinor")
        entry = self._ledger.get(request.match_info["key"])
        if entry is None or entry.status != "captured":
            raise BadCall(409, "not_captured", "Nothing was captured under this key.")
        if type(amount) is not int or amount <= 0:
            raise BadCall(400, "invalid_amount", "amountMinor must be a positive integer.")
        if key not in entry.refunds:
            if entry.refunded_minor + amount > entry.amount_minor:
                raise BadCall(422, "too_much", "More than was captured.")
            entry.refunds[key] = amount
            await self._ledger.save(entry)
        elif entry.refunds[key] != amount:
            raise BadCall(422, "key_reused", "This key belongs to another refund.")
        return web.json_response(entry.public())

    async def _dump(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        for entry in self._ledger:
            await response.write(json.dumps(entry.public()).encode() + b"\n")
        await response.write_eof()
        return response

    async def _show_faults(self, _: web.Request) -> web.Response:
        return web.json_response({name: getattr(self._settings, own) for name, own in FAULTS.items()})

    async def _set_faults(self, request: web.Request) -> web.Response:
        changes = {}
        for name, value in (await _body(request)).items():
            if name not in FAULTS or isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise BadCall(400, "invalid_fault", f"{name} must be one of {', '.join(FAULTS)}, and not negative.")
            if name.endswith("Rate") and value > 1:
                raise BadCall(400, "invalid_fault", f"{name} must be 0 to 1.")
            changes[FAULTS[name]] = value
        self._settings = self._settings.model_copy(update=changes)
        log.info("gateway.faults_set", **changes)
        return await self._show_faults(request)


class BadCall(Exception):
    """A call that the gateway refuses."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        """Say why."""
        super().__init__(detail)
        self.status = status
        self.code = code


def problem(status: int, code: str, detail: str) -> web.Response:
    """Render an RFC 9457 problem document."""
    document = {"type": "about:blank", "status": status, "code": code, "detail": detail}
    return web.json_response(document, status=status, content_type="application/problem+json")


def _key(key: str | None) -> str:
    if not key or len(key) > KEY_MAX or not key.isascii() or not key.isprintable():
        raise BadCall(400, "invalid_key", f"Idempotency-Key must be 1 to {KEY_MAX} printable ASCII characters.")
    return key


def _charge_id(key: str) -> str:
    return "ch_" + hashlib.blake2b(key.encode(), digest_size=12).hexdigest()


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise BadCall(400, "invalid_json", "The body is not JSON.") from error
    if not isinstance(body, dict):
        raise BadCall(400, "invalid_json", "The body is not a JSON object.")
    return body


async def run_simulator(
    settings: SimulatorSettings, secret: str, *, sock: socket.socket, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    """Serve on a listening socket until `stop` is set."""
    simulator = Simulator(settings, secret)
    runner = web.AppRunner(simulator.app(), access_log=None, handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.SockSite(runner, sock, backlog=4096).start()
        log.info("gateway.started", seed=settings.seed, ledger=settings.ledger_path or "memory")
        ready()
        await stop.wait()
    finally:
        await runner.cleanup()
        simulator.close()
