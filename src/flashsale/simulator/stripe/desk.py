"""The calls of Stripe's dialect over HTTP: who asks, limits, faults, idempotency keys, and the answer.

A call is carried out at one instant, the end of its latency, even if no client waits for the answer any more; what it
changed and the answer that its key keeps are one line of the ledger's file.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from aiohttp import web

from flashsale.simulator.faults import Fault
from flashsale.simulator.journal import LedgerFailedError
from flashsale.simulator.rules import sample_latency_s
from flashsale.simulator.stripe import checkout
from flashsale.simulator.stripe.calls import Call, Operation
from flashsale.simulator.stripe.errors import StripeError, internal, invalid, locked, missing, rate_limited
from flashsale.simulator.stripe.form import Form
from flashsale.simulator.stripe.keys import Keys, Limits
from flashsale.simulator.stripe.lists import expanded
from flashsale.simulator.stripe.store import API_VERSION, Change, Kept, Object, new_id, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from flashsale.simulator.rules import Simulator
    from flashsale.simulator.stripe.store import Delivery, Store

LOCK_WAIT_S = 1.0
"""How long a call waits for another one on the same object before 429 `lock_timeout`."""
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?")


class Desk:
    """Takes the calls of the operations."""

    def __init__(self, simulator: Simulator, store: Store, *, secret: str, publishable_key: str) -> None:
        self._simulator = simulator
        self._store = store
        self._secret = secret
        self._publishable_key = publishable_key
        self._keys = Keys(store)
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._works: set[asyncio.Task[web.Response]] = set()
        self._stopping = asyncio.Event()
        self._paths: set[str] = set()
        self.limits = Limits()
        self.committed: Callable[[list[Delivery]], None] = lambda _: None
        """Told of the webhooks of each change."""

    def routes(self, operations: Sequence[Operation]) -> list[web.RouteDef]:
        """Return the routes, each with its handler."""
        self._paths.update(operation.path for operation in operations)
        return [web.route(one.method, one.path, self._handler(one)) for one in operations]

    def takes(self, request: web.Request) -> bool:
        """Say whether a request is a call of an operation."""
        resource = request.match_info.route.resource
        return resource is not None and resource.canonical in self._paths

    def pages(self, pay: Operation) -> list[web.RouteDef]:
        """Return the hosted page of a Checkout session, which needs no key, and what its button does."""

        async def show(request: web.Request) -> web.StreamResponse:
            if self._simulator.outage_s:
                return hang_up(request)
            try:
                text = checkout.page(Change(self._store), request.match_info["id"])
            except StripeError as error:
                return web.Response(status=error.status, text=str(error))
            await self._store.ledger.flushed()
            return web.Response(text=text, content_type="text/html")

        async def press(request: web.Request) -> web.StreamResponse:
            if self._simulator.outage_s:
                return hang_up(request)
            asked = _Asked(request=request, operation=pay, request_id=new_id("req"))
            try:
                answer = await self._carry(asked, Form(await request.text()), key=None, public=False)
            except StripeError as error:
                return web.Response(status=error.status, text=str(error))
            if answer.status != HTTPStatus.OK:
                return web.Response(status=answer.status, text=json.loads(answer.text or "")["error"]["message"])
            session = self._store.find(request.match_info["id"]) or {}
            to = str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])
            return web.Response(status=303, headers={"Location": to})

        self._paths.add(pay.path)
        return [web.get(pay.path, show), web.post(pay.path, press)]

    async def stop(self) -> None:
        """Let calls that hang go, and drop those that are still waiting for their latency: they change nothing."""
        self._stopping.set()
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)

    def _handler(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked = _Asked(request=request, operation=operation, request_id=new_id("req"))
            try:
                return await self._take(asked)
            except StripeError as error:
                return asked.refusal(error)
            except web.HTTPRequestEntityTooLarge:
                return asked.refusal(StripeError(413, "Request is too large."))

        return handle

    async def _take(self, asked: _Asked) -> web.StreamResponse:
        request, operation = asked.request, asked.operation
        if self._simulator.outage_s and not operation.helper:
            return hang_up(request)
        form = Form(await request.text() if operation.method == "POST" else request.query_string)
        public = self._authenticate(request, form, operation)
        if _VERSION.fullmatch(request.headers.get("Stripe-Version", API_VERSION)) is None:
            raise StripeError(400, f"Invalid Stripe API version: {request.headers['Stripe-Version']}")
        if not operation.helper and await self._fails(asked):
            return hang_up(request)
        key = request.headers.get("Idempotency-Key") if operation.method != "GET" and not public else None
        if key is not None:
            kept = self._keys.find(key, path=request.path, fingerprint=form.fingerprint)
            if kept is not None:
                return hang_up(request) if asked.fault is Fault.DROP else asked.replay(kept)
        answer = await self._carry(asked, form, key=key, public=public)
        return hang_up(request) if asked.fault is Fault.DROP else answer

    async def _carry(self, asked: _Asked, form: Form, *, key: str | None, public: bool) -> web.Response:
        request = asked.request
        call = Call(
            form=form,
            ids=request.match_info,
            store=self._store,
            change=Change(self._store, request={"id": asked.request_id, "idempotency_key": key}),
            simulator=self._simulator,
            key=key,
            public=public,
            base_url=f"{request.scheme}://{request.host}",
        )
        work = asyncio.create_task(self._work(asked, call))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        await asyncio.wait([work])  # if the client leaves, this ends and the work goes on
        return hang_up(request) if work.cancelled() else work.result()

    async def _fails(self, asked: _Asked) -> bool:
        """Let the limits and a fault have their way; returns whether the call ends here without an answer.

        Raises:
            StripeError: 429 or 503.
        """
        self.limits.take(f"{asked.operation.method} {asked.operation.path}", self._simulator.behaviour)
        if asked.operation.method != "GET":
            asked.fault = self._simulator.draw_fault()
        if asked.fault is Fault.REJECT:
            raise rate_limited("endpoint-rate")
        if asked.fault is Fault.ERROR:
            raise internal(executed=False)
        if asked.fault is Fault.HANG:
            # Until the client leaves, which cancels this handler, or the service stops.
            await self._stopping.wait()
        return asked.fault in (Fault.HANG, Fault.CUT)

    async def _work(self, asked: _Asked, call: Call) -> web.Response:
        """Carry the call out. Only the end of the service cancels it, before it changed anything."""
        try:
            if asked.operation.method == "GET":
                answer = self._read(asked, call)
            else:
                async with self._alone(call):
                    await asyncio.sleep(self._latency_s(asked, call))
                    answer = self._carry_out(asked, call)
            await self._store.ledger.flushed()
        except StripeError as error:
            answer = asked.refusal(error)
        except LedgerFailedError:
            answer = asked.refusal(internal(executed=False))
        finally:
            if call.key is not None:
                self._keys.release(call.key)
        return answer

    def _read(self, asked: _Asked, call: Call) -> web.Response:
        found = shown(asked.operation.run(call))
        paths = call.form.texts("expand")
        call.form.finish()
        return asked.answer(200, json.dumps(_hidden(found) if call.public else expanded(found, paths, call.change)))

    def _carry_out(self, asked: _Asked, call: Call) -> web.Response:
        """Change what the call changes, in one step of the event loop."""
        status, headers = 200, {}
        try:
            made = shown(asked.operation.run(call))
            paths = call.form.texts("expand")
            call.form.finish()
            body = _hidden(made) if call.public else expanded(made, paths, call.change)
        except StripeError as error:
            if not error.executed:
                raise
            status, body, headers = error.status, error.body, error.headers
        if asked.fault is Fault.CHARGED_ERROR:
            lost = internal(executed=True)
            status, body, headers = lost.status, lost.body, lost.headers
        text = json.dumps(body)
        kept = Kept(
            path=asked.request.path,
            fingerprint=call.form.fingerprint,
            status=status,
            body=text,
            request_id=asked.request_id,
            at=time.time(),
        )
        self.committed(self._store.commit(call.change, key=call.key, kept=kept))
        return asked.answer(status, text, headers)

    @asynccontextmanager
    async def _alone(self, call: Call) -> AsyncIterator[None]:
        """Keep other calls from the same object.

        Raises:
            StripeError: 429 if one is at work on it for longer than `LOCK_WAIT_S`.
        """
        lock = self._busy.setdefault(call.ids.get("id") or call.form.text("payment_intent") or call.key or "", _Lock())
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                await lock.acquire()
        except TimeoutError as error:
            raise locked() from error
        try:
            yield
        finally:
            lock.release()

    def _latency_s(self, asked: _Asked, call: Call) -> float:
        behaviour = self._simulator.behaviour
        slow_s = behaviour.slow_s if asked.fault is Fault.SLOW else 0.0
        if not (asked.operation.bank or "confirm" in call.form):
            return slow_s
        draw = f"{asked.request.path}:{call.key or asked.request_id}"
        return slow_s + sample_latency_s(
            self._simulator.seed, draw, mean_s=behaviour.latency_mean_s, sigma=behaviour.latency_sigma
        )

    def _authenticate(self, request: web.Request, form: Form, operation: Operation) -> bool:
        """Return whether a page asks; the shop sends the secret as bearer or as user name.

        Raises:
            StripeError: 401 for a wrong key, 403 for a call that no page may make, 400 for a wrong client secret.
        """
        sent = _sent_key(request.headers.get("Authorization", "")) or form.text("key") or ""
        if hmac.compare_digest(sent.encode(), self._secret.encode()):
            return False
        if not sent:
            raise StripeError(401, "You did not provide an API key. Send it: Authorization: Bearer YOUR_SECRET_KEY")
        if not hmac.compare_digest(sent.encode(), self._publishable_key.encode()):
            raise StripeError(401, f"Invalid API Key provided: {sent[:3]}{'*' * 8}")
        if not operation.public:
            message = "This API call cannot be made with a publishable API key. Please use a secret API key."
            raise StripeError(403, message, code="secret_key_required")
        intent = self._store.find(request.match_info["id"])
        if intent is None:
            raise missing("payment_intent", request.match_info["id"], "intent")
        if not hmac.compare_digest((form.text("client_secret") or "").encode(), intent["client_secret"].encode()):
            raise invalid(
                "client_secret",
                "The client_secret provided does not match the client_secret associated with the PaymentIntent.",
            )
        return True


class _Lock(asyncio.Lock):
    """A lock that its dictionary forgets with its last user."""


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A request, and how it is answered."""

    request: web.Request
    operation: Operation
    request_id: str
    fault: Fault | None = None

    def answer(self, status: int, body: str, headers: dict[str, str] | None = None) -> web.Response:
        sent = {
            "Request-Id": self.request_id,
            "Stripe-Version": self.request.headers.get("Stripe-Version", API_VERSION),
            "Access-Control-Allow-Origin": "*",
            **(headers or {}),
        }
        if "Idempotency-Key" in self.request.headers:
            sent["Idempotency-Key"] = self.request.headers["Idempotency-Key"]
        return web.Response(status=status, text=body, content_type="application/json", headers=sent)

    def refusal(self, error: StripeError) -> web.Response:
        return self.answer(error.status, json.dumps(error.body), error.headers)

    def replay(self, kept: Kept) -> web.Response:
        headers = {"Idempotent-Replayed": "true", "Original-Request": kept.request_id}
        if kept.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            headers["Stripe-Should-Retry"] = "false"
        return self.answer(kept.status, kept.body, headers)


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without an answer; what is returned goes nowhere."""
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=500)


def _sent_key(authorization: str) -> str | None:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[0]
        except ValueError:
            return None
    return None


def _hidden(intent: Object) -> Object:
    """Return what a page sees of an intent."""
    return {name: value for name, value in intent.items() if name not in ("metadata", "latest_charge")}
