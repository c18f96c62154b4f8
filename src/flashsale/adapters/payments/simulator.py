"""The payment gateway over HTTP.

An outcome is what the gateway said in so many words about this very key. A call is unsent if nothing was written to a
connection, or if the answer says that nobody looked at it. Everything else is unknown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import structlog

from flashsale.adapters.payments.unsupported import Unsupported
from flashsale.domain.errors import FlashSaleError, Unavailable
from flashsale.domain.payments import (
    ChargeAnswer,
    ChargeOutcome,
    LedgerEntry,
    NoAnswer,
    NoAnswerKind,
    Refund,
    RefundState,
)
from flashsale.runtime.tracing import outgoing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from flashsale.domain.money import Money

log = structlog.get_logger(__name__)

ANSWER_BYTES_MAX = 65_536
LEDGER_SILENCE_S = 30.0
"""How long the next piece of the ledger may take."""

MISUSE = frozenset({400, 401, 403, 404, 405, 407, 413, 415, 422, 431})
"""Answers that say that the call itself is wrong, and that nothing was done: a setting or a defect of ours."""

NOT_NOW = frozenset({301, 302, 307, 308, 429, 503})
"""Statuses with which a gateway, or a proxy before it, rejects a call before it looks at the charge."""

REFUND_REFUSALS = frozenset({"not_captured", "refund_exceeds_capture"})
"""Codes of refunds that were not made, and will not be under their key."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,254}")


class GatewayMisuse(FlashSaleError):
    """A defect or a wrong setting on our side: repeating the call is no use. It says nothing about the money."""

    code = "gateway_misuse"


class SimulatorGateway(Unsupported):
    """Implements `ports.PaymentGateway`; an async context manager. It never repeats a call by itself.

    An order has one key, its id, which the gateway charges at once; there are no intents.
    """

    name = "simulator"

    def __init__(self, base_url: str, secret: str, *, connections_max: int) -> None:
        """Send the bearer `secret` to `base_url` over at most `connections_max` connections; further calls wait."""
        self._base_url = base_url.rstrip("/")
        self._secret = secret
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Make the connection pool; nothing is sent yet."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections_max),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {self._secret}"},
            trace_configs=[_telling_what_was_sent()],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def charge(
        self,
        *,
        order_id: UUID,
        reference: str | None = None,  # noqa: ARG002 - the interface's
        amount: Money,
        timeout_s: float,
        first: bool = False,  # noqa: ARG002
    ) -> ChargeAnswer:
        """Charge once per order, however often it is called; waiting for a connection counts against `timeout_s`."""
        key = str(order_id)
        body = {"amountMinor": amount.minor, "currency": amount.currency}
        status, answer = await self._post("/v1/charges", key, timeout_s, body=body)
        if isinstance(answer, str):
            return ChargeAnswer(outcome=ChargeOutcome.UNSENT, reference=answer)
        outcome = _outcome(answer, key)
        if outcome is ChargeOutcome.CANCELLED and status == HTTPStatus.CONFLICT:
            return _charge(key, outcome, answer)
        decided = outcome in (ChargeOutcome.CAPTURED, ChargeOutcome.DECLINED) and status == HTTPStatus.OK
        if decided and _is_over(answer, amount):
            return _charge(key, outcome, answer)
        return _unknown(key, status)

    async def cancel(
        self,
        *,
        order_id: UUID,
        reference: str | None = None,  # noqa: ARG002 - the interface's
        amount: Money | None = None,
        timeout_s: float,
    ) -> ChargeAnswer:
        """Make sure that the order is never charged; CAPTURED or DECLINED if it was too late."""
        key = str(order_id)
        status, answer = await self._post(f"/v1/charges/{key}/cancel", key, timeout_s, body=None)
        if isinstance(answer, str):
            return ChargeAnswer(outcome=ChargeOutcome.UNSENT, reference=answer)
        outcome = _outcome(answer, key)
        if outcome is ChargeOutcome.CAPTURED and amount is not None and not _is_over(answer, amount):
            outcome = ChargeOutcome.UNKNOWN
        return _charge(key, outcome, answer) if status == HTTPStatus.OK else _unknown(key, status)

    async def refund(  # type: ignore[override]
        self, *, key: str, reference: str, amount: Money, timeout_s: float
    ) -> Refund | NoAnswer:
        """Give a part of a captured charge back, once per key; keys begin with the order's id."""
        path = f"/v1/charges/{key.partition(':')[0]}/refunds"
        status, answer = await self._post(path, key, timeout_s, body={"amountMinor": amount.minor})
        if isinstance(answer, str):
            return NoAnswer(kind=NoAnswerKind.UNSENT, reason=answer)
        if status == HTTPStatus.CONFLICT and answer.get("code") in REFUND_REFUSALS:
            return NoAnswer(kind=NoAnswerKind.REFUSED, reason=str(answer["code"]))
        said = (answer.get("key"), answer.get("status"), answer.get("amountMinor"))
        made = answer.get("id")
        if status != HTTPStatus.OK or said != (key, "refunded", amount.minor) or not isinstance(made, str):
            return NoAnswer(kind=NoAnswerKind.UNKNOWN, reason=f"status {status}")
        return Refund(
            reference=made, key=key, intent=reference, state=RefundState.SUCCEEDED, amount=amount, reason=None
        )

    async def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Read the whole ledger, in the gateway's order.

        Raises:
            GatewayMisuse: if the gateway refuses the call as such.
            Unavailable: if it is away, or breaks off, or says what cannot be understood.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=LEDGER_SILENCE_S, sock_read=LEDGER_SILENCE_S)
        try:
            async with self._open().get(
                f"{self._base_url}/v1/ledger", timeout=timeout, allow_redirects=False
            ) as response:
                _refuse_misuse(response.status)
                if response.status != HTTPStatus.OK:
                    raise Unavailable(f"The gateway's ledger was answered with {response.status}.")
                async for line in response.content:
                    yield _ledger_entry(json.loads(line))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"The gateway's ledger cannot be read: {type(error).__name__}.") from error

    async def _post(
        self, path: str, key: str, timeout_s: float, *, body: dict[str, Any] | None
    ) -> tuple[int, dict[str, Any] | str]:
        """Send one call. Returns status (0: no answer) and answer, or why the call is certainly unsent."""
        if _KEY.fullmatch(key) is None:
            raise GatewayMisuse("A gateway key has 1 to 255 letters, digits, '_', '.', ':' or '-'.")
        call = _Call()
        try:
            async with self._open().post(
                self._base_url + path,
                json=body,
                headers=outgoing() | ({"Idempotency-Key": key} if body is not None else {}),
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
                trace_request_ctx=call,
            ) as response:
                if response.status in MISUSE:
                    log.error("gateway.call_refused", status=response.status)
                if response.status in MISUSE | NOT_NOW:
                    return response.status, f"status {response.status}"
                answer = json.loads(await _read(response))
                return response.status, answer if isinstance(answer, dict) else {}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
            log.info("gateway.call_failed", key=key, error=type(error).__name__, sent=call.sent)
            return 0, {} if call.sent else type(error).__name__

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the gateway is not open: use it as an async context manager")
        return self._session


