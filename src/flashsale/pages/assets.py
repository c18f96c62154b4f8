"""Files of the pages, and the header fields that every page has."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from typing import TYPE_CHECKING

from flashsale.http.conditions import is_known, tag_of
from flashsale.http.messages import empty, rendered
from flashsale.http.problems import NO_SUCH_PATH
from flashsale.http.routing import Direct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flashsale.http.messages import Answer, Headers, Request

TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",
}
"""Media types by the end of a file's name; other files are not served."""

HTML = b"text/html; charset=utf-8"

NO_STORE = b"no-store"
FOR_EVER = b"public, max-age=31536000, immutable"
REVALIDATED = b"no-cache"

DIRECTIVES: Mapping[str, str] = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "font-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


def policy(**more: str) -> bytes:
    """Return a Content-Security-Policy; `more`: further sources by directive, with `_` for `-`."""
    added = {name.replace("_", "-"): sources for name, sources in more.items()}
    directives = {**dict.fromkeys(added, ""), **DIRECTIVES}
    return "; ".join(f"{name} {directives[name]} {added.get(name, '')}".strip() for name in directives).encode("ascii")


POLICY = policy()
"""A page takes scripts, styles and data from its own origin only, has none inline, and is in no frame."""

SECURITY: Headers = [
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
"""Fields of every page; `rendered` adds `X-Content-Type-Options`."""


def html(
    status: HTTPStatus,
    body: str,
    *headers: tuple[bytes, bytes],
    caching: bytes = NO_STORE,
    policy: bytes = POLICY,
) -> Answer:
    """Make an answer of a page."""
    fields = [(b"content-security-policy", policy), *SECURITY, (b"cache-control", caching), *headers]
    return rendered(status, body.encode(), *fields, media_type=HTML)


def conditional(request: Request, answer: Answer, tag: bytes) -> Answer:
    """Add an entity tag to an answer that may be cached; 304, with its other fields, if the client has the tag."""
    if not is_known(tag, request.all(b"if-none-match")):
        return answer.with_headers((b"etag", tag))
    kept = [field for field in answer.headers if not field[0].startswith((b"content-", b"x-content-"))]
    return empty(HTTPStatus.NOT_MODIFIED, *kept, (b"etag", tag))


class Assets:
    """Files of some folders under one digest, so that scripts can import one another by name.

    A page of another release may ask for another digest, during a roll or from a cache. It gets the present file, which
    it must revalidate.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        """Read the files.

        Raises:
            ValueError: if two files have one name.
        """
        self._bodies: dict[str, bytes] = {}
        for path in sorted(path for folder in folders for path in folder.iterdir() if path.suffix in TYPES):
            if path.name in self._bodies:
                raise ValueError(path.name)
            self._bodies[path.name] = path.read_bytes()
        whole = hashlib.blake2b(digest_size=8)
        for name, body in sorted(self._bodies.items()):
            whole.update(b"%b %d " % (name.encode(), len(body)) + body)
        self.digest = whole.hexdigest()

    def url(self, name: str) -> str:
        """Return the path of a file.

        Raises:
            KeyError: if there is none with this name.
        """
        if name not in self._bodies:
            raise KeyError(name)
        return f"/assets/{self.digest}/{name}"

    def routes(self) -> list[Direct]:
        """Make the route of the files."""
        return [Direct(template="/assets/{digest}/{name}", method="GET", serve=self._serve, operation=None)]

    async def _serve(self, request: Request) -> Answer:
        _, _, digest, name, *_ = request.path.split("/")
        body = self._bodies.get(name)
        if body is None:
            return NO_SUCH_PATH.with_headers((b"cache-control", NO_STORE))
        media_type = next(kind for suffix, kind in TYPES.items() if name.endswith(suffix))
        caching = FOR_EVER if digest == self.digest else REVALIDATED
        fields = [(b"cache-control", caching), (b"cross-origin-resource-policy", b"same-origin")]
        return conditional(request, rendered(HTTPStatus.OK, body, *fields, media_type=media_type), tag_of(body))
