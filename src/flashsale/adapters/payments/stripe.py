"""Stripe, through its official library: https://docs.stripe.com/api/payment_intents.

Each order has payment intents with `capture_method=manual`. Keys: `<order>:create:<n>`, `<order>:capture`,
`<order>:cancel:<intent>:<n>`. A key keeps its first answer, a 500 too, so after a 500 the intent is looked for before
anything else; a kept 500 together with no intent is the definite end of a key, and only then n rises.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import stripe
import structlog

from flashsale.adapters.payments.stripe_amounts import to_stripe
from flashsale.adapters.payments.stripe_answers import (
    NOT_FOUND,
    Failure,
    made_at,
    read_intent,
    read_refund,
    read_rows,
    unless_foreign,
)
from flashsale.adapters.payments.stripe_calls import Calls
from flashsale.adapters.payments.stripe_http import PooledClient
from flashsale.adapters.payments.stripe_outcomes import (
    answer_of,
    charge_failure,
    other_intent,
    refund_failure,
    settled,
    unless_found,
)
from flashsale.adapters.payments.stripe_webhooks import read_event
from flashsale.domain.errors import InvalidInput, Unavailable
from flashsale.domain.payment_errors import NotSupported
from flashsale.domain.payments import ChargeAnswer, ChargeOutcome, IntentState, NoAnswer, NoAnswerKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from uuid import UUID

    from flashsale.domain.money import Money
    from flashsale.domain.payments import Intent, LedgerEntry, PaymentTerms, ProviderEvent, Refund
    from flashsale.settings.stripe import StripeSettings
    from flashsale.usecases.turns import Turns

log = structlog.get_logger(__name__)

INTENTS_MAX = 5
"""Intents of one order that a charge opens at most, each after the definite end of the one before."""

PAGE = 100
CLOCKS_S = 300
"""How far Stripe's clock may be behind ours when intents are looked for by their creation."""

TAKING_S = 30.0
"""Deadline of each page of a list that is read as a whole."""

EXPAND = ["latest_charge"]

T = TypeVar("T")


