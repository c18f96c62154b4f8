"""Calls to Stripe: each when it is its turn, until its deadline, with what its answer says."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import stripe
import structlog

from flashsale.adapters.payments.stripe_answers import (
    NOT_FOUND,
    UNEXPECTED_STATE,
    UNREADABLE,
    WRONG_KEY,
    Failure,
    read_failure,
)
from flashsale.adapters.payments.stripe_http import SENDING, NoAnswerError, Sending
from flashsale.adapters.payments.stripe_outcomes import unknown
from flashsale.domain.payments import NoAnswerKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flashsale.usecases.turns import Turns

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Calls:
    """Makes the calls of one account."""

    def __init__(self, turns: Turns | None) -> None:
        """Each call waits for its turn, if there are any."""
        self._turns = turns

    async def ask(
        self, call: str, ask: Callable[[], Awaitable[Any]], read: Callable[[Any], T], deadline_s: float
    ) -> T | Failure:
        """Make one call, when it is its turn, until the deadline, and read its answer."""
        if self._turns is not None and (wait_s := await self._turns.take(call)) is not None:
            return Failure(kind=NoAnswerKind.UNSENT, reason="not its turn", retry_after_s=wait_s)
        found = await self._send(call, ask, read, deadline_s)
        if self._turns is not None:
            await self._note(self._turns, call, found)
        return found

    async def _note(self, turns: Turns, call: str, found: object) -> None:
        """Tell the budget of a 429, and the breaker whether the provider answered a call that it could read."""
        status = found.status if isinstance(found, Failure) else HTTPStatus.OK
        if isinstance(found, Failure) and status == HTTPStatus.TOO_MANY_REQUESTS and found.retry_after_s:
            await turns.rejected(call, found.retry_after_s)
        if not status or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in WRONG_KEY:
            await turns.failed()
        else:
            await turns.answered()

    async def _send(
        self, call: str, ask: Callable[[], Awaitable[Any]], read: Callable[[Any], T], deadline_s: float
    ) -> T | Failure:
        sending = Sending()
        token = SENDING.set(sending)
        try:
            async with asyncio.timeout_at(deadline_s):
                return read((await ask()).to_dict())
        except stripe.StripeError as error:
            failure = read_failure(error)
            refused = failure.kind is NoAnswerKind.REFUSED or failure.status in WRONG_KEY
            if refused and failure.decline_code is None and failure.reason not in {NOT_FOUND, UNEXPECTED_STATE}:
                log.error(  # noqa: TRY400 - one line says it
                    "gateway.call_refused", call=call, status=failure.status, reason=failure.reason
                )
            return failure
        except (NoAnswerError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            log.info("gateway.call_failed", call=call, error=reason, sent=sending.sent)
            return unknown(reason) if sending.sent else Failure(kind=NoAnswerKind.UNSENT, reason=reason)
        except UNREADABLE as error:
            # Perhaps it was done.
            log.warning("gateway.answer_unclear", call=call, error=type(error).__name__)
            return unknown(type(error).__name__)
        finally:
            SENDING.reset(token)
