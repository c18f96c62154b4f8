"""What every page of the console has: who may open it, its layout, and what is shown where it refuses.

A page or action names the operation of the API that it is for people. Its roles, and its name in the trail, are that
operation's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

import structlog

from flashsale.domain.errors import FlashSaleError, InvalidInput, KeyReused, Unauthenticated
from flashsale.domain.requests import AdminRequest, check_key
from flashsale.http.messages import Answer, rendered
from flashsale.http.operations import ROLES
from flashsale.http.problems import problem_of
from flashsale.http.queries import NUMBER, UUID
from flashsale.http.routing import Direct
from flashsale.pages.assets import html
from flashsale.pages.console.shown import DONE, FILTERS
from flashsale.pages.session import form_of, query_of, require_same_origin, session_token
from flashsale.pages.templates import environment
from flashsale.runtime.logs import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.users import Role, User
    from flashsale.http.messages import Request
    from flashsale.http.operations import Operation
    from flashsale.http.pages import PageParts
    from flashsale.pages.assets import Assets

log = structlog.get_logger(__name__)

HOME = "/console"
SIGN_IN = "/console/sign-in"

_PARAMETER = re.compile(r"\{(\w+):(\w+)\}")
_KINDS = {"int": NUMBER, "uuid": UUID}
_KEPT = (b"retry-after", b"ratelimit", b"ratelimit-policy")
"""Fields of a problem that a page's refusal has too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Who may do something, and how the trail calls it."""

    name: str
    roles: frozenset[Role]


def as_in_api(operation: Operation) -> Right:
    """Return the right of an operation of the API."""
    return Right(name=operation.name, roles=operation.roles)


def of_staff(name: str, caller: str) -> Right:
    """Return a right to something that the API does not have; `caller` as operations name it."""
    return Right(name=name, roles=ROLES[caller])


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A request of somebody who may make it."""

    request: Request
    user: User
    ids: Mapping[str, str]
    """The ids in the path."""
    query: Mapping[str, str]
    form: Mapping[str, str]
    """What was sent; empty for a look at a page."""
    error: FlashSaleError | None = None
    """Why what the form asks for was refused: the page with the form is shown again."""

    def number(self, name: str) -> int:
        """Return a number of the path."""
        return int(self.ids[name])

    def field(self, name: str) -> str:
        """Return a field of the form without the space around it; empty: it was left empty.

        Raises:
            InvalidInput: if the form has no such field.
        """
        if name not in self.form:
            raise InvalidInput(field=name, problem="is missing")
        return self.form[name].strip()


View = Callable[[Visit], Awaitable[Answer]]
Act = Callable[[Visit, AdminRequest], Awaitable[str | Answer]]
"""Does what a form asks for; returns the path of the page to go to, or a page that is shown once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page to look at."""

    path: str
    right: Right
    view: View


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a form does."""

    path: str
    right: Right
    act: Act
    form: View
    """The page with the form."""


