"""Sign in to the console, and out."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from flashsale.domain.errors import FlashSaleError, Forbidden
from flashsale.domain.users import STAFF
from flashsale.http.routes.accounts import LOG_OUT, RESET_PASSWORD, author
from flashsale.http.routing import Direct
from flashsale.pages.console.frame import HOME, SIGN_IN, see
from flashsale.pages.session import (
    account_tag,
    begin_session,
    end_session,
    form_of,
    query_of,
    require_same_origin,
    session_token,
)

if TYPE_CHECKING:
    from flashsale.http.messages import Answer, Request
    from flashsale.pages.console.frame import Frame

PASSWORD = "/console/password"  # noqa: S105 - a path
SIGN_OUT = "/console/sign-out"

_NEXT = re.compile(r"/console(?:/[0-9a-z/-]*)?")
"""Pages to which a sign-in may lead: those of the console, never another site."""


class Signing:
    """The pages of people who are not signed in yet, or no longer."""

    def __init__(self, frame: Frame) -> None:
        """Use the parts of a frame."""
        self._frame = frame
        self._parts = frame.parts

    def routes(self) -> list[Direct]:
        """Make the routes."""
        return [
            Direct(template=SIGN_IN, method="GET", serve=self.form, operation=None),
            Direct(template=SIGN_IN, method="POST", serve=self.sign_in, operation=None),
            Direct(template=PASSWORD, method="GET", serve=self.password_form, operation=None),
            Direct(template=PASSWORD, method="POST", serve=self.set_password, operation=None),
            Direct(template=SIGN_OUT, method="POST", serve=self.sign_out, operation=None),
            Direct(template=SIGN_OUT, method="GET", serve=self.home, operation=None),
        ]

    async def form(self, request: Request) -> Answer:
        """Show the form."""
        try:
            wanted = query_of(request)
        except FlashSaleError as error:
            return self._frame.public("refused.html", error)
        return self._frame.public("sign-in.html", next=after_sign_in(wanted.get("next", "")), email="")

    async def sign_in(self, request: Request) -> Answer:
        """Begin a session of a member of staff."""
        sent: dict[str, str] = {}
        try:
            require_same_origin(request)
            sent = form_of(request)
            user = await self._parts.services.accounts.log_in(
                email=sent.get("email", "").strip(),
                password=sent.get("password", ""),
                address=self._parts.addresses.of(request),
            )
            if user.role not in STAFF:
                raise Forbidden("The console is for staff; this is the account of a buyer.")
        except FlashSaleError as error:
            values = {"next": after_sign_in(sent.get("next", "")), "email": sent.get("email", "")}
            return self._frame.public("sign-in.html", error, **values)
        token = self._parts.tokens.issue(user.principal)
        login = account_tag(user.user_id, self._parts.tokens.logged_in_at(token.encode("ascii")))
        return see(after_sign_in(sent.get("next", "")), *begin_session(request, token, login))

    async def password_form(self, _: Request) -> Answer:
        """Show the form that sets a password by a token, which an administrator gave."""
        return self._frame.public("password.html")

    async def set_password(self, request: Request) -> Answer:
        """Set a password by a token, which ends this token and every session of the account."""
        try:
            require_same_origin(request)
            sent = form_of(request)
            principal = self._parts.tokens.verify_reset(sent.get("token", "").strip())
            by = author(principal, RESET_PASSWORD, self._parts.addresses, request)
            await self._parts.services.sessions.reset_password(principal, password=sent.get("password", ""), by=by)
        except FlashSaleError as error:
            return self._frame.public("password.html", error)
        return see(SIGN_IN, *end_session(request))

    async def home(self, _: Request) -> Answer:
        """Lead a browser that asks for the path of the form to the console."""
        return see(HOME)

    async def sign_out(self, request: Request) -> Answer:
        """End the session of this browser; with `everywhere`, every session and token of the account."""
        try:
            require_same_origin(request)
            everywhere = "everywhere" in form_of(request)
            token = session_token(request)
            if everywhere and token is not None:
                principal = self._parts.tokens.verify(token)
                by = author(principal, LOG_OUT, self._parts.addresses, request)
                await self._parts.services.sessions.sign_out(principal, by=by)
        except FlashSaleError as error:
            answer = self._frame.public("refused.html", error)
            ended = answer.status == HTTPStatus.UNAUTHORIZED
            return answer.with_headers(*end_session(request)) if ended else answer
        return see(SIGN_IN, *end_session(request))


def after_sign_in(wanted: str) -> str:
    """Return where a sign-in leads: the wanted page, if it is one of the console."""
    return wanted if _NEXT.fullmatch(wanted) else HOME
