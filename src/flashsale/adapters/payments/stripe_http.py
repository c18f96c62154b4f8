"""The HTTP client under the official library: one pool, a deadline, and whether a call was sent.

The library's own aiohttp client pools without our limit, has one timeout of 80 s, follows redirects, reads bodies of
any length and does not tell a call that was never sent from one whose answer was lost. The library takes another one.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import stripe

from flashsale.runtime.tracing import outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""A page of a hundred payment intents with their charges has about 0.5 MB."""


@dataclass(slots=True)
class Sending:
    """Whether anything of a call was written to a connection; until then the provider cannot know of it."""

    sent: bool = False


SENDING: ContextVar[Sending] = ContextVar("stripe_sending")
"""The call that this task makes: the library passes nothing of ours to its client."""


class NoAnswerError(Exception):
    """The network failed. The library does not know this error, so it passes it on at once."""


class PooledClient(stripe.HTTPClient):
    """Implements the library's client over one aiohttp session. It never repeats a call."""

    name = "aiohttp"

    def __init__(self, *, connections_max: int) -> None:
        """Open at most `connections_max` connections; further calls wait, and the wait is not `sent`."""
        super().__init__()
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Make the pool; nothing is sent yet."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections_max),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_telling_what_was_sent()],
            # The caller's own deadline counts.
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close_async(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send one call.

        Raises:
            NoAnswerError: if there is no whole answer.
        """
        if self._session is None:
            raise RuntimeError("the gateway is not open: use it as an async context manager")
        try:
            async with self._session.request(
                method,
                url,
                headers={**headers, **outgoing()},
                data=post_data,
                allow_redirects=False,
                trace_request_ctx=SENDING.get(),
            ) as response:
                body = b""
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > ANSWER_BYTES_MAX:
                        raise NoAnswerError("the answer is too long")
                return body, response.status, response.headers
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswerError(type(error).__name__) from error


def _telling_what_was_sent() -> aiohttp.TraceConfig:
    async def sending(_session: object, context: Any, _: object) -> None:
        context.trace_request_ctx.sent = True

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(sending)
    return trace
