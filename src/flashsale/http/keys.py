"""The header Idempotency-Key: a string of RFC 9651 (draft-ietf-httpapi-idempotency-key-header), or its bare text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flashsale.domain.errors import InvalidInput
from flashsale.domain.requests import KEY_BYTES_MAX, check_key

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELD = "Idempotency-Key"

_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_WORD = r"[A-Za-z*][\w!#$%&'*+.^`|~:/-]*"
_NUMBER = r"-?[0-9]{1,15}|-?[0-9]{1,12}\.[0-9]{1,3}"
_BYTES = r":[A-Za-z0-9+/=]*:"
_DATE = r"@-?[0-9]{1,15}"
_DISPLAY = r'%"(?:[ !#$&-~]|%[0-9a-f]{2})*"'
_VALUE = rf"(?:{_NUMBER}|{_STRING}|{_WORD}|{_BYTES}|\?[01]|{_DATE}|{_DISPLAY})"
_ITEM = re.compile(rf"({_STRING})(?:;[ ]*[a-z*][a-z0-9_.*-]*(?:={_VALUE})?)*", re.ASCII)
"""A string and its parameters, of which none is defined."""

_ESCAPED = re.compile(r'\\(["\\])')


def sent_key(sent: Sequence[bytes]) -> str:
    """Return the key that the header holds; `"A3"` and `A3` are the same key.

    Raises:
        InvalidInput: if it was sent twice, or holds no string and no bare key.
    """
    if len(sent) > 1:
        raise InvalidInput(field=FIELD, problem="was sent twice")
    text = sent[0].decode("latin-1")
    if not text.startswith('"'):
        return check_key(text)
    item = _ITEM.fullmatch(text)
    if item is None:
        raise InvalidInput(field=FIELD, problem='must be a string such as "8e03978e-40d5-43e8-bc93-6894a57f9324"')
    key = _ESCAPED.sub(r"\1", item[1][1:-1])
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise InvalidInput(field=FIELD, problem=f"must be 1 to {KEY_BYTES_MAX} printable ASCII characters")
    return key