@dataclass(slots=True)
class _Call:
    """Whether anything of a call was written to a connection; until then the gateway cannot know of it."""

    sent: bool = False


def _telling_what_was_sent() -> aiohttp.TraceConfig:
    async def sending(_session: object, context: Any, _: object) -> None:
        if isinstance(context.trace_request_ctx, _Call):
            context.trace_request_ctx.sent = True

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(sending)
    return trace


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            raise ValueError("the answer is too long")
    return body


def _refuse_misuse(status: int) -> None:
    if status in MISUSE:
        log.error("gateway.call_refused", status=status)
        raise GatewayMisuse(f"The gateway refused the call itself with {status}.")


def _outcome(answer: dict[str, Any], key: str) -> ChargeOutcome:
    """Read what an answer says about `key`; a capture without its id is no definite answer."""
    said = answer.get("status")
    if answer.get("key") != key:
        return ChargeOutcome.UNKNOWN
    if said == "captured" and isinstance(answer.get("id"), str) and answer["id"]:
        return ChargeOutcome.CAPTURED
    if said == "declined":
        return ChargeOutcome.DECLINED
    if said == "cancelled":
        return ChargeOutcome.CANCELLED
    return ChargeOutcome.UNKNOWN


def _is_over(answer: dict[str, Any], amount: Money) -> bool:
    return (answer.get("amountMinor"), answer.get("currency")) == (amount.minor, amount.currency)


def _charge(key: str, outcome: ChargeOutcome, answer: dict[str, Any]) -> ChargeAnswer:
    if outcome is ChargeOutcome.UNKNOWN:
        return _unknown(key, HTTPStatus.OK)
    reference = answer.get("declineCode" if outcome is ChargeOutcome.DECLINED else "id")
    return ChargeAnswer(outcome=outcome, reference=reference if isinstance(reference, str) else None)


def _unknown(key: str, status: int) -> ChargeAnswer:
    if status:
        log.info("gateway.answer_unclear", key=key, status=status)
    return ChargeAnswer(outcome=ChargeOutcome.UNKNOWN, reference=None)


def _ledger_entry(line: Any) -> LedgerEntry:
    return LedgerEntry(
        key=str(line["key"]),
        status=str(line["status"]),
        amount_minor=int(line["amountMinor"]),
        currency=str(line["currency"]),
        refunded_minor=int(line["refundedMinor"]),
        captures=int(line["captures"]),
        reference=line.get("id"),
    )
