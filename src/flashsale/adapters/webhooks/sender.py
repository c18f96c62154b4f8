"""Sends webhooks, signed as https://www.standardwebhooks.com says, to public addresses only."""

from __future__ import annotations

import contextlib
import socket
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from standardwebhooks.webhooks import Webhook

from flashsale import __version__
from flashsale.domain.addresses import address_allowed
from flashsale.domain.messages import Failure, body_of
from flashsale.runtime.tracing import outgoing

if TYPE_CHECKING:
    from flashsale.domain.messages import Message, Target

DIGITS_MAX = 9
"""Digits of Retry-After that are read; a longer number is long enough anyway."""

HEAD_BYTES_MAX = 8190
"""Longest line and longest header of an answer; its body is not read."""


class AddressRefused(OSError):
    """The name of an endpoint leads to an address that is not public."""


class WebhookSender:
    """Implements `usecases.deliver.EndpointSender`; an async context manager."""

    def __init__(self, *, connections_max: int, loopback: bool) -> None:
        """Keep at most so many connections, with `loopback` also to this machine."""
        self._connections_max = connections_max
        self._loopback = loopback
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open the client: without cookies, proxies, redirects and connections that are used again."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections_max, force_close=True, socket_factory=self._socket, use_dns_cache=True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=HEAD_BYTES_MAX,
            max_field_size=HEAD_BYTES_MAX,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self._session.close()

    async def send(self, target: Target, message: Message) -> Failure | None:
        """Post a message; any answer of 200 to 299 means that the endpoint took it."""
        if target.url is None or target.secret is None:
            raise AssertionError
        body, message_id = body_of(message), f"msg_{message.message_id.hex}"
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"flashsale/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(target.secret).sign(message_id, now, body.decode()),
            **outgoing(),
        }
        try:
            async with self._session.post(
                target.url, data=body, headers=headers, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=None)
            ) as answer:
                status, asked = answer.status, answer.headers.get("Retry-After")
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, AddressRefused)
            return Failure(problem=str(error.os_error) if refused else "The endpoint cannot be reached.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Failure(problem=f"The endpoint gave no answer of HTTP ({type(error).__name__}).")
        if 200 <= status < 300:  # noqa: PLR2004 - what HTTP calls success
            return None
        told = " Redirects are not followed." if 300 <= status < 400 else ""  # noqa: PLR2004
        return Failure(problem=f"The endpoint answered {status}.{told}", retry_after_s=_seconds(asked))

    async def check(self, url: str, *, timeout_s: float) -> str | None:
        """Ask an endpoint with HEAD, which delivers nothing; any answer of HTTP will do. Returns what is wrong."""
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.head(url, timeout=timeout) as answer:
                await answer.release()
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, AddressRefused)
            return str(error.os_error) if refused else "The endpoint cannot be reached."
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"The endpoint gave no answer of HTTP ({type(error).__name__})."
        return None

    def _socket(self, found: Any) -> socket.socket:
        """Make the socket that connects to one resolved address: the last instant at which it can be refused, so that
        nothing is resolved again afterwards.
        """
        family, kind, protocol, _, address = found
        if not address_allowed(address[0], loopback=self._loopback):
            raise AddressRefused("The endpoint's name leads to an address that is not public.")
        made = socket.socket(family=family, type=kind, proto=protocol)
        with contextlib.suppress(BlockingIOError):
            made.setblocking(False)
        return made


def _seconds(asked: str | None) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110, section 10.2.3); None if there is none that can be read."""
    if asked is None:
        return None
    if asked.isascii() and asked.isdecimal():
        return float(asked[:DIGITS_MAX])
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
