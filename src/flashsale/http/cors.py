"""CORS: which other sites' pages may call the API from a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashsale.http.messages import Headers, Request

TAKEN = (
    b"authorization, content-type, flashsale-product, idempotency-key, if-match, if-none-match, last-event-id, "
    b"traceparent, tracestate, x-request-id"
)
SHOWN = (
    b"content-disposition, date, etag, location, ratelimit, ratelimit-policy, retry-after, "
    b"www-authenticate, x-request-id"
)
PREFLIGHT_S = 600


class Cors:
    """Header fields that tell a browser whether a page may read an answer. Tokens, not cookies, identify the caller."""

    def __init__(self, origins: Iterable[str], *, credentials: bool = False) -> None:
        """Allow these origins, `*` for all; `credentials`: their pages may send cookies, for a proxy in between."""
        self._origins = {origin.encode("ascii") for origin in origins}
        self._credentials = [(b"access-control-allow-credentials", b"true")] if credentials else []
        self.on = bool(self._origins)

    def headers(self, origin: bytes | None) -> Headers:
        """Return the fields of an answer to a page of this origin."""
        if not self.on:
            return []
        if b"*" in self._origins:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", SHOWN)]
        vary = (b"vary", b"origin")
        if origin is None or origin not in self._origins:
            return [vary]
        allowed = (b"access-control-allow-origin", origin)
        return [vary, allowed, *self._credentials, (b"access-control-expose-headers", SHOWN)]

    def fields(self, origin: bytes | None) -> bytes:
        """Return the fields of `headers` as lines."""
        return b"".join([b"%b: %b\r\n" % header for header in self.headers(origin)])

    def preflight(self, request: Request, allowed: bytes) -> Headers:
        """Return the fields that answer a preflight request, without those of every answer."""
        origin = request.fields.get(b"origin")
        if b"access-control-request-method" not in request.fields or not any(
            name == b"access-control-allow-origin" for name, _ in self.headers(origin)
        ):
            return []
        return [
            (b"access-control-allow-methods", allowed),
            (b"access-control-allow-headers", TAKEN),
            (b"access-control-max-age", b"%d" % PREFLIGHT_S),
        ]
