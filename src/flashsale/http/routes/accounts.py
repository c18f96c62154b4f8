"""Accounts: register and log in."""

from __future__ import annotations

from litestar import post
from litestar.params import JSONBody

from flashsale.domain.users import Principal, User
from flashsale.http.auth import Tokens, UseTokens
from flashsale.http.schemas import LoginIn, RegisteredOut, RegisterIn, TokenOut, UserOut
from flashsale.http.services import UseServices


@post("/api/auth/register", status_code=201, summary="Register", tags=["accounts"])
async def register(data: JSONBody[RegisterIn], services: UseServices, tokens: UseTokens) -> RegisteredOut:
    """Create a buyer's account and log in."""
    user = await services.accounts.register(name=data.name, email=data.email, password=data.password)
    return RegisteredOut(
        token=_token(tokens, user),
        user=UserOut(id=user.user_id, name=user.name, email=user.email, role=user.role.value),
    )


@post("/api/auth/login", status_code=200, summary="Log in", tags=["accounts"])
async def log_in(data: JSONBody[LoginIn], services: UseServices, tokens: UseTokens) -> TokenOut:
    """Get a token by email and password."""
    return TokenOut(token=_token(tokens, await services.accounts.log_in(email=data.email, password=data.password)))


def _token(tokens: Tokens, user: User) -> str:
    return tokens.issue(Principal(user_id=user.user_id, role=user.role))