class StripeGateway:
    """Implements `ports.PaymentGateway`; an async context manager. It never repeats a call by itself."""

    name = "stripe"

    def __init__(
        self,
        settings: StripeSettings,
        *,
        connections_max: int,
        turns: Turns | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is sent yet. Each call waits for its turn; `clock` gives Unix time."""
        self.ask = Calls(turns).ask
        """Makes one call and reads its answer."""
        self.clock = clock
        """Gives Unix time."""
        self._settings = settings
        self._http = PooledClient(connections_max=connections_max)
        # Or the library sends the platform's name and the last call's duration with each call.
        stripe.enable_telemetry = False
        client = stripe.StripeClient(
            settings.secret_key.get_secret_value() or "none",
            stripe_version=settings.api_version,
            base_addresses={"api": settings.base_url},
            max_network_retries=0,
            http_client=self._http,
        )
        self._intents = client.v1.payment_intents
        self._refunds = client.v1.refunds
        self.sessions = client.v1.checkout.sessions
        """Sessions of the provider's page, for `stripe_pages`; `ask` makes calls to them."""

    async def __aenter__(self) -> Self:
        """Make the connection pool."""
        self._http.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._http.close_async()

    # --- the port ---------------------------------------------------------------------------------------------------

    async def charge(
        self, *, order_id: UUID, reference: str | None = None, amount: Money, timeout_s: float, first: bool = False
    ) -> ChargeAnswer:
        """Open and confirm an intent, and capture it; or capture the one named."""
        if reference is None and not self._settings.payment_method:
            log.error("gateway.call_refused", problem="FLASHSALE_STRIPE__PAYMENT_METHOD is empty")
            return answer_of(ChargeOutcome.UNSENT, "no payment method")
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        found = (
            await self._obtain(order_id, amount, deadline_s, first=first)
            if reference is None
            else await self._retrieve(reference, deadline_s)
        )
        if isinstance(found, Failure):
            return charge_failure(found)
        if found.amount != amount or found.order_id != order_id:
            return other_intent(order_id, found)
        if found.state is IntentState.AUTHORIZED:
            return await self._capture(order_id, found, deadline_s)
        if found.state is IntentState.OPEN and found.decline_code is not None:
            # Nobody may pay it after all once the order has failed.
            ended = await self._end(order_id, found.reference, deadline_s, amount=amount)
            declined = ended.outcome is ChargeOutcome.CANCELLED
            return answer_of(ChargeOutcome.DECLINED, found.decline_code, found.reference) if declined else ended
        return settled(found)

    async def cancel(
        self, *, order_id: UUID, reference: str | None = None, amount: Money | None = None, timeout_s: float
    ) -> ChargeAnswer:
        """Cancel the order's intent; if none is known, take the key of the charge for one that nobody confirms."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        if reference is None:
            found = await self._find(order_id, deadline_s)
            if isinstance(found, Failure) and found.reason == NOT_FOUND and amount is not None:
                found = await self._obtain(order_id, amount, deadline_s, confirm=False)
            if isinstance(found, Failure):
                return charge_failure(found)
            if found.state is IntentState.CANCELLED:
                return settled(found)
            reference = found.reference
        return await self._end(order_id, reference, deadline_s, amount=amount)

    async def open_intent(
        self,
        *,
        order_id: UUID,
        number: int,
        amount: Money,
        timeout_s: float,
        terms: PaymentTerms | None = None,  # noqa: ARG002 - for a page
    ) -> Intent | NoAnswer:
        """Open the order's intent `number`, which the buyer confirms with its client secret."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        found = await self._create(order_id, number, amount, deadline_s, confirm=False)
        if isinstance(found, Failure) and found.kind is NoAnswerKind.UNKNOWN and found.status:
            # The key keeps its 500; the intents before this one have ended.
            made = await self._find(order_id, deadline_s)
            if not isinstance(made, Failure) and made.state is not IntentState.CANCELLED:
                return made
        return found.as_answer() if isinstance(found, Failure) else found

    async def look_up(
        self, *, order_id: UUID | None, reference: str | None = None, timeout_s: float
    ) -> Intent | NoAnswer:
        """Read the named intent, or the order's newest among those made since the order."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        if reference is not None:
            found = await self.retrieve(reference, deadline_s, unless_foreign(read_intent))
        elif order_id is not None:
            found = await self._find(order_id, deadline_s)
        else:
            raise InvalidInput(field="reference", problem="or order_id is needed")
        return found.as_answer() if isinstance(found, Failure) else found

    async def refund(self, *, key: str, reference: str, amount: Money, timeout_s: float) -> Refund | NoAnswer:
        """Return the refund made under this key, or make it."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        try:
            sent = to_stripe(amount)
        except InvalidInput as error:
            log.error("gateway.call_refused", problem=error.detail)  # noqa: TRY400 - one line says it
            return NoAnswer(kind=NoAnswerKind.REFUSED, reason="amount")
        made = await self.refunds(reference=reference, timeout_s=timeout_s)
        if isinstance(made, NoAnswer):
            return made
        for one in made:
            if one.key == key:
                return one
        params: Any = {"payment_intent": reference, "amount": sent, "metadata": {"refund_key": key}}
        found = await self.ask(
            "refund", lambda: self._refunds.create_async(params, {"idempotency_key": key}), read_refund, until_s
        )
        return refund_failure(found) if isinstance(found, Failure) else found

    async def refunds(self, *, reference: str, timeout_s: float) -> Sequence[Refund] | NoAnswer:
        """Read every refund of an intent, the newest first."""
        until_s = asyncio.get_running_loop().time() + timeout_s

        def read(page: Any) -> list[Refund]:
            return [read_refund(one) for one in page["data"]]

        found = await self.ask(
            "refunds",
            lambda: self._refunds.list_async({"payment_intent": reference, "limit": PAGE}),
            read,
            until_s,
        )
        return refund_failure(found) if isinstance(found, Failure) else found

    def read_webhook(self, *, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Check a webhook on the bytes that arrived."""
        return read_event(self._settings, headers=headers, body=body)

    async def intents(self, *, since: datetime) -> AsyncIterator[Intent]:
        """Read every intent opened since, with its fee, newest first; those that are not ours have no order."""
        async for found in self._pages(
            since - timedelta(seconds=CLOCKS_S), None, "data.latest_charge.balance_transaction"
        ):
            if isinstance(found, Failure):
                raise Unavailable(f"Stripe's list cannot be read: {found.reason}.")
            yield found

    def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Raise NotSupported: `intents` is what Stripe has."""
        raise NotSupported(provider=self.name, call="ledger")

    # --- intents ----------------------------------------------------------------------------------------------------

    async def _obtain(
        self, order_id: UUID, amount: Money, deadline_s: float, *, confirm: bool = True, first: bool = False
    ) -> Intent | Failure:
        """Return the order's intent, opened under the first of its keys that has no definite end without one."""
        if not first and self.clock() - made_at(order_id) > self._settings.key_lifetime_s:
            # A key that was forgotten would open a second intent.
            return unless_found(await self._find(order_id, deadline_s))
        for number in range(1, INTENTS_MAX + 1):
            made = await self._create(order_id, number, amount, deadline_s, confirm=confirm)
            if not isinstance(made, Failure):
                return made
            misused = made.reason == "idempotency_error"
            if not made.status or (made.kind is not NoAnswerKind.UNKNOWN and not misused):
                break
            found = await self._find(order_id, deadline_s)
            if not isinstance(found, Failure) or found.reason != NOT_FOUND:
                return unless_found(found)
            if misused and not confirm:
                # The key belongs to the charge; what it came to, the charge's own call says.
                return await self._obtain(order_id, amount, deadline_s)
            if not made.replayed:
                break
        return made

    async def _create(
        self, order_id: UUID, number: int, amount: Money, deadline_s: float, *, confirm: bool
    ) -> Intent | Failure:
        try:
            sent = to_stripe(amount)
        except InvalidInput as error:
            log.error("gateway.call_refused", problem=error.detail)  # noqa: TRY400 - one line says it
            return Failure(kind=NoAnswerKind.REFUSED, reason="amount")
        params: Any = {
            "amount": sent,
            "currency": amount.currency.lower(),
            "capture_method": "manual",
            "payment_method_types": ["card"],
            "metadata": {"order_id": str(order_id), "number": str(number)},
            "expand": EXPAND,
        }
        if confirm:
            params |= {"confirm": True, "payment_method": self._settings.payment_method}
        key = f"{order_id}:create:{number}"
        return await self.ask(
            "create", lambda: self._intents.create_async(params, {"idempotency_key": key}), read_intent, deadline_s
        )

    async def retrieve(self, reference: str, deadline_s: float, read: Callable[[Any], T]) -> T | Failure:
        """Read an intent in the caller's way."""
        return await self.ask(
            "retrieve", lambda: self._intents.retrieve_async(reference, {"expand": EXPAND}), read, deadline_s
        )

    async def _retrieve(self, reference: str, deadline_s: float) -> Intent | Failure:
        return await self.retrieve(reference, deadline_s, read_intent)

    async def _find(self, order_id: UUID, deadline_s: float) -> Intent | Failure:
        """Look for the order's newest intent among all that were made since the order."""
        since = datetime.fromtimestamp(made_at(order_id), UTC) - timedelta(seconds=CLOCKS_S)
        async for found in self._pages(since, deadline_s):
            # A failure without an order is one of the list itself.
            if found.order_id == order_id or (isinstance(found, Failure) and found.order_id is None):
                return found
        return Failure(kind=NoAnswerKind.REFUSED, reason=NOT_FOUND)

    async def _pages(
        self, since: datetime, deadline_s: float | None, expand: str = "data.latest_charge"
    ) -> AsyncIterator[Intent | Failure]:
        params: Any = {
            "created": {"gte": max(0, int(since.timestamp()))},
            "limit": PAGE,
            "expand": [expand],
        }

        def read(page: Any) -> tuple[list[Intent | Failure], str | None]:
            return read_rows(page, read_intent)

        while True:
            until_s = deadline_s or asyncio.get_running_loop().time() + TAKING_S
            page = await self.ask("list", lambda: self._intents.list_async(params), read, until_s)
            if isinstance(page, Failure):
                yield page
                return
            intents, last = page
            for one in intents:
                yield one
            if last is None:
                return
            params["starting_after"] = last

    async def _capture(self, order_id: UUID, intent: Intent, deadline_s: float) -> ChargeAnswer:
        """Capture held money. A kept 500 gives way to another key: a captured intent cannot be captured again."""
        reference = intent.reference
        for key in (f"{order_id}:capture", *(f"{order_id}:capture:{n}" for n in range(2, INTENTS_MAX + 1))):
            done = await self.ask(
                "capture",
                partial(self._intents.capture_async, reference, {"expand": EXPAND}, {"idempotency_key": key}),
                read_intent,
                deadline_s,
            )
            if isinstance(done, Failure):
                if not done.status or done.kind is NoAnswerKind.UNSENT:
                    return charge_failure(done, reference)
                replayed, done = done.replayed, await self._retrieve(reference, deadline_s)
                if isinstance(done, Failure):
                    # The capture's own answer was not clear, whatever became of the question after it.
                    return answer_of(ChargeOutcome.UNKNOWN, None, reference, done.retry_after_s)
                if replayed and done.state is IntentState.AUTHORIZED:
                    continue
            return settled(done) if done.amount == intent.amount else other_intent(order_id, done)
        return answer_of(ChargeOutcome.UNKNOWN, None, reference)

    async def _end(
        self, order_id: UUID, reference: str, deadline_s: float, *, amount: Money | None = None
    ) -> ChargeAnswer:
        """Cancel an intent; one that has succeeded was captured, which counts only over `amount`, if that is known."""
        for number in range(1, INTENTS_MAX + 1):
            key = f"{order_id}:cancel:{reference}:{number}"
            done = await self.ask(
                "cancel",
                partial(self._intents.cancel_async, reference, {"expand": EXPAND}, {"idempotency_key": key}),
                read_intent,
                deadline_s,
            )
            if isinstance(done, Failure):
                if not done.status or done.kind is NoAnswerKind.UNSENT:
                    return charge_failure(done, reference)
                refused, done = done, await self._retrieve(reference, deadline_s)
                if isinstance(done, Failure):
                    return answer_of(ChargeOutcome.UNKNOWN, None, reference, done.retry_after_s)
                if refused.replayed and done.state in {IntentState.OPEN, IntentState.AUTHORIZED}:
                    continue
            if done.state is IntentState.CAPTURED and amount is not None and done.amount != amount:
                return other_intent(order_id, done)
            return settled(done)
        return answer_of(ChargeOutcome.UNKNOWN, None, reference)
