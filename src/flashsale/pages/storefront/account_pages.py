"""Accounts: sign in, register, set a new password, sign out; and the script's token."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from flashsale.domain.errors import BadCredentials, FlashSaleError
from flashsale.domain.users import STAFF
from flashsale.http.messages import rendered
from flashsale.http.routes.accounts import ANSWER_S, LOG_OUT, author, lasting
from flashsale.pages.assets import NO_STORE
from flashsale.pages.session import account_tag, begin_session, end_session, form_of, query_of, session_token
from flashsale.pages.storefront.shop import ORDERS, SIGN_IN, next_path
from flashsale.pages.storefront.texts import texts_of

if TYPE_CHECKING:
    from flashsale.domain.users import User
    from flashsale.http.messages import Answer, Request
    from flashsale.http.routing import Direct
    from flashsale.pages.storefront.shop import Page, Shop

REGISTER, PASSWORD, SIGN_OUT, SESSION = "/register", "/password", "/sign-out", "/session"
PASSWORD_MAX, EMAIL_MAX, CODE_MAX = 128, 254, 2048
FORGET = (b"clear-site-data", b'"storage"')
"""Takes what scripts keep of orders from a browser that the next person may use."""


class AccountPages:
    """The pages of accounts."""

    def __init__(self, shop: Shop) -> None:
        """Keep the shop."""
        self._shop = shop
        self._accounts, self._sessions = shop.services.accounts, shop.services.sessions
        self._tokens, self._addresses = shop.parts.tokens, shop.parts.addresses

    def routes(self) -> list[Direct]:
        """Make the routes."""
        return self._shop.routes(
            [
                ("GET", SIGN_IN, self._form("sign_in.html")),
                ("POST", SIGN_IN, self.sign_in),
                ("GET", REGISTER, self._form("register.html")),
                ("POST", REGISTER, self.register),
                ("GET", PASSWORD, self._form("password.html")),
                ("POST", PASSWORD, self.password),
                ("POST", SIGN_OUT, self.sign_out),
                ("GET", SIGN_OUT, self.signed_out),
                ("POST", SESSION, self.session),
            ]
        )

    def _form(self, template: str) -> Page:
        async def serve(request: Request) -> Answer:
            return self._shop.page(request, template, told="", **_kept(query_of(request)))

        return serve

    async def sign_in(self, request: Request) -> Answer:
        """Begin a session by e-mail address and password."""
        sent = form_of(request)
        own = self._shop.visitor(request)
        try:
            user = await self._accounts.log_in(
                email=sent.get("email", "")[:EMAIL_MAX],
                password=sent.get("password", "")[: PASSWORD_MAX + 1],
                address=self._addresses.of(request),
                session=None if own is None else own.user_id,
            )
        except FlashSaleError as error:
            if not isinstance(self._shop.of_cell(request, error), BadCredentials):
                return self._shop.refusal(request, error, "sign_in.html", **_kept(sent))
            told = texts_of(request)("sign_in.wrong")
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return self._shop.page(request, "sign_in.html", status=status, told=told, **_kept(sent))
        return self._signed_in(request, user, sent.get("next"))

    async def register(self, request: Request) -> Answer:
        """Make an account, and begin a session."""
        sent = form_of(request)
        try:
            user = await self._accounts.register(
                name=sent.get("name", ""), email=sent.get("email", ""), password=sent.get("password", "")
            )
        except FlashSaleError as error:
            return self._shop.refusal(request, error, "register.html", **_kept(sent))
        return self._signed_in(request, user, sent.get("next"))

    async def password(self, request: Request) -> Answer:
        """Send a code for a new password, or set the password by a code."""
        sent = form_of(request)
        try:
            if "code" in sent:
                code = sent["code"].strip()[:CODE_MAX]
                await self._sessions.reset_by_code(code, password=sent.get("password", ""))
                return self._shop.redirect(request, f"{SIGN_IN}?done=password")
            async with lasting(ANSWER_S):
                email, address = sent.get("email", "")[:EMAIL_MAX], self._addresses.of(request)
                await self._sessions.request_reset(email=email, address=address)
        except FlashSaleError as error:
            return self._shop.refusal(request, error, "password.html", **_kept(sent))
        return self._shop.page(request, "password.html", told=texts_of(request)("password.sent"), **_kept(sent))

    async def sign_out(self, request: Request) -> Answer:
        """End the session in this browser, or all sessions and tokens of the account."""
        principal = self._shop.visitor(request)
        if principal is not None and "all" in form_of(request):
            await self._sessions.sign_out(principal, by=author(principal, LOG_OUT, self._addresses, request))
        return self._shop.redirect(request, "/", *end_session(request), FORGET)

    async def signed_out(self, request: Request) -> Answer:
        """Lead a browser that asks for the path of the form to the page that has it."""
        return self._shop.redirect(request, ORDERS)

    async def session(self, request: Request) -> Answer:
        """Give the script of a page a token for the API that soon expires, and prolong the session.

        Staff get neither: no script of the storefront needs their rights, and their session ends with their login.
        """
        principal, token = self._shop.visitor(request), session_token(request)
        caching = (b"cache-control", NO_STORE)
        if principal is None or token is None:
            return rendered(HTTPStatus.OK, b'{"token":null}', caching)
        if principal.role in STAFF:
            return rendered(HTTPStatus.OK, b'{"token":null,"staff":true}', caching)
        settings = self._shop.settings.pages
        session, expires_at = self._tokens.prolong(token, most_s=settings.session_max_s)
        ttl_s = max(1, min(settings.token_ttl_s, expires_at - int(time.time())))
        visit = account_tag(principal.user_id, self._tokens.logged_in_at(token))
        given = {
            "token": self._tokens.issue(principal, ttl_s=ttl_s),
            "expiresIn": ttl_s,
            "account": account_tag(principal.user_id),
            "visit": visit,
        }
        return rendered(HTTPStatus.OK, msgspec.json.encode(given), caching, *begin_session(request, session, visit))

    def _signed_in(self, request: Request, user: User, path: str | None) -> Answer:
        token = self._tokens.issue(user.principal)
        visit = account_tag(user.user_id, self._tokens.logged_in_at(token.encode("ascii")))
        return self._shop.redirect(request, next_path(path), *begin_session(request, token, visit))


def _kept(sent: dict[str, str]) -> dict[str, Any]:
    """Return what a form shows again, which is never a password or a code."""
    wanted = next_path(sent.get("next"), "")
    return {
        "next": wanted,
        "kept": urlencode({"next": wanted}) if wanted else "",
        "email": sent.get("email", ""),
        "name": sent.get("name", ""),
        "done": sent.get("done", ""),
    }
