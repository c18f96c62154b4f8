"""A payment gateway that behaves like one: slow, sometimes declining, sometimes failing, true to its idempotency keys.

The service over HTTP: JSON, a bearer secret, problem documents. What it does is in `rules.py`, what it remembers
in `ledger.py`; `stripe/` is the same gateway in Stripe's dialect, over the same ledger.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import iso4217
import structlog
from aiohttp import web

from flashsale.simulator.faults import BEHAVIOUR_NAMES, Behaviour, Fault, RefusedError, checked
from flashsale.simulator.journal import LedgerFailedError
from flashsale.simulator.ledger import ChargeStatus, Entry, derived_id
from flashsale.simulator.rules import Simulator
from flashsale.simulator.stripe.desk import Desk, hang_up
from flashsale.simulator.stripe.operations import OPERATIONS, PAGE
from flashsale.simulator.stripe.store import Store
from flashsale.simulator.stripe.webhooks import Webhooks

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from flashsale.settings.simulator import SimulatorSettings

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 16_384
AMOUNT_MINOR_MAX = 10**15
REFERENCE_CHARS_MAX = 255
LEDGER_LINES = 500
"""Lines of one piece of the streamed ledger."""
CURRENCIES = frozenset(one.code for one in iso4217.Currency if one.exponent is not None)
"""The currencies that it charges in: ISO 4217, without metals and test codes."""
DRAIN_S = 5.0
"""How long calls in flight are waited for when it stops."""
BACKLOG = 4096

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,254}")
_LIVE = "/health/live"
_CHARGES = "/v1/charges"


class Api:
    """The routes."""

    def __init__(self, simulator: Simulator, secret: str, desk: Desk, webhooks: Webhooks) -> None:
        """Ask every caller for the bearer `secret`; the desk takes the calls of Stripe's dialect."""
        if not secret:
            raise ValueError("the simulator needs a secret")
        self._simulator = simulator
        self._desk = desk
        self._webhooks = webhooks
        self._authorization = f"Bearer {secret}".encode()
        self._stopping = asyncio.Event()

    def app(self) -> web.Application:
        """Make the web application."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES_MAX)
        app.on_shutdown.append(self._stop)
        app.add_routes(
            [
                web.get(_LIVE, self._live),
                web.post(_CHARGES, self._charge),
                web.get("/v1/charges/{key}", self._show),
                web.post("/v1/charges/{key}/cancel", self._cancel),
                web.post("/v1/charges/{key}/refunds", self._refund),
                web.get("/v1/ledger", self._stream_ledger),
                web.get("/v1/ledger/summary", self._summary),
                web.get("/v1/faults", self._show_faults),
                web.put("/v1/faults", self._set_faults),
                *self._desk.routes(OPERATIONS),
                *self._desk.pages(PAGE),
            ]
        )
        return app

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()
        await self._desk.stop()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").encode(errors="replace")
        if (
            request.path != _LIVE
            and not self._desk.takes(request)
            and not hmac.compare_digest(sent, self._authorization)
        ):
            problem = _problem(401, "unauthenticated", "Send the gateway's secret: Authorization: Bearer <secret>.")
            problem.headers["WWW-Authenticate"] = "Bearer"
            return problem
        if self._simulator.outage_s and request.path.startswith(_CHARGES):
            return hang_up(request)
        try:
            return await handler(request)
        except RefusedError as refused:
            return _problem(refused.status, refused.code, refused.detail)
        except LedgerFailedError:
            return _problem(500, "ledger_failed", "The ledger cannot be written.")
        except web.HTTPException as error:
            return _http_problem(error)

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def _charge(self, request: web.Request) -> web.StreamResponse:
        key = _idempotency_key(request)
        body = await _body(request, allowed=("amountMinor", "currency", "reference"))
        amount_minor = _amount(body)
        currency, reference = body.get("currency"), body.get("reference")
        if not isinstance(currency, str) or currency not in CURRENCIES:
            raise RefusedError(400, "invalid_currency", "currency must be an ISO 4217 code such as USD.")
        if reference is not None and not (isinstance(reference, str) and len(reference) <= REFERENCE_CHARS_MAX):
            raise RefusedError(400, "invalid_reference", f"reference has at most {REFERENCE_CHARS_MAX} characters.")
        fault = self._simulator.draw_fault()
        if fault is Fault.ERROR:
            raise RefusedError(503, "overloaded", "Nothing was done.")
        if fault is Fault.REJECT:
            raise RefusedError(429, "too_many_requests", "Nothing was done.")
        if fault is Fault.CUT:
            return hang_up(request)
        entry = self._simulator.see(key, amount_minor=amount_minor, currency=currency, reference=reference)
        if fault is Fault.HANG:
            # Until the client leaves, which cancels this handler, or the service stops.
            await self._stopping.wait()
            return hang_up(request)
        await self._simulator.settle(entry, slowly=fault is Fault.SLOW)
        if entry.status is ChargeStatus.PENDING:  # the service stops
            return hang_up(request)
        if fault is Fault.CHARGED_ERROR:
            raise RefusedError(500, "internal", "Something went wrong.")
        if fault is Fault.DROP:
            return hang_up(request)
        return web.json_response(_shown(entry), status=409 if entry.status is ChargeStatus.CANCELLED else 200)

    async def _show(self, request: web.Request) -> web.Response:
        entry = self._simulator.ledger.get(request.match_info["key"])
        if entry is None:
            raise RefusedError(404, "no_such_charge", "This key was never seen.")
        shown = _shown(entry)
        await self._simulator.ledger.flushed()
        return web.json_response(shown)

    async def _cancel(self, request: web.Request) -> web.Response:
        return web.json_response(_shown(await self._simulator.cancel(_path_key(request))))

    async def _refund(self, request: web.Request) -> web.Response:
        key, refund_key = _path_key(request), _idempotency_key(request)
        amount_minor = _amount(await _body(request, allowed=("amountMinor",)))
        await self._simulator.refund(key, refund_key, amount_minor)
        answer = {
            "id": derived_id("re", f"{key} {refund_key}"),
            "key": refund_key,
            "charge": key,
            "status": "refunded",
        }
        return web.json_response({**answer, "amountMinor": amount_minor})

    async def _stream_ledger(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        lines: list[bytes] = []
        for entry in self._simulator.ledger:
            lines.append(entry.as_line(entry.charge_id))
            if len(lines) == LEDGER_LINES:
                await self._write(response, lines)
        await self._write(response, lines)
        await response.write_eof()
        return response

    async def _write(self, response: web.StreamResponse, lines: list[bytes]) -> None:
        await self._simulator.ledger.flushed()
        if lines:
            await response.write(b"".join(lines))
        lines.clear()

    async def _summary(self, _: web.Request) -> web.Response:
        limits = self._desk.limits
        summary = {
            **self._simulator.summary(),
            "calls": limits.taken,
            "rateLimited": limits.refused,
            "webhooks": self._webhooks.counts,
        }
        await self._simulator.ledger.flushed()
        return web.json_response(summary)

    async def _show_faults(self, _: web.Request) -> web.Response:
        behaviour = self._simulator.behaviour
        shown = {name: getattr(behaviour, field) for name, field in BEHAVIOUR_NAMES.items()}
        return web.json_response({**shown, "outageS": round(self._simulator.outage_s, 3)})

    async def _set_faults(self, request: web.Request) -> web.Response:
        """Change what is named; the rest stays. A charge in flight ends as it began."""
        body = await _body(request, allowed=tuple(BEHAVIOUR_NAMES))
        changes: dict[str, Any] = {BEHAVIOUR_NAMES[name]: value for name, value in body.items()}
        self._simulator.change(**changes)
        log.info("gateway.faults_changed", **changes)
        return await self._show_faults(request)


async def run_simulator(
    settings: SimulatorSettings,
    secret: str,
    *,
    sock: socket.socket,
    ready: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Serve on a bound socket until `stop` is set, then finish the calls in flight for at most `DRAIN_S`.

    Raises:
        LedgerDamagedError, LedgerLockedError: if the ledger file cannot be used.
        LedgerFailedError: if it cannot be written any more; better gone than forgetful.
    """
    behaviour = checked(Behaviour(**{field: getattr(settings, field) for field in BEHAVIOUR_NAMES.values()}))
    store = Store(Path(settings.ledger_path) if settings.ledger_path else None, key_lifetime_s=settings.key_lifetime_s)
    ledger = store.ledger
    simulator = Simulator(ledger, behaviour, seed=settings.seed)
    desk = Desk(simulator, store, secret=secret, publishable_key=settings.publishable_key)
    webhooks = Webhooks(simulator, store)
    desk.committed = webhooks.send
    runner = web.AppRunner(
        Api(simulator, secret, desk, webhooks).app(),
        access_log=None,
        handle_signals=False,
        # A client that leaves ends its handler, never its charge, which has its own timer.
        handler_cancellation=True,
        shutdown_timeout=DRAIN_S,
    )
    await runner.setup()
    waits = [asyncio.create_task(event.wait()) for event in (stop, ledger.failed) if event is not None]
    try:
        await web.SockSite(runner, sock, backlog=BACKLOG).start()
        where = settings.ledger_path or "memory"
        log.info("gateway.started", seed=settings.seed, ledger=where, keys=len(ledger))
        async with webhooks:
            ready()
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await runner.cleanup()
    finally:
        for wait in waits:
            wait.cancel()
        await runner.cleanup()
        simulator.stop()
        await ledger.close()
    await ledger.flushed()


