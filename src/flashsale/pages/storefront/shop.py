"""What all pages of the storefront share: rendering, redirects, the visitor, and errors as pages."""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog

from flashsale.domain.cells import Cells
from flashsale.domain.errors import FlashSaleError, InvalidInput, RateLimited, Refused, Unauthenticated
from flashsale.http.cells import as_of_cell
from flashsale.http.conditions import tag_of
from flashsale.http.messages import empty
from flashsale.http.problems import INTERNAL, problem_of
from flashsale.http.routing import Direct
from flashsale.pages.assets import NO_STORE, POLICY, SECURITY, conditional, html
from flashsale.pages.session import require_same_origin, session_token
from flashsale.pages.storefront.texts import LANGUAGES, texts_of
from flashsale.pages.templates import environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from flashsale.domain.users import Principal
    from flashsale.http.messages import Answer, Request
    from flashsale.http.pages import PageParts
    from flashsale.pages.assets import Assets
    from flashsale.pages.storefront.texts import Texts

    Page = Callable[[Request], Awaitable[Answer]]
    OwnPage = Callable[[Request, Principal], Awaitable[Answer]]

log = structlog.get_logger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
PUBLIC = b"public, max-age=10, stale-while-revalidate=60, stale-if-error=86400"
"""Caching of pages that are the same for every visitor. A cache may show them while the shop is away."""
MISSING = b"public, max-age=1"
"""Caching of a product that is not there, or no longer: a cache stores it in the place of the page that it has."""
VARY = (b"vary", b"accept-language")

