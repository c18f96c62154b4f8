"""Request bodies: check the media type and decode strictly; a refusal names what is wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from flashsale.domain.errors import FlashSaleError, InvalidInput

if TYPE_CHECKING:
    from flashsale.http.messages import Request

T = TypeVar("T")

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
"""How msgspec ends what it says of a field."""
_FIELD = re.compile(r"(?:`\$\.|field `)(\w+)")
"""The field that it speaks of, also of one that is missing or unknown."""

JSON = b"application/json"
_JSON = re.compile(rb'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)


class WrongMediaType(FlashSaleError):
    """The Content-Type is not JSON. A page of another site can send JSON only after a preflight request."""

    code = "unsupported_media_type"


def body_of(request: Request, decoder: msgspec.json.Decoder[T], *, what: str) -> T:
    """Decode a JSON body.

    Raises:
        WrongMediaType: unless one Content-Type says JSON; a request with a token may leave it out.
        InvalidInput: with the field, if the body is not valid for `what`.
    """
    fields = request.fields
    if fields.get(b"content-type") != JSON or len(fields) != len(request.headers):
        types = request.all(b"content-type")
        # A page of another site can leave the type out without a preflight request, but it cannot send a token.
        unsaid = not types and b"authorization" in fields
        if not unsaid and (len(types) != 1 or _JSON.fullmatch(types[0]) is None):
            raise WrongMediaType("Send JSON, and Content-Type: application/json.")
    try:
        return decoder.decode(request.body)
    except msgspec.ValidationError as error:
        raise invalid(error, what=what) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(field="body", problem="is not JSON") from error


def invalid(error: msgspec.ValidationError, *, what: str) -> InvalidInput:
    """Return the refusal of values that do not fit the type of `what`, with the field."""
    said = str(error)
    named = _FIELD.search(said)
    return InvalidInput(
        field="body" if named is None else named[1], problem=f"is not what {what} takes: {_PLACE.sub('', said)}"
    )


def no_body(request: Request) -> None:
    """Refuse a body of a call that takes none.

    Raises:
        InvalidInput: if there is one.
    """
    if request.body and request.body != b"{}":
        raise InvalidInput(field="body", problem="is not taken by this call")
