"""A client of the API for the commands of the desk."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

ANSWER_S = 30.0
"""Maximum wait for an answer."""

TOKEN = "FLASHSALE_TOKEN"  # noqa: S105 - the name of a variable

url_option = click.option(
    "--url",
    envvar="FLASHSALE_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help=f"URL of the API, also in FLASHSALE_URL. The command sends the token that the variable {TOKEN} holds.",
)


@asynccontextmanager
async def open_api(url: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Open a connection; yields a function that sends a request and returns the decoded answer.

    A problem document or a missing answer ends the command with one line. A call with `missing` gets that for 404.
    """
    import aiohttp
    import msgspec

    async def ask(
        method: str,
        path: str,
        *,
        body: object = None,
        query: dict[str, str] | None = None,
        key: str | None = None,
        missing: object = ...,
    ) -> Any:
        sent = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        headers |= {} if key is None else {"Idempotency-Key": key}
        try:
            async with session.request(
                method, url.rstrip("/") + path, data=sent, params=query, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
                if answer.status == HTTPStatus.NOT_FOUND and missing is not ...:
                    return missing
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    sys.exit(f"flashsale: {url} answered {answer.status}: {_detail(content)}")
                return msgspec.json.decode(content)
        except (aiohttp.ClientError, TimeoutError, UnicodeError, msgspec.DecodeError) as error:
            sys.exit(f"flashsale: {url} does not answer as the API does: {type(error).__name__} {error}".rstrip())

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S), headers=_credentials()) as session:
        yield ask


async def read_parts(url: str, path: str, query: dict[str, str]) -> AsyncGenerator[bytes, None]:
    """Yield an answer part by part. An answer that is no success or is not whole ends the command with one line."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(sock_connect=ANSWER_S, sock_read=ANSWER_S)
    async with aiohttp.ClientSession(timeout=timeout, headers=_credentials()) as session:
        try:
            async with session.get(url.rstrip("/") + path, params=query, allow_redirects=False) as answer:
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    sys.exit(f"flashsale: {url} answered {answer.status}: {_detail(await answer.read())}")
                async for part in answer.content.iter_any():
                    yield part
        except aiohttp.ClientPayloadError:
            sys.exit(f"flashsale: {url} ended its answer too early; ask again.")
        except (aiohttp.ClientError, TimeoutError, UnicodeError) as error:
            sys.exit(f"flashsale: {url} does not answer as the API does: {type(error).__name__} {error}".rstrip())


def _credentials() -> dict[str, str]:
    token = os.environ.get(TOKEN)
    if not token:
        sys.exit(f"{TOKEN}: set the token of an administrator; `flashsale token EMAIL` prints one.")
    if not (token.isascii() and token.isprintable()):
        sys.exit(f"{TOKEN}: holds a line break or another character that no token has.")
    return {"Authorization": f"Bearer {token}"}


def _detail(content: bytes) -> str:
    """Return the detail of a problem document."""
    import msgspec

    try:
        return str(msgspec.json.decode(content)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no problem document"
