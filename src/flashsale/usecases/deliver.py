"""Deliver the messages of the outbox to the shop's endpoints and to buyers, at least once."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.messages import MAILED, Failure, pause_s
from flashsale.domain.traces import NO_ORIGIN, SpanKind
from flashsale.runtime.logs import lines_of_orders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from flashsale.domain.messages import Message, Target
    from flashsale.domain.traces import TraceContext
    from flashsale.settings.outbox import OutboxSettings
    from flashsale.usecases.tracing import OrderTraces

log = structlog.get_logger(__name__)

LEASE_MARGIN_S = 20.0
"""Time beyond the time-out after which a try that was begun counts as lost with its process."""

AWAY_AFTER = 3
"""Failures in a row after which a target gets one message at a time, until one arrives."""

GIVEN_UP = 1_000
"""Most messages that are given up with one that failed. A target that is away gets fewer tries than it has messages."""


class OutboxRows(Protocol):
    """The outbox in Postgres."""

    async def tell_buyers(self, events: Sequence[str]) -> None:
        """Make the buyers a target of these events."""
        ...

    async def waiting_targets(self) -> Sequence[Target]:
        """List the targets with a message that is due."""
        ...

    async def claim(self, target_id: str, *, limit: int, lease_s: float) -> Sequence[Message]:
        """Begin a try of messages that are due, in the order of their orders' changes."""
        ...

    async def end(self, message: Message, outcome: str, problem: str | None) -> None:
        """End a message, unless a later try began."""
        ...

    async def postpone(self, message: Message, problem: str, *, pause_s: float, give_up_s: float) -> bool:
        """Postpone a message, unless a later try began; False if the message was given up instead."""
        ...

    async def give_up(self, target_id: str, *, give_up_s: float, limit: int) -> Sequence[UUID]:
        """Give up due messages of a target that have waited for `give_up_s`, tried or not; returns their orders."""
        ...

    async def addresses(self, order_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Return the e-mail address of each order's buyer."""
        ...


class EndpointSender(Protocol):
    """Sends webhooks."""

    async def send(self, target: Target, message: Message) -> Failure | None:
        """Send a message to an endpoint; None if the endpoint took it."""
        ...


class MailSender(Protocol):
    """Sends e-mails."""

    async def send(self, address: str, message: Message) -> Failure | None:
        """Send a message to a buyer; None if the mail server took it."""
        ...


class Deliver:
    """The use case. Each target has a task of its own, so a slow or dead target delays no other."""

    def __init__(
        self,
        rows: OutboxRows,
        endpoints: EndpointSender,
        mails: MailSender | None,
        settings: OutboxSettings,
        traces: OrderTraces | None = None,
    ) -> None:
        """Keep the parts. Without `mails` this process leaves e-mails to another one, or to a later start."""
        self._rows = rows
        self._traces = traces
        self._endpoints = endpoints
        self._mails = mails
        self._settings = settings
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._paused_until_s: dict[str, float] = {}
        """By target that asked to be left alone, on the clock of `time.monotonic`."""
        self._buyers_set = False

    async def __call__(self) -> None:
        """Start a delivery to each target with a due message; does not wait for deliveries.

        Raises:
            Unavailable: if Postgres is away.
        """
        if self._mails is not None and not self._buyers_set:
            await self._rows.tell_buyers(MAILED)
            self._buyers_set = True
        for target in await self._rows.waiting_targets():
            if target.url is None and self._mails is None:
                continue
            if target.target_id not in self._running and not self._is_paused(target.target_id):
                task = asyncio.create_task(self._serve(target))
                self._running[target.target_id] = task
                task.add_done_callback(partial(self._done, target.target_id))

    def _is_paused(self, name: str) -> bool:
        return self._paused_until_s.get(name, 0.0) > time.monotonic()

    def _done(self, name: str, _: asyncio.Task[None]) -> None:
        del self._running[name]

    async def idle(self) -> None:
        """Wait until no delivery runs."""
        while self._running:
            await asyncio.gather(*self._running.values())

    async def close(self) -> None:
        """Cancel deliveries; their messages are due again when their leases end."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _serve(self, target: Target) -> None:
        """Send to one target until it has no due message."""
        settings = self._settings
        lease_s = settings.timeout_s + LEASE_MARGIN_S
        try:
            while not self._is_paused(target.target_id):
                away = self._failures.get(target.target_id, 0) >= AWAY_AFTER
                limit = 1 if away else settings.concurrency
                messages = await self._rows.claim(target.target_id, limit=limit, lease_s=lease_s)
                if not messages:
                    return
                addresses = (
                    await self._rows.addresses([one.order_id for one in messages if one.order_id])
                    if target.url is None
                    else {}
                )
                buys = await self._buys(messages)
                await asyncio.gather(*(self._deliver(target, one, addresses, buys) for one in messages))
        except FlashSaleError as error:
            log.warning("outbox.interrupted", target=target.target_id, reason=error.detail)

    async def _buys(self, messages: Sequence[Message]) -> Mapping[UUID, TraceContext]:
        """Return the spans below which the deliveries are spans; none if this process does not trace."""
        if self._traces is None:
            return {}
        return await self._traces.of([one.order_id for one in messages if one.order_id])

    async def _deliver(
        self,
        target: Target,
        message: Message,
        addresses: Mapping[UUID, str],
        buys: Mapping[UUID, TraceContext],
    ) -> None:
        buy = buys.get(message.order_id) if message.order_id else None
        if self._traces is None or buy is None:
            await self._try(target, message, addresses)
            return
        name = f"send {'e-mail' if target.url is None else 'webhook'}"
        with self._traces.tracer.running(name, SpanKind.PRODUCER, buy) as span:
            span.facts.update(
                {
                    "flashsale.order_id": str(message.order_id),
                    "flashsale.event": message.event.value,
                    "flashsale.target": target.target_id,
                    "flashsale.try": message.attempts,
                }
            )
            failure = await self._try(target, message, addresses)
            span.error = None if failure is None else failure.problem

    async def _try(self, target: Target, message: Message, addresses: Mapping[UUID, str]) -> Failure | None:
        """Send a message, and write what became of it."""
        failure = await self._send(target, message, addresses)
        name = target.target_id
        said = {"target": name, "message_id": str(message.message_id), "message_event": message.event}
        if message.order_id is not None:
            said["order_id"] = str(message.order_id)
        if failure is None:
            self._failures.pop(name, None)
            await self._rows.end(message, "delivered", None)
            log.info("outbox.delivered", **said, attempts=message.attempts)
            return None
        if failure.final:
            await self._rows.end(message, "dead", failure.problem)
            log.warning("outbox.dead", **said, problem=failure.problem)
            return failure
        self._failures[name] = self._failures.get(name, 0) + 1
        settings = self._settings
        wait_s = pause_s(
            message.attempts,
            first_s=settings.retry_s,
            longest_s=settings.retry_max_s,
            luck=random.random(),  # noqa: S311 - spreads retries
        )
        if failure.retry_after_s is not None:
            # An endpoint may ask for no more than the longest pause: it could be wrong.
            asked_s = min(failure.retry_after_s, settings.retry_max_s)
            self._paused_until_s[name] = time.monotonic() + asked_s
            wait_s = max(wait_s, asked_s)
        waits = await self._rows.postpone(message, failure.problem, pause_s=wait_s, give_up_s=settings.give_up_s)
        if waits:
            log.info("outbox.failed", **said, attempts=message.attempts, problem=failure.problem)
            return failure
        log.warning("outbox.dead", **said, problem=failure.problem)
        if self._failures.get(name, 0) >= AWAY_AFTER:
            given_up = await self._rows.give_up(name, give_up_s=settings.give_up_s, limit=GIVEN_UP)
            for orders in lines_of_orders([(order_id, NO_ORIGIN) for order_id in given_up]):
                log.warning("outbox.given_up", target=name, orders=orders, problem=failure.problem)
        return failure

    async def _send(self, target: Target, message: Message, addresses: Mapping[UUID, str]) -> Failure | None:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                if target.url is not None:
                    return await self._endpoints.send(target, message)
                address = addresses.get(message.order_id) if message.order_id else None
                if address is None or self._mails is None:
                    return Failure(problem="The buyer has no account any more.", final=self._mails is not None)
                return await self._mails.send(address, message)
        except TimeoutError:
            return Failure(problem=f"No answer within {self._settings.timeout_s:g} s.")
        except Exception as error:
            # An unexpected error in one message must not delay the others.
            order_id = str(message.order_id) if message.order_id else None
            log.exception(
                "outbox.broken", target=target.target_id, message_id=str(message.message_id), order_id=order_id
            )
            return Failure(problem=f"It could not be sent ({type(error).__name__}).")
