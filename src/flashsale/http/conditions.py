"""Entity tags and the conditions on them: RFC 9110, sections 8.8.3 and 13.1.

A tag is a digest of the body, so it changes with every byte of it: the version of a stock or an order, its time line,
and the form that a release gives it.
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
_TAGS = re.compile(rb"[ \t,]*%b(?:[ \t]*,(?:[ \t,]*%b)?)*[ \t,]*" % (_ENTITY, _ENTITY))


def tag_of(body: bytes, *, terms: bytes = b"") -> bytes:
    """Return the strong tag of a body; `terms` are put before its digest."""
    return b'"%b%b"' % (terms, hashlib.blake2b(body, digest_size=8).hexdigest().encode("ascii"))


def is_known(tag: bytes, if_none_match: Sequence[bytes]) -> bool:
    """Whether the client has what a tag names, by its If-None-Match; one that is no list of tags is ignored."""
    if not if_none_match:
        return False
    sent = b", ".join(if_none_match)
    if sent.strip() == ANY:
        return True
    return _TAGS.fullmatch(sent) is not None and tag in [one.removeprefix(b"W/") for one in _TAG.findall(sent)]


def wanted_tags(if_match: Sequence[bytes]) -> list[bytes] | None:
    """Return the tags of which a change wants one to be there, by its If-Match; None if it is content with anything.

    A weak tag is not among them: If-Match compares strongly, so it never holds.

    Raises:
        InvalidInput: if it is no list of tags: to change something all the same would be the worse mistake.
    """
    sent = b", ".join(if_match)
    if not if_match or sent.strip() == ANY:
        return None
    if _TAGS.fullmatch(sent) is None:
        raise InvalidInput(field="If-Match", problem='must be * or a list of entity tags such as "5f3a"')
    return [one for one in _TAG.findall(sent) if not one.startswith(b"W/")]
