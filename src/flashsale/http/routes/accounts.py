"""Accounts: register, log in, sign out, and new passwords."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.trail import Author
from flashsale.http.addresses import Addresses
from flashsale.http.bodies import body_of, no_body
from flashsale.http.messages import empty, rendered
from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.routing import Direct
from flashsale.http.schemas import (
    LoginIn,
    PasswordChangeIn,
    PasswordForgottenIn,
    PasswordResetIn,
    RegisteredOut,
    RegisterIn,
    TokenOut,
    UserOut,
)
from flashsale.runtime.logs import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from flashsale.domain.users import Principal, User
    from flashsale.http.auth import Tokens
    from flashsale.http.messages import Answer, Request
    from flashsale.usecases.services import Services
    from flashsale.usecases.sessions import Sessions

REGISTER_PATH = "/api/auth/register"
LOGIN_PATH = "/api/auth/login"
LOGOUT_PATH = "/api/auth/logout"
PASSWORD_PATH = "/api/auth/password"  # noqa: S105 - a path
FORGOTTEN_PATH = "/api/auth/forgot"
RESET_PATH = "/api/auth/reset"

ANSWER_S = 0.25
"""How long the answer to a request for a new password takes at least: longer than Postgres needs for one."""

REGISTER = Operation(
    name="register",
    summary="Register",
    description="Create a buyer's account and log in.",
    tag="accounts",
    takes=RegisterIn,
    gives=(Given(status=HTTPStatus.CREATED, description="The account and a login token.", model=RegisteredOut),),
    codes=("email_taken", "other_cell", *SERVERS),
)
LOG_IN = Operation(
    name="logIn",
    summary="Log in",
    description="Get a login token by e-mail address and password.",
    tag="accounts",
    takes=LoginIn,
    gives=(Given(status=HTTPStatus.OK, description="A login token.", model=TokenOut),),
    codes=("bad_credentials", "too_many_logins", "other_cell", *SERVERS),
)
LOG_OUT = Operation(
    name="logOut",
    summary="Sign out everywhere",
    description="End every token of the account, including this one, and the streams that these tokens opened.",
    tag="accounts",
    caller="buyer",
    gives=(Given(status=HTTPStatus.NO_CONTENT, description="Every token of the account has ended."),),
    codes=("other_cell", *SERVERS),
)
CHANGE_PASSWORD = Operation(
    name="changePassword",
    summary="Change the password",
    description="Replace the password, and end every token of the account.",
    tag="accounts",
    caller="buyer",
    takes=PasswordChangeIn,
    gives=(Given(status=HTTPStatus.OK, description="A new login token.", model=TokenOut),),
    codes=("too_many_logins", "other_cell", *SERVERS),
)
FORGET_PASSWORD = Operation(
    name="requestPasswordReset",
    summary="Ask for a code for a new password",
    description="Send a code to the buyer's account with this e-mail address, if there is one. The answer and its "
    "duration do not tell whether there is one.",
    tag="accounts",
    takes=PasswordForgottenIn,
    gives=(Given(status=HTTPStatus.ACCEPTED, description="If there is such an account, its owner gets an e-mail."),),
    codes=("too_many_logins", "other_cell", *SERVERS),
)
RESET_PASSWORD = Operation(
    name="resetPassword",
    summary="Set a password by a code or token",
    description="Set the password by the code of an e-mail, or by a token that `flashsale password-reset` printed. "
    "Each is valid once, and ends every token of the account.",
    tag="accounts",
    takes=PasswordResetIn,
    gives=(Given(status=HTTPStatus.NO_CONTENT, description="The password is set; log in with it."),),
    codes=("unauthenticated", "other_cell", *SERVERS),
)

_register_in = msgspec.json.Decoder(RegisterIn)
_login_in = msgspec.json.Decoder(LoginIn)
_change_in = msgspec.json.Decoder(PasswordChangeIn)
_forgotten_in = msgspec.json.Decoder(PasswordForgottenIn)
_reset_in = msgspec.json.Decoder(PasswordResetIn)
_encode = msgspec.json.Encoder().encode


async def _reset(sessions: Sessions, tokens: Tokens, addresses: Addresses, request: Request) -> None:
    wanted = body_of(request, _reset_in, what="a reset of the password")
    if "." in wanted.token:
        principal = tokens.verify_reset(wanted.token)
        by = author(principal, RESET_PASSWORD, addresses, request)
        await sessions.reset_password(principal, password=wanted.password, by=by)
    else:
        # A code: base64 text without dots, of which a token has two. Only buyers get codes.
        await sessions.reset_by_code(wanted.token, password=wanted.password)


def author(principal: Principal, operation: Operation, addresses: Addresses, request: Request) -> Author:
    """Return whom the trail names for what an account does to itself."""
    return Author(
        user_id=principal.user_id,
        action=operation.name,
        origin=str(addresses.whole(request) or "unknown"),
        request_id=REQUEST_ID.get(b"").decode("ascii") or None,
    )


@asynccontextmanager
async def lasting(seconds: float) -> AsyncIterator[None]:
    """Leave the block no earlier than this, however it ends: its duration tells nothing."""
    until_s = time.monotonic() + seconds
    try:
        yield
    finally:
        await asyncio.sleep(until_s - time.monotonic())


def direct_routes(services: Services, tokens: Tokens) -> list[Direct]:
    """Make the routes that a flood of logins uses; during a sale nearly all of its requests are refused."""
    addresses = Addresses(services.settings.http.trusted_proxies)

    async def register(request: Request) -> Answer:
        wanted = body_of(request, _register_in, what="a registration")
        user = await services.accounts.register(name=wanted.name, email=wanted.email, password=wanted.password)
        shown = UserOut(id=user.user_id, name=user.name, email=user.email, role=user.role)
        return rendered(HTTPStatus.CREATED, _encode(RegisteredOut(token=token(user), user=shown)))

    async def log_in(request: Request) -> Answer:
        wanted = body_of(request, _login_in, what="a login")
        user = await services.accounts.log_in(
            email=wanted.email, password=wanted.password, address=addresses.of(request), session=session(request)
        )
        return rendered(HTTPStatus.OK, _encode(TokenOut(token=token(user))))

    async def log_out(request: Request) -> Answer:
        no_body(request)
        principal = tokens.sender(request)
        await services.sessions.sign_out(principal, by=author(principal, LOG_OUT, addresses, request))
        return empty(HTTPStatus.NO_CONTENT)

    async def change_password(request: Request) -> Answer:
        principal = tokens.sender(request)
        wanted = body_of(request, _change_in, what="a change of the password")
        by = author(principal, CHANGE_PASSWORD, addresses, request)
        user = await services.sessions.change_password(
            principal, old=wanted.old_password, new=wanted.new_password, by=by
        )
        return rendered(HTTPStatus.OK, _encode(TokenOut(token=token(user))))

    async def request_reset(request: Request) -> Answer:
        wanted = body_of(request, _forgotten_in, what="a request for a new password")
        async with lasting(ANSWER_S):
            await services.sessions.request_reset(email=wanted.email, address=addresses.of(request))
        return empty(HTTPStatus.ACCEPTED)

    async def reset_password(request: Request) -> Answer:
        await _reset(services.sessions, tokens, addresses, request)
        return empty(HTTPStatus.NO_CONTENT)

    def session(request: Request) -> UUID | None:
        """Return the account whose token the request carries, if any; a login needs no token."""
        try:
            return tokens.sender(request).user_id
        except FlashSaleError:
            return None

    def token(user: User) -> str:
        return tokens.issue(user.principal)

    return [
        Direct(template=REGISTER_PATH, method="POST", serve=register, operation=REGISTER),
        Direct(template=LOGIN_PATH, method="POST", serve=log_in, operation=LOG_IN),
        Direct(template=LOGOUT_PATH, method="POST", serve=log_out, operation=LOG_OUT),
        Direct(template=PASSWORD_PATH, method="POST", serve=change_password, operation=CHANGE_PASSWORD),
        Direct(template=FORGOTTEN_PATH, method="POST", serve=request_reset, operation=FORGET_PASSWORD),
        Direct(template=RESET_PATH, method="POST", serve=reset_password, operation=RESET_PASSWORD),
    ]
