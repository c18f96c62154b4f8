"""The payment gateway over HTTP."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import structlog

from flashsale.usecases.ports import Charge, ChargeOutcome, LedgerEntry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashsale.domain.money import Money

log = structlog.get_logger(__name__)

LEDGER_TIMEOUT_S = 120.0
DEFINITE = {
    "captured": ChargeOutcome.CAPTURED,
    "declined": ChargeOutcome.DECLINED,
    "cancelled": ChargeOutcome.CANCELLED,
}
"""The only answers that say what became of the money. Everything else is unknown."""


class HttpGateway:
    """Implements `ports.PaymentGateway`; an async context manager. It never repeats a call by itself."""

    def __init__(self, base_url: str, secret: str, *, connections_max: int) -> None:
        """Send the bearer `secret` to `base_url` over at most `connections_max` connections."""
        self._base_url = base_url.rstrip("/")
        self._secret = secret
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections_max),
            headers={"Authorization": f"Bearer {self._secret}"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def charge(self, *, key: str, amount: Money, timeout_s: float) -> Charge:
        """Charge once per key, however often it is called."""
        body = {"amountMinor": amount.minor, "currency": amount.currency}
        return await self._ask(key, "/v1/charges", {"Idempotency-Key": key}, body, timeout_s)

    async def cancel(self, *, key: str, timeout_s: float) -> Charge:
        """Make sure that the key is never charged; CAPTURED if it was too late."""
        return await self._ask(key, f"/v1/charges/{key}/cancel", {}, {}, timeout_s)

    async def ledger(self) -> AsyncIterator[LedgerEntry]:
        """Read the whole ledger.

        Raises:
            aiohttp.ClientError: if the gateway cannot be read.
        """
        timeout = aiohttp.ClientTimeout(total=LEDGER_TIMEOUT_S)
        async with self._open().get(f"{self._base_url}/v1/ledger", timeout=timeout) as response:
            response.raise_for_status()
            async for line in response.content:
                entry = json.loads(line)
                yield LedgerEntry(
                    key=entry["key"],
                    status=entry["status"],
                    amount_minor=entry["amountMinor"],
                    refunded_minor=entry["refundedMinor"],
                    captures=entry["captures"],
                )

    async def _ask(
        self, key: str, path: str, headers: dict[str, str], body: dict[str, Any], timeout_s: float
    ) -> Charge:
        unknown = Charge(key=key, outcome=ChargeOutcome.UNKNOWN, reference=None)
        try:
            async with self._open().post(
                self._base_url + path, json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as response:
                answer = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.info("gateway.silent", key=key, error=type(error).__name__)
            return unknown
        if status not in (HTTPStatus.OK, HTTPStatus.CONFLICT) or not isinstance(answer, dict):
            if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
                log.error("gateway.refused_call", key=key, status=status)
            return unknown
        outcome = DEFINITE.get(str(answer.get("status")))
        if outcome is None or answer.get("key") != key:
            return unknown
        reference = answer.get("declineCode") if outcome is ChargeOutcome.DECLINED else answer.get("id")
        return Charge(key=key, outcome=outcome, reference=None if reference is None else str(reference))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the gateway is not open: use it as an async context manager")
        return self._session
