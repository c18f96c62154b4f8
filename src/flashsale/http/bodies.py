"""Request bodies of direct routes: read within a limit, decoded, or refused with what is wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import msgspec
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from flashsale.domain.errors import InvalidInput
from flashsale.http.problems import BodyTooLarge

if TYPE_CHECKING:
    from litestar.types import Receive, Scope


T = TypeVar("T")

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
"""How msgspec ends what it says of a field."""
_FIELD = re.compile(r"(?:`\$\.|field `)(\w+)")
"""The field that it speaks of, also of one that is missing or unknown."""


async def read_body(receive: Receive, length: bytes | None, *, limit: int) -> bytes:
    """Read a request body of at most `limit` bytes; `BodyTooLarge` as soon as it is more, or its `length` says so."""
    if length is not None and length.isdigit() and int(length) > limit:
        raise BodyTooLarge(f"The body may have {limit} bytes.")
    cycle = getattr(receive, "__self__", None)
    if isinstance(cycle, RequestResponseCycle) and not (cycle.more_body or cycle.disconnected):
        # All of it is here, as nearly always: taken without the coroutine and the message that would hand it over.
        return _within(limit, bytes(cycle.body))
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput(field="body", problem="ended before it was complete")
        body = _within(limit, body + message.get("body", b""))  # type: ignore[operator]
        if not message.get("more_body"):
            return body


def _within(limit: int, body: bytes) -> bytes:
    if len(body) > limit:
        raise BodyTooLarge(f"The body may have {limit} bytes.")
    return body


def declared_length(scope: Scope) -> bytes | None:
    """Give the value of Content-Length, as it came."""
    return next((value for name, value in scope["headers"] if name == b"content-length"), None)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, *, what: str) -> T:
    """Decode JSON; `InvalidInput`, which names the field, if it is none or not what `what` takes."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        said = str(error)
        named = _FIELD.search(said)
        problem = f"is not what {what} takes: {_PLACE.sub('', said)}"
        raise InvalidInput(field="body" if named is None else named[1], problem=problem) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(field="body", problem="is not JSON") from error
