"""Request bodies of direct routes: read within a limit, decoded, or refused with what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from flashsale.domain.errors import InvalidInput
from flashsale.http.problems import BodyTooLarge

if TYPE_CHECKING:
    from litestar.types import Receive, Scope


T = TypeVar("T")


async def read_body(receive: Receive, length: bytes | None, *, limit: int) -> bytes:
    """Read a request body of at most `limit` bytes; `BodyTooLarge` as soon as it is more, or its `length` says so."""
    if length is not None and length.isdigit() and int(length) > limit:
        raise BodyTooLarge(f"The body may have {limit} bytes.")
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput(field="body", problem="ended before it was complete")
        body += message.get("body", b"")  # type: ignore[operator]
        if len(body) > limit:
            raise BodyTooLarge(f"The body may have {limit} bytes.")
        if not message.get("more_body"):
            return body


def declared_length(scope: Scope) -> bytes | None:
    """Give the value of Content-Length, as it came."""
    return next((value for name, value in scope["headers"] if name == b"content-length"), None)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, *, what: str) -> T:
    """Decode JSON; `InvalidInput` if it is none, or is not `what`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInput(field="body", problem=f"is not {what}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(field="body", problem="is not JSON") from error