def _shown(entry: Entry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": entry.charge_id,
        "key": entry.key,
        "status": entry.status.value,
        "amountMinor": entry.amount_minor,
        "currency": entry.currency,
    }
    if entry.reference is not None:
        shown["reference"] = entry.reference
    if entry.decline_code is not None:
        shown["declineCode"] = entry.decline_code
    return shown


def _problem(status: int, code: str, detail: str) -> web.Response:
    """Render an RFC 9457 problem document."""
    document = {"type": "about:blank", "status": status, "code": code, "detail": detail}
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return web.json_response(document, status=status, headers=headers, content_type="application/problem+json")


def _http_problem(error: web.HTTPException) -> web.Response:
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _problem(413, "body_too_large", f"A body has at most {BODY_BYTES_MAX} bytes.")
    code = "method_not_allowed" if error.status == HTTPStatus.METHOD_NOT_ALLOWED else "no_such_path"
    problem = _problem(error.status, code, error.reason)
    problem.headers.update({"Allow": error.headers["Allow"]} if "Allow" in error.headers else {})
    return problem


def _idempotency_key(request: web.Request) -> str:
    sent = request.headers.getall("Idempotency-Key", [])
    if len(sent) != 1:
        raise RefusedError(400, "invalid_key", "Send the header Idempotency-Key once.")
    return _checked_key(sent[0])


def _path_key(request: web.Request) -> str:
    return _checked_key(request.match_info["key"])


def _checked_key(key: str) -> str:
    if _KEY.fullmatch(key) is None:
        raise RefusedError(400, "invalid_key", "A key has 1 to 255 letters, digits, '_', '.', ':' or '-'.")
    return key


def _amount(body: dict[str, Any]) -> int:
    amount = body.get("amountMinor")
    if type(amount) is not int or not 0 < amount <= AMOUNT_MINOR_MAX:
        detail = f"amountMinor must be an integer of 1 to {AMOUNT_MINOR_MAX}."
        raise RefusedError(400, "invalid_amount", detail)
    return amount


async def _body(request: web.Request, *, allowed: tuple[str, ...]) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "invalid_json", "The body is not JSON.") from error
    if not isinstance(body, dict):
        raise RefusedError(400, "invalid_json", "The body is not a JSON object.")
    unknown = sorted(body.keys() - set(allowed))
    if unknown:
        raise RefusedError(400, "unknown_field", f"Only these fields are known: {', '.join(allowed)}.")
    return body
