"""Send buyers the code with which they set a new password.

The outbox keeps what it says for days; a code must be kept nowhere, and is no use after an hour. So a code is made when
its e-mail is sent, and the database gets its digest. A failed e-mail is tried again with another code.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.passwords import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.messages import Failure

log = structlog.get_logger(__name__)

AT_ONCE = 20
"""Most e-mails of one run."""

RETRY_S = 30.0
"""When a failed e-mail is sent again."""

KEPT_S = 86_400.0
"""For how long a request is kept: longer than any code may be used."""


class DueResets(Protocol):
    """The requests in Postgres."""

    async def claim(self, *, limit: int, lease_s: float) -> Sequence[tuple[UUID, str]]:
        """Begin a try of requests whose e-mail is due: account and address."""
        ...

    async def keep_code(self, user_id: UUID, digest: bytes, *, ttl_s: float) -> None:
        """Keep the digest of the code that is about to be sent; an older code ends."""
        ...

    async def end(self, user_id: UUID, digest: bytes) -> None:
        """Send no more e-mails about this code."""
        ...

    async def forget(self, *, older_s: float) -> None:
        """Forget old requests."""
        ...


class CodeSender(Protocol):
    """Sends e-mails with codes."""

    async def send_code(self, address: str, code: str, *, ttl_s: int) -> Failure | None:
        """Send a code; None if the mail server took it."""
        ...


class SendResets:
    """The use case."""

    def __init__(self, rows: DueResets, mails: CodeSender | None, *, ttl_s: int) -> None:
        """Without `mails` nobody gets a code."""
        self._rows = rows
        self._mails = mails
        self._ttl_s = ttl_s

    async def __call__(self) -> None:
        """Send the codes that are due, at the same time, and forget old requests.

        Raises:
            Unavailable: if Postgres is away.
        """
        await self._rows.forget(older_s=KEPT_S)
        if self._mails is None:
            return
        due = await self._rows.claim(limit=AT_ONCE, lease_s=RETRY_S)
        await asyncio.gather(*(self._send(self._mails, user_id, address) for user_id, address in due))

    async def _send(self, mails: CodeSender, user_id: UUID, address: str) -> None:
        code = secrets.token_urlsafe(32)
        digest = digest_of(code)
        try:
            await self._rows.keep_code(user_id, digest, ttl_s=self._ttl_s)
            async with asyncio.timeout(RETRY_S):
                failure = await mails.send_code(address, code, ttl_s=self._ttl_s)
            if failure is None or failure.final:
                await self._rows.end(user_id, digest)
        except TimeoutError:
            log.info("reset.failed", user_id=str(user_id), reason="no answer")
        except FlashSaleError as error:
            log.info("reset.failed", user_id=str(user_id), reason=error.detail)
        except Exception:
            # What is wrong with one e-mail must not delay the others.
            log.exception("reset.broken", user_id=str(user_id))
        else:
            log.info("reset.sent" if failure is None else "reset.failed", user_id=str(user_id))
