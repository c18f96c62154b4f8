"""Accounts: register and log in."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from flashsale.domain.errors import FlashSaleError
from flashsale.domain.users import Principal
from flashsale.http.addresses import Addresses
from flashsale.http.bodies import body_of
from flashsale.http.messages import rendered
from flashsale.http.operations import SERVERS, Given, Operation
from flashsale.http.routing import Direct
from flashsale.http.schemas import LoginIn, RegisteredOut, RegisterIn, TokenOut, UserOut

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.users import User
    from flashsale.http.auth import Tokens
    from flashsale.http.messages import Answer, Request
    from flashsale.usecases.services import Services

REGISTER_PATH = "/api/auth/register"
LOGIN_PATH = "/api/auth/login"

REGISTER = Operation(
    name="register",
    summary="Register",
    description="Create a buyer's account and log in.",
    tag="accounts",
    takes=RegisterIn,
    gives=(Given(status=HTTPStatus.CREATED, description="The account and a login token.", model=RegisteredOut),),
    codes=("email_taken", *SERVERS),
)
LOG_IN = Operation(
    name="logIn",
    summary="Log in",
    description="Get a login token by e-mail address and password.",
    tag="accounts",
    takes=LoginIn,
    gives=(Given(status=HTTPStatus.OK, description="A login token.", model=TokenOut),),
    codes=("bad_credentials", "too_many_logins", *SERVERS),
)

_register_in = msgspec.json.Decoder(RegisterIn)
_login_in = msgspec.json.Decoder(LoginIn)
_encode = msgspec.json.Encoder().encode


def direct_routes(services: Services, tokens: Tokens) -> list[Direct]:
    """Make the routes that a flood takes: beside a sale, nearly all of it is refused."""
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

    def session(request: Request) -> UUID | None:
        """Give whose token a login shows, if any: a token is no condition here."""
        try:
            return tokens.sender(request).user_id
        except FlashSaleError:
            return None

    def token(user: User) -> str:
        return tokens.issue(Principal(user_id=user.user_id, role=user.role))

    return [
        Direct(template=REGISTER_PATH, method="POST", serve=register, operation=REGISTER),
        Direct(template=LOGIN_PATH, method="POST", serve=log_in, operation=LOG_IN),
    ]