class Frame:
    """Makes routes of pages and actions, and renders them."""

    def __init__(self, parts: PageParts, assets: Assets) -> None:
        """Keep the parts, and read the templates."""
        self.parts = parts
        self.services = parts.services
        self._rights: dict[str, frozenset[Role]] = {}
        self._templates = environment(Path(__file__).parent / "templates")
        self._templates.filters |= FILTERS
        self._templates.globals |= {"asset": assets.url}

    def routes(self, pages: Sequence[Page], actions: Sequence[Action]) -> list[Direct]:
        """Make the routes."""
        rights = [*(one.right for one in pages), *(one.right for one in actions)]
        self._rights |= {right.name: right.roles for right in rights}
        paths = {one.path: one.path for one in pages}
        forms = {one.view: one.path for one in pages}
        acts = [(one, _place(one.path, paths.get(one.path) or forms[one.form])) for one in actions]
        return [
            *(Direct(template=one.path, method="GET", serve=self._page(one), operation=None) for one in pages),
            *(
                Direct(template=one.path, method="POST", serve=self._action(one, at), operation=None)
                for one, at in acts
            ),
            *(
                Direct(template=one.path, method="GET", serve=_lead(at), operation=None)
                for one, at in acts
                if one.path not in paths
            ),
        ]

    def render(self, visit: Visit, template: str, **values: object) -> Answer:
        """Render a page, with the status of the refusal that it shows."""
        problem = None if visit.error is None else problem_of(visit.error)
        shown = self._templates.get_template(template).render(
            user=visit.user,
            may=lambda name: visit.user.role in self._rights[name],
            path=visit.request.path,
            here=b"?".join(filter(None, (visit.request.path.encode("latin-1"), visit.request.query))).decode("latin-1"),
            query=visit.query,
            form=visit.form,
            error=visit.error,
            done=DONE.get(visit.query.get("done", "")),
            # A key that belongs to something else never fits again.
            key=(not isinstance(visit.error, KeyReused) and visit.form.get("key")) or str(uuid4()),
            **values,
        )
        if problem is None:
            return html(HTTPStatus.OK, shown)
        kept = [field for field in problem.headers if field[0] in _KEPT]
        return html(HTTPStatus(problem.status), shown, *kept)

    def public(self, template: str, error: FlashSaleError | None = None, **values: object) -> Answer:
        """Render a page for somebody who is not signed in."""
        problem = None if error is None else problem_of(error)
        shown = self._templates.get_template(template).render(user=None, error=error, **values)
        kept = [] if problem is None else [field for field in problem.headers if field[0] in _KEPT]
        return html(HTTPStatus.OK if problem is None else HTTPStatus(problem.status), shown, *kept)

    def _page(self, page: Page) -> Callable[[Request], Awaitable[Answer]]:
        ids = _ids(page.path)

        async def serve(request: Request) -> Answer:
            try:
                visit = await self._admit(request, page.right, ids)
                try:
                    return await page.view(visit)
                except FlashSaleError as error:
                    return self.render(replace(visit, error=error), "refused.html")
            except FlashSaleError as error:
                return self._refused(request, error)

        return serve

    def _action(self, action: Action, place: Callable[[Request], str]) -> Callable[[Request], Awaitable[Answer]]:
        ids = _ids(action.path)

        async def serve(request: Request) -> Answer:
            try:
                require_same_origin(request)
                visit = replace(await self._admit(request, action.right, ids), form=form_of(request))
            except Unauthenticated:
                ended = Unauthenticated("You are not signed in, or no longer: nothing was changed.")
                return self.public("sign-in.html", ended, next=place(request), email="")
            except FlashSaleError as error:
                return self._refused(request, error)
            try:
                done = await action.act(visit, self._wanted(visit, action.right.name))
                return see(done) if isinstance(done, str) else done
            except FlashSaleError as error:
                refused = replace(visit, error=error)
            try:
                return await action.form(refused)
            except FlashSaleError:
                return self.render(refused, "refused.html")

        return serve

    async def _admit(self, request: Request, right: Right, ids: re.Pattern[str]) -> Visit:
        """Return the visit of somebody who has a right.

        Raises:
            Unauthenticated: if nobody is signed in, or the session has ended.
            Forbidden: if the account has another role.
            RateLimited: if the account sends too many requests.
        """
        token = session_token(request)
        if token is None:
            raise Unauthenticated("Sign in first.")
        principal = self.parts.tokens.verify(token)
        request.extra = self.parts.limits.administration.take(principal.user_id.int)
        await self.services.sessions.require(principal, right.roles)
        user = await self.services.users.account(principal.user_id)
        found = ids.fullmatch(request.path)
        if user is None or found is None:
            raise Unauthenticated("Sign in first.")
        return Visit(request=request, user=user, ids=found.groupdict(), query=query_of(request), form={})

    def _wanted(self, visit: Visit, name: str) -> AdminRequest:
        """Return what the trail and the idempotency key need. A form that is sent twice acts once: it carries a key."""
        sent = sorted((name, value) for name, value in visit.form.items() if name != "key")
        what = f"POST {visit.request.path}\n{sent!r}".encode()
        return AdminRequest(
            user_id=visit.user.user_id,
            key=check_key(visit.field("key")),
            fingerprint=hashlib.blake2b(what, digest_size=16).digest(),
            action=name,
            origin=self.origin(visit.request),
            request_id=REQUEST_ID.get(b"").decode("ascii") or None,
        )

    def origin(self, request: Request) -> str:
        """Return the client's address, as the trail names it."""
        return str(self.parts.addresses.whole(request) or "unknown")

    def _refused(self, request: Request, error: FlashSaleError) -> Answer:
        if not isinstance(error, Unauthenticated):
            return self.public("refused.html", error)
        if b"hx-request" in request.fields:
            # The script of a page that is open: it leaves for the sign-in.
            return self.public("refused.html", error).with_headers((b"hx-redirect", SIGN_IN.encode()))
        return see(f"{SIGN_IN}?next={quote(request.path)}")


def see(path: str, *headers: tuple[bytes, bytes]) -> Answer:
    """Send the browser to a page, which it gets by GET."""
    return html(HTTPStatus.SEE_OTHER, "", (b"location", path.encode("ascii")), *headers)


def csv_file(name: str, body: bytes) -> Answer:
    """Return a file that the browser saves."""
    saved = (b"content-disposition", f'attachment; filename="{name}"'.encode("ascii"))
    return rendered(HTTPStatus.OK, body, (b"cache-control", b"no-store"), saved, media_type=b"text/csv; charset=utf-8")


def _place(path: str, page: str) -> Callable[[Request], str]:
    """Return a function that gives the path of the page which has the form of a request."""
    ids = _ids(path)

    def place(request: Request) -> str:
        found = ids.fullmatch(request.path)
        return _PARAMETER.sub(lambda one: "" if found is None else found[one[1]], page)

    return place


def _lead(place: Callable[[Request], str]) -> Callable[[Request], Awaitable[Answer]]:
    """Return what leads a browser that asks for the path of a form to the page that has the form."""

    async def serve(request: Request) -> Answer:
        return see(place(request))

    return serve


def _ids(path: str) -> re.Pattern[str]:
    return re.compile(_PARAMETER.sub(lambda found: f"(?P<{found[1]}>{_KINDS[found[2]]})", path) + "/?", re.ASCII)