_NEXT = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this site: another slash or a backslash after the first would name another host."""
_ACTION = re.compile("/(pay|cancel|refund)/?$")
"""The end of the path of a form, without which it is the page that has the form."""

ORDERS, SIGN_IN = "/orders", "/sign-in"


class Shop:
    """The storefront of an API process."""

    def __init__(self, parts: PageParts, assets: Assets) -> None:
        """Keep the parts, and read the templates."""
        self.parts = parts
        self.services = parts.services
        self.settings = parts.services.settings
        self._cells = Cells(number=self.settings.cell.number, count=self.settings.cell.count)
        self._templates = environment(TEMPLATES)
        self._templates.globals.update(asset=assets.url, shop=self.settings.pages.shop_name, languages=LANGUAGES)
        cells = self.settings.cell
        paths = {cell: f"/cells/{cell}" if cell else "" for cell in range(cells.count)}
        listed = list(paths.items()) if cells.count > 1 else []
        self._home = paths[cells.number]
        self._templates.globals.update(cells=listed, here=cells.number, home=self._home)

    def render(self, request: Request, template: str, values: Mapping[str, Any]) -> str:
        """Fill a template with values, and with the visitor's texts as `t`.

        `kept` of the values: the query, without the language, of the same page in another language.
        """
        shared = {"t": texts_of(request), "path": request.path, "address": self._address(request.path), "kept": ""}
        return self._templates.get_template(template).render({**shared, **values})

    def page(
        self,
        request: Request,
        template: str,
        *headers: tuple[bytes, bytes],
        status: HTTPStatus = HTTPStatus.OK,
        policy: bytes = POLICY,
        **values: Any,
    ) -> Answer:
        """Answer with a page of this visitor, which no cache may keep."""
        return html(status, self.render(request, template, values), *headers, caching=NO_STORE, policy=policy)

    def public(self, request: Request, body: str) -> Answer:
        """Answer with a page that is the same for every visitor of a language, with its tag."""
        answer = html(HTTPStatus.OK, body, VARY, caching=PUBLIC)
        return conditional(request, answer, tag_of(answer.body))

    def missing(self, request: Request, error: FlashSaleError) -> Answer:
        """Answer that there is no such page, the same for every visitor of a language: it replaces a cache's copy."""
        error = self.of_cell(request, error)
        body = self.render(request, "problem.html", {"told": told(texts_of(request), error)})
        return html(HTTPStatus(problem_of(error).status), body, VARY, caching=MISSING)

    def of_cell(self, request: Request, error: FlashSaleError) -> FlashSaleError:
        """Return the error that a request gets in this cell of the shop."""
        return as_of_cell(self._cells, error, request.path)

    def redirect(self, request: Request, path: str, *headers: tuple[bytes, bytes]) -> Answer:
        """Lead the browser to a path of the shop with a GET."""
        location = (b"location", texts_of(request).url(path).encode())
        return empty(HTTPStatus.SEE_OTHER, location, (b"cache-control", NO_STORE), *SECURITY, *headers)

    def moved(self, request: Request, path: str) -> Answer:
        """Lead every visitor to another path for ever; the answer replaces a cache's copy of the page."""
        location = (b"location", texts_of(request).url(path).encode())
        return empty(HTTPStatus.SEE_OTHER, location, (b"cache-control", MISSING), VARY, *SECURITY)

    def to_sign_in(self, request: Request, path: str) -> Answer:
        """Lead a visitor without a session to the sign-in, and from there to `path`.

        A browser that comes from another site, such as the payment provider's, leaves the session's cookie out. A page
        of our own that loads `path` again gets it.
        """
        if request.method == "GET" and request.fields.get(b"sec-fetch-site") == b"cross-site":
            return self.page(request, "come_in.html", to=texts_of(request).url(path))
        return self.redirect(request, f"{SIGN_IN}?next={quote(path)}")

    def _address(self, path: str) -> str:
        """Return where the router finds a page of this cell: each cell has the lists, and other paths name theirs."""
        return self._home + path if path in {"/", ORDERS} else path

    def visitor(self, request: Request) -> Principal | None:
        """Return the account of the session, if it holds."""
        token = session_token(request)
        try:
            return None if token is None else self.parts.tokens.verify(token)
        except Unauthenticated:
            return None

    def own(self, page: OwnPage) -> Page:
        """Return a page of orders that asks for a session, and counts under the account's limit."""

        async def serve(request: Request) -> Answer:
            principal = self.visitor(request)
            if principal is None:
                return self.to_sign_in(request, self._address(_ACTION.sub("", request.path)))
            request.extra = self.parts.limits.orders.take(principal.user_id.int)
            return await page(request, principal)

        return serve

    def routes(self, pages: Iterable[tuple[str, str, Page]]) -> list[Direct]:
        """Make routes of methods, paths and pages. A form must come from a page of this origin."""
        return [
            Direct(template=path, method=method, serve=self._served(page), operation=None)
            for method, path, page in pages
        ]

    def _served(self, page: Page) -> Page:
        """Return a page that answers every error as a page."""

        async def serve(request: Request) -> Answer:
            try:
                if request.method == "POST":
                    require_same_origin(request)
                return await page(request)
            except FlashSaleError as error:
                return self.refusal(request, error)
            except Exception:
                log.exception("page.failed", path=request.path)
                request.extra = b""
                return self.page(
                    request,
                    "problem.html",
                    status=HTTPStatus(INTERNAL.status),
                    told=texts_of(request)("error.other"),
                )

        return serve

    def refusal(self, request: Request, error: FlashSaleError, template: str = "problem.html", **values: Any) -> Answer:
        """Answer a domain error with a page that says what to do."""
        error = self.of_cell(request, error)
        if isinstance(error, RateLimited):
            request.extra = b""
        problem = problem_of(error)
        status = HTTPStatus(problem.status)
        if status is HTTPStatus.UNAUTHORIZED:
            # A form has no scheme of authentication to ask for.
            status = HTTPStatus.UNPROCESSABLE_ENTITY
        kept = [field for field in problem.headers if field[0] in {b"retry-after", b"ratelimit", b"ratelimit-policy"}]
        return self.page(request, template, *kept, status=status, told=told(texts_of(request), error), **values)


def refused_key(texts: Texts, error: Refused) -> str:
    """Return the text of a refused buy, which scripts show too."""
    key = f"js.refused.{error.code}"
    return key if texts.has(key) else "js.refused.other"


def told(texts: Texts, error: FlashSaleError) -> str:
    """Return what a visitor is told of an error."""
    if isinstance(error, InvalidInput):
        key = f"error.invalid.{error.field}"
        return texts(key if texts.has(key) else "error.invalid_input", detail=error.detail)
    if isinstance(error, Refused):
        return texts(refused_key(texts, error))
    key = f"error.{error.code}"
    # The texts have no singular.
    seconds = max(2, getattr(error, "retry_after_s", 1))
    return texts(key if texts.has(key) else "error.other", seconds=seconds)


def next_path(given: str | None, otherwise: str = "/") -> str:
    """Return a path of this site to go to after a form, whatever was asked for."""
    return given if given is not None and _NEXT.fullmatch(given) else otherwise
