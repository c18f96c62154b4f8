"""Accounts: register and log in."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from flashsale.domain.users import Principal
from flashsale.http.answers import rendered
from flashsale.http.bodies import declared_length, decode, read_body
from flashsale.http.edge import Direct
from flashsale.http.schemas import LoginIn, RegisteredOut, RegisterIn, TokenOut, UserOut

if TYPE_CHECKING:
    from litestar.types import Receive, Scope

    from flashsale.domain.users import User
    from flashsale.http.answers import Answer
    from flashsale.http.auth import Tokens
    from flashsale.http.services import ApiServices

REGISTER_PATH = "/api/auth/register"
LOGIN_PATH = "/api/auth/login"

_register_in = msgspec.json.Decoder(RegisterIn)
_login_in = msgspec.json.Decoder(LoginIn)
_encode = msgspec.json.Encoder().encode


def direct_routes(services: ApiServices, tokens: Tokens, *, body_bytes_max: int) -> list[Direct]:
    """Make the routes that a flood takes: beside a sale, nearly all of it is refused."""

    async def register(scope: Scope, receive: Receive) -> Answer:
        body = await read_body(receive, declared_length(scope), limit=body_bytes_max)
        wanted = decode(_register_in, body, what="a registration")
        user = await services.accounts.register(name=wanted.name, email=wanted.email, password=wanted.password)
        shown = UserOut(id=user.user_id, name=user.name, email=user.email, role=user.role.value)
        return rendered(HTTPStatus.CREATED, _encode(RegisteredOut(token=token(user), user=shown)))

    async def log_in(scope: Scope, receive: Receive) -> Answer:
        body = await read_body(receive, declared_length(scope), limit=body_bytes_max)
        wanted = decode(_login_in, body, what="a login")
        user = await services.accounts.log_in(email=wanted.email, password=wanted.password)
        return rendered(HTTPStatus.OK, _encode(TokenOut(token=token(user))))

    def token(user: User) -> str:
        return tokens.issue(Principal(user_id=user.user_id, role=user.role))

    return [Direct(REGISTER_PATH, "POST", register), Direct(LOGIN_PATH, "POST", log_in)]
