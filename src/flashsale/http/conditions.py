"""Entity tags and the conditions on them: RFC 9110, sections 8.8.3 and 13.1.

A tag is a digest of the body, so it changes with every byte: with the version of a stock or an order, with the time
line, and with the form that another release gives the body. The tag of a product is weak: a digest of all but the time
of the answer.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from flashsale.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY = b"*"

TAGGED = ("/api/", "/problems/", "/schema")
"""How the paths begin of which a GET that succeeds has a tag."""

_ENTITY = rb'(?:W/)?"[!#-~\x80-\xff]*"'
_TAG = re.compile(_ENTITY)
# Possessive: otherwise the time for a list that ends wrongly grows with the square of its commas.
_TAGS = re.compile(rb"[ \t,]*+%b(?:[ \t]*+,[ \t,]*+%b)*+[ \t,]*+" % (_ENTITY, _ENTITY))


def tag_of(body: bytes, *, terms: bytes = b"") -> bytes:
    """Return the strong tag of a body; `terms` are put before its digest."""
    return b'"%b%b"' % (terms, hashlib.blake2b(body, digest_size=8).hexdigest().encode("ascii"))


def is_known(tag: bytes, if_none_match: Sequence[bytes]) -> bool:
    """Whether If-None-Match says that the client has this tag; a header that is not a list of tags is ignored."""
    if not if_none_match:
        return False
    sent = b", ".join(if_none_match)
    if sent.strip() == ANY:
        return True
    wanted = tag.removeprefix(b"W/")
    return _TAGS.fullmatch(sent) is not None and wanted in [one.removeprefix(b"W/") for one in _TAG.findall(sent)]


def wanted_tags(if_match: Sequence[bytes]) -> list[bytes] | None:
    """Return the tags of a change's If-Match, one of which must be current; None if the change has no condition.

    Weak tags are left out: If-Match compares strongly, so a weak tag never matches.

    Raises:
        InvalidInput: if it is not a list of tags; a change without its condition would be worse than a refusal.
    """
    sent = b", ".join(if_match)
    if not if_match or sent.strip() == ANY:
        return None
    if _TAGS.fullmatch(sent) is None:
        raise InvalidInput(field="If-Match", problem='must be * or a list of entity tags such as "5f3a"')
    return [one for one in _TAG.findall(sent) if not one.startswith(b"W/")]
