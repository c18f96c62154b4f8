"""What a browser sends to a page: the cookie of its session, forms, and the proof that a form is the page's own.

The cookie carries the login token that the API issues, so it ends with it: a sign-out everywhere, a new password or
another role ends the session in every browser. A plain sign-out takes the cookie from one browser.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from flashsale.domain.errors import Forbidden, InvalidInput
from flashsale.http.auth import TOKEN_BYTES_MAX, TOKEN_CHARS
from flashsale.http.bodies import WrongMediaType

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.http.messages import Headers, Request

NAME = b"flashsale"
"""One session for all pages: staff who sign in at one page are signed in at the others."""

LOGIN = b"flashsale-login"
"""A cookie that scripts may read. It names the login of the session, so a page sees that another tab began another."""

FIELDS_MAX = 64
"""Fields of a form or a query."""

_FORM = re.compile(rb'application/x-www-form-urlencoded(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)


def came_by_tls(request: Request) -> bool:
    """Return whether the browser uses TLS, as the proxy says.

    A client that forges the header only makes its own cookie one that it sends over TLS alone.
    """
    return request.fields.get(b"x-forwarded-proto", b"").strip().lower() == b"https"


def _name(request: Request, name: bytes = NAME) -> bytes:
    # A browser takes a cookie with this prefix only over TLS, from this host alone: no neighbour can plant one.
    return b"__Host-" + name if came_by_tls(request) else name


def session_token(request: Request) -> bytes | None:
    """Return the login token in the cookie of a request; None if there is none, or if two claim to be it."""
    name = _name(request)
    found = [
        value.strip(b" \t")
        for line in request.all(b"cookie")
        for key, _, value in (part.partition(b"=") for part in line.split(b";"))
        if key.strip(b" \t") == name
    ]
    if len(found) != 1 or not 0 < len(found[0]) <= TOKEN_BYTES_MAX or not TOKEN_CHARS.issuperset(found[0]):
        return None
    return found[0]


def account_tag(user_id: UUID, logged_in_at: int = 0) -> str:
    """Return what a browser keeps of an account, or of one login of it: it is not the id, and leads back to none."""
    told = user_id.bytes + logged_in_at.to_bytes(8)
    return hashlib.blake2b(told, digest_size=8, person=b"browser").hexdigest()


def begin_session(request: Request, token: str, login: str) -> Headers:
    """Return the headers that give the browser a session, and its scripts the name of the login.

    Both last until the token or the browser ends.
    """
    return [_cookie(request, NAME, token.encode("ascii")), _cookie(request, LOGIN, login.encode("ascii"))]


def end_session(request: Request) -> Headers:
    """Return the headers that take the session from the browser; the token itself still holds."""
    return [_cookie(request, name, b"", b"; Max-Age=0") for name in (NAME, LOGIN)]


def _cookie(request: Request, name: bytes, value: bytes, more: bytes = b"") -> tuple[bytes, bytes]:
    # No script reads the session, and no page of another site makes the browser send it.
    hidden = b"" if name == LOGIN else b"; HttpOnly"
    secure = b"; Secure" if came_by_tls(request) else b""
    cookie = b"%b=%b; Path=/%b; SameSite=Strict%b%b" % (_name(request, name), value, hidden, secure, more)
    return b"set-cookie", cookie


def require_same_origin(request: Request) -> None:
    """Refuse a request that a page of another origin may have sent; every page that changes something calls this first.

    Raises:
        Forbidden: unless `Sec-Fetch-Site` says that the page is ours; if the browser does not send it (an old one, or
            any without TLS), `Origin` must name this host.
    """
    if not _is_own(request, request.fields.get(b"origin", b"")):
        raise Forbidden("A page of another site sent this form, so nothing was changed; open the page here again.")


def _is_own(request: Request, origin: bytes) -> bool:
    """Return whether a page of this origin led here, as the browser says; without Sec-Fetch-Site by an `origin`."""
    site = request.fields.get(b"sec-fetch-site")
    if site is None:
        origin, host = origin.lower(), request.fields.get(b"host", b"").lower()
        own = host != b"" and origin in {b"http://" + host, b"https://" + host}
    else:
        own = site == b"same-origin"
    return own


def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form.

    Raises:
        WrongMediaType: if the body has another type.
        InvalidInput: if it cannot be read, or a field was sent twice.
    """
    if not request.body:
        return {}
    types = request.all(b"content-type")
    if len(types) != 1 or _FORM.fullmatch(types[0]) is None:
        raise WrongMediaType("Send a form: Content-Type: application/x-www-form-urlencoded.")
    return _fields(request.body, "form")


def query_of(request: Request) -> dict[str, str]:
    """Return the fields of a query; raises like `form_of`.

    `done`, by which a page tells what an action did, is left out unless a page of this origin led here: in a link of
    somebody else it would be untrue.
    """
    fields = _fields(request.query, "query") if request.query else {}
    if "done" in fields and not _is_own(request, _origin_of(request.fields.get(b"referer", b""))):
        del fields["done"]
    return fields


def _origin_of(url: bytes) -> bytes:
    return b"/".join(url.split(b"/", 3)[:3])


def _fields(sent: bytes, what: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            sent.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=FIELDS_MAX
        )
    except (UnicodeDecodeError, ValueError):
        raise InvalidInput(field=what, problem="cannot be read") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidInput(field=what, problem="has a field twice")
    return fields
