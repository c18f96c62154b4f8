"""Request ids: taken from the caller if sane, else made here; echoed, and bound to every log line of the request."""

from __future__ import annotations

import itertools
import re
import secrets
from typing import TYPE_CHECKING

from structlog.contextvars import bind_contextvars

if TYPE_CHECKING:
    from litestar.types import Scope

HEADER = b"x-request-id"

_SANE = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
"""What may go into a header and a log line as it came."""


class RequestIds:
    """Names the requests of a process: a random prefix and a number, which costs less than a random id each."""

    def __init__(self) -> None:
        """Choose this process' prefix."""
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def bind(self, scope: Scope) -> bytes:
        """Give the request's id and bind it as `request_id`; the server runs each request in a context of its own."""
        given = next((value for name, value in scope["headers"] if name == HEADER), None)
        if given is not None and _SANE.fullmatch(given) is not None:
            request_id = given.decode("ascii")
        else:
            request_id = f"{self._prefix}-{next(self._numbers):x}"
        bind_contextvars(request_id=request_id)
        return request_id.encode("ascii")
