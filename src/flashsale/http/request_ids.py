"""Request ids: taken from the caller if sane, else made here; echoed, and bound to every log line of the request."""

from __future__ import annotations

import itertools
import re
import secrets

from flashsale.runtime.logs import REQUEST_ID

HEADER = b"x-request-id"

_SANE = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
"""What may go into a header and a log line as it came."""


class RequestIds:
    """Names the requests of a process: a random prefix and a number, which costs less than a random id each."""

    def __init__(self) -> None:
        """Choose this process' prefix."""
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = itertools.count(1)

    def bind(self, sent: bytes | None) -> bytes:
        """Return the request's id and bind it to the log lines; the server runs each request in its own context."""
        if sent is not None and _SANE.fullmatch(sent) is not None:
            request_id = sent
        else:
            request_id = b"%b-%x" % (self._prefix, next(self._numbers))
        REQUEST_ID.set(request_id)
        return request_id
