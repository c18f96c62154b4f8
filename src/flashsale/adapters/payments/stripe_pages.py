"""Stripe's own page: https://docs.stripe.com/api/checkout/sessions.

An order whose product gives its buyer 30 minutes or more is paid on the page, if the settings say where the page leads
its buyers. The id of the session (`cs_...`) is the reference of the order's intent: the payment intent behind it exists
only once the buyer pays, and is found through the session. Everything else is the gateway's below.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from flashsale.adapters.payments.stripe_amounts import from_stripe, to_stripe
from flashsale.adapters.payments.stripe_answers import (
    NOT_FOUND,
    Failure,
    made_at,
    read_id,
    read_intent,
    read_rows,
    unless_foreign,
)
from flashsale.adapters.payments.stripe_outcomes import answer_of, charge_failure, refund_failure
from flashsale.domain.errors import InvalidInput
from flashsale.domain.payments import ChargeOutcome, Intent, IntentState, NoAnswer, NoAnswerKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flashsale.adapters.payments.stripe import StripeGateway
    from flashsale.domain.money import Money
    from flashsale.domain.payments import ChargeAnswer, LedgerEntry, PaymentTerms, ProviderEvent, Refund
    from flashsale.settings.stripe import StripeSettings

log = structlog.get_logger(__name__)

LIVES_S_MIN = 30 * 60
"""A session cannot expire sooner after its creation."""

LIVES_S_MAX = 24 * 3600 - 60
"""A session cannot expire later than 24 hours after its creation; a minute less, because clocks differ."""

MARGIN_S = 300
"""How long a session lives at least after the buyer's time, so that its opening can be repeated in that time."""

CLOCKS_S = 300
PAGE = 100
NAME_CHARS_MAX = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session of the page."""

    reference: str
    status: str
    """open, complete or expired."""
    intent: str | None
    """The payment intent behind it, once the buyer pays."""
    order_id: UUID | None
    number: str | None
    amount: Money
    url: str | None
    created_at: datetime

    def as_intent(self) -> Intent:
        """Return what the session says while no payment intent does."""
        return Intent(
            reference=self.reference,
            order_id=self.order_id,
            state=IntentState.CANCELLED if self.status == "expired" else IntentState.OPEN,
            amount=self.amount,
            refunded_minor=0,
            disputed=False,
            client_secret=None,
            page_url=self.url,
            decline_code=None,
            created_at=self.created_at,
        )


class StripePages:
    """Implements `ports.PaymentGateway` through the one below."""

    def __init__(self, stripe: StripeGateway, settings: StripeSettings) -> None:
        """Wrap an open gateway."""
        self._stripe = stripe
        self._sessions = stripe.sessions
        self._settings = settings
        self.name = stripe.name

    async def charge(
        self, *, order_id: UUID, reference: str | None = None, amount: Money, timeout_s: float, first: bool = False
    ) -> ChargeAnswer:
        """Capture what the buyer paid on the page."""
        if reference is None or not _is_session(reference):
            return await self._stripe.charge(
                order_id=order_id, reference=reference, amount=amount, timeout_s=timeout_s, first=first
            )
        until_s = asyncio.get_running_loop().time() + timeout_s
        session = await self._read(reference, until_s)
        if isinstance(session, Failure):
            return charge_failure(session, reference)
        if session.intent is None:
            ended = session.status == "expired"
            return answer_of(ChargeOutcome.CANCELLED if ended else ChargeOutcome.UNKNOWN, None, reference)
        answer = await self._stripe.charge(
            order_id=order_id, reference=session.intent, amount=amount, timeout_s=_left_s(until_s), first=first
        )
        return _of_session(answer, session)

    async def cancel(
        self, *, order_id: UUID, reference: str | None = None, amount: Money | None = None, timeout_s: float
    ) -> ChargeAnswer:
        """Expire the session, so that nobody can pay it any more, and cancel what was paid on it."""
        if reference is None or not _is_session(reference):
            return await self._stripe.cancel(order_id=order_id, reference=reference, amount=amount, timeout_s=timeout_s)
        until_s = asyncio.get_running_loop().time() + timeout_s
        session = await self._stripe.ask(
            "expire", lambda: self._sessions.expire_async(reference), _read_session, until_s
        )
        if isinstance(session, Failure):
            if not session.status or session.kind is NoAnswerKind.UNSENT:
                return charge_failure(session, reference)
            # It may be paid, or expired before; or it was expired although the answer says 500.
            session = await self._read(reference, until_s)
            if isinstance(session, Failure) or session.status == "open":
                return answer_of(ChargeOutcome.UNKNOWN, None, reference)
        if session.intent is None:
            return answer_of(ChargeOutcome.CANCELLED, reference, reference)
        answer = await self._stripe.cancel(
            order_id=order_id, reference=session.intent, amount=amount, timeout_s=_left_s(until_s)
        )
        return _of_session(answer, session)

    async def open_intent(
        self, *, order_id: UUID, number: int, amount: Money, timeout_s: float, terms: PaymentTerms | None = None
    ) -> Intent | NoAnswer:
        """Open a page where the product's window allows it; else an intent for the element in the shop's page."""
        if terms is None or not self._settings.return_url or terms.window_s < LIVES_S_MIN:
            return await self._stripe.open_intent(
                order_id=order_id, number=number, amount=amount, timeout_s=timeout_s, terms=terms
            )
        until_s = asyncio.get_running_loop().time() + timeout_s
        try:
            params = self._params(order_id, number, amount, terms)
        except InvalidInput as error:
            log.error("gateway.call_refused", problem=error.detail)  # noqa: TRY400 - one line says it
            return NoAnswer(kind=NoAnswerKind.REFUSED, reason="amount")
        opened = await self._open(f"{order_id}:page:{number}", params, until_s)
        if isinstance(opened, Failure) and opened.status and opened.kind is not NoAnswerKind.UNSENT:
            # The key keeps its 500, or the call came so late that the session would be too short.
            found = await self._find(order_id, str(number), until_s)
            if not isinstance(found, Failure):
                opened = found
            elif opened.kind is NoAnswerKind.REFUSED and found.reason == NOT_FOUND:
                opened = await self._open_late(f"{order_id}:page:{number}", params, until_s, opened)
        return opened.as_answer() if isinstance(opened, Failure) else opened.as_intent()

    async def look_up(
        self, *, order_id: UUID | None, reference: str | None = None, timeout_s: float
    ) -> Intent | NoAnswer:
        """Read the intent behind a session; an intent that a page made is known by its session."""
        if reference is None:
            return await self._stripe.look_up(order_id=order_id, reference=reference, timeout_s=timeout_s)
        until_s = asyncio.get_running_loop().time() + timeout_s
        found = await (self._look if _is_session(reference) else self._look_behind)(reference, until_s)
        return found.as_answer() if isinstance(found, Failure) else found

    async def refund(self, *, key: str, reference: str, amount: Money, timeout_s: float) -> Refund | NoAnswer:
        """Return the refund made under this key, or make it."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        intent = await self._intent_of(reference, until_s)
        if isinstance(intent, NoAnswer):
            return intent
        return await self._stripe.refund(key=key, reference=intent, amount=amount, timeout_s=_left_s(until_s))

    async def refunds(self, *, reference: str, timeout_s: float) -> Sequence[Refund] | NoAnswer:
        """Read every refund of an intent."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        intent = await self._intent_of(reference, until_s)
        if isinstance(intent, NoAnswer):
            return intent
        return await self._stripe.refunds(reference=intent, timeout_s=_left_s(until_s))

    def read_webhook(self, *, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Check a webhook on the bytes that arrived."""
        return self._stripe.read_webhook(headers=headers, body=body)

    def intents(self, *, since: datetime) -> AsyncIterator[Intent]:
        """Read every intent opened since, newest first; one behind a page under its own id."""
        return self._stripe.intents(since=since)

    def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Raise NotSupported."""
        return self._stripe.ledger()

    def _params(self, order_id: UUID, number: int, amount: Money, terms: PaymentTerms) -> Any:
        """Return the parameters of a session: the same each time, because a key compares them."""
        lives = max(terms.pay_by, terms.asked_at + timedelta(seconds=LIVES_S_MIN)) + timedelta(seconds=MARGIN_S)
        lives = min(lives, terms.asked_at + timedelta(seconds=LIVES_S_MAX))
        about = {"order_id": str(order_id), "number": str(number)}
        price = {
            "currency": amount.currency.lower(),
            "unit_amount": to_stripe(amount),
            "product_data": {"name": terms.name[:NAME_CHARS_MAX]},
        }
        return {
            "mode": "payment",
            "line_items": [{"quantity": 1, "price_data": price}],
            "payment_method_types": ["card"],
            "payment_intent_data": {"capture_method": "manual", "metadata": {**about, "page": "true"}},
            "success_url": self._settings.return_url.replace("{order_id}", str(order_id)),
            "cancel_url": self._settings.cancel_url.replace("{order_id}", str(order_id)),
            "expires_at": int(lives.timestamp()),
            "client_reference_id": str(order_id),
            "metadata": about,
        }

    async def _open(self, key: str, params: Any, until_s: float) -> Session | Failure:
        return await self._stripe.ask(
            "open page", lambda: self._sessions.create_async(params, {"idempotency_key": key}), _read_session, until_s
        )

    async def _open_late(self, key: str, params: Any, until_s: float, refused: Failure) -> Session | Failure:
        """Open a session that lives longer, where none was made and the first one would be too short by now.

        The buyer can pay on it, or the settlement expires it. Its end is rounded up, so that a repetition in the next
        minutes is the same call; a later repetition finds the session.
        """
        ends = math.ceil((self._stripe.clock() + LIVES_S_MIN + MARGIN_S) / MARGIN_S) * MARGIN_S
        if ends <= params["expires_at"]:
            return refused
        return await self._open(f"{key}:{ends}", {**params, "expires_at": ends}, until_s)

    async def _read(self, reference: str, until_s: float) -> Session | Failure:
        return await self._stripe.ask("page", lambda: self._sessions.retrieve_async(reference), _read_session, until_s)

    async def _find(self, order_id: UUID, number: str, until_s: float) -> Session | Failure:
        """Look for a session of the order among all that were made since the order."""
        since = datetime.fromtimestamp(made_at(order_id), UTC) - timedelta(seconds=CLOCKS_S)
        params: Any = {"created": {"gte": int(since.timestamp())}, "limit": PAGE}
        while True:
            page = await self._stripe.ask("pages", lambda: self._sessions.list_async(params), _read_sessions, until_s)
            if isinstance(page, Failure):
                return page
            sessions, last = page
            for one in sessions:
                # Perhaps the one that is looked for.
                unread = isinstance(one, Failure) and one.order_id == order_id
                if unread or (isinstance(one, Session) and (one.order_id, one.number) == (order_id, number)):
                    return one
            if last is None:
                return Failure(kind=NoAnswerKind.REFUSED, reason=NOT_FOUND)
            params["starting_after"] = last

    async def _look(self, reference: str, until_s: float) -> Intent | Failure:
        session = await self._stripe.ask(
            "page", lambda: self._sessions.retrieve_async(reference), unless_foreign(_read_session), until_s
        )
        if isinstance(session, Failure) or session.intent is None:
            return session if isinstance(session, Failure) else session.as_intent()
        behind = await self._stripe.retrieve(session.intent, until_s, unless_foreign(read_intent))
        if isinstance(behind, Failure):
            return behind
        ended = session.status == "expired" and behind.state is IntentState.OPEN
        return replace(
            behind,
            reference=reference,
            state=IntentState.CANCELLED if ended else behind.state,
            client_secret=None,
            page_url=session.url,
        )

    async def _look_behind(self, reference: str, until_s: float) -> Intent | Failure:
        """Read an intent by its own id, as a webhook names it."""
        found = await self._stripe.retrieve(reference, until_s, unless_foreign(_read_paged))
        if isinstance(found, Failure):
            return found
        intent, paged = found
        if not paged:
            return intent
        page = await self._stripe.ask(
            "pages",
            lambda: self._sessions.list_async({"payment_intent": reference, "limit": 1}),
            _read_sessions,
            until_s,
        )
        if isinstance(page, Failure):
            return page
        if not page[0]:
            return Failure(kind=NoAnswerKind.UNKNOWN, reason="the intent of a page has no session")
        session = page[0][0]
        if isinstance(session, Failure):
            return session
        return replace(intent, reference=session.reference, client_secret=None, page_url=session.url)

    async def _intent_of(self, reference: str, until_s: float) -> str | NoAnswer:
        if not _is_session(reference):
            return reference
        session = await self._read(reference, until_s)
        if isinstance(session, Failure):
            return refund_failure(session)
        if session.intent is None:
            return NoAnswer(kind=NoAnswerKind.REFUSED, reason="nobody paid on the page")
        return session.intent


def _is_session(reference: str) -> bool:
    return reference.startswith("cs_")


def _left_s(until_s: float) -> float:
    return max(0.0, until_s - asyncio.get_running_loop().time())


def _of_session(answer: ChargeAnswer, session: Session) -> ChargeAnswer:
    """Name the session in place of the intent behind it."""
    same = answer.reference == session.intent
    return replace(answer, reference=session.reference if same else answer.reference, intent=session.reference)


def _read_session(found: Any) -> Session:
    """Read a session.

    Raises:
        ValueError, KeyError, TypeError, InvalidInput: if it is none.
    """
    metadata = found.get("metadata") or {}
    intent = found.get("payment_intent")
    try:
        order_id = UUID(metadata["order_id"])
    except (KeyError, ValueError):
        order_id = None
    if found["status"] not in {"open", "complete", "expired"}:
        raise ValueError("no status of a session")
    return Session(
        reference=read_id(found["id"]),
        status=found["status"],
        intent=None if intent is None else read_id(intent),
        order_id=order_id,
        number=metadata.get("number"),
        amount=from_stripe(found["amount_total"], found["currency"]),
        url=found.get("url"),
        created_at=datetime.fromtimestamp(found["created"], UTC),
    )


def _read_sessions(page: Any) -> tuple[list[Session | Failure], str | None]:
    """Read a page of a list; a session without an amount cannot be read."""
    return read_rows(page, _read_session)


def _read_paged(found: Any) -> tuple[Intent, bool]:
    """Read an intent, and whether a page made it."""
    return read_intent(found), "page" in (found.get("metadata") or {})
