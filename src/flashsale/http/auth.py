"""Tokens: JWT as RFC 8725 asks (one algorithm, every claim required, login and stream tokens told apart)."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import jwt
from litestar.di import NamedDependency
from litestar.exceptions import ImproperlyConfiguredException
from litestar.params import SkipValidation

from flashsale.domain.errors import Forbidden, Unauthenticated
from flashsale.domain.users import Principal, Role

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler
    from litestar.types import Scope

    from flashsale.settings import AuthSettings

ALGORITHM = "HS256"
REQUIRED = ["exp", "iat", "iss", "aud", "sub", "use"]
TOKEN_BYTES_MAX = 2048


class Tokens:
    """Issues and verifies tokens. Verified login tokens are remembered until they expire."""

    def __init__(self, settings: AuthSettings) -> None:
        """Keep the key."""
        # As a JWK the key is prepared once; given as text, PyJWT looks at it anew for each token that it verifies.
        secret = base64.urlsafe_b64encode(settings.jwt_secret.get_secret_value().encode()).decode()
        self._key = jwt.PyJWK({"kty": "oct", "k": secret}, algorithm=ALGORITHM)
        self._settings = settings
        self._verified: dict[str, tuple[Principal, float]] = {}

    def issue(self, principal: Principal) -> str:
        """Make a login token."""
        return self._sign({"sub": str(principal.user_id), "role": principal.role.value, "use": "login"}, None)

    def issue_stream(self, principal: Principal, order_id: UUID) -> tuple[str, int]:
        """Make a token that opens the stream of one order; gives it and when it expires, in Unix seconds."""
        expires_at = int(time.time()) + self._settings.stream_token_ttl_s
        claims = {"sub": str(principal.user_id), "role": principal.role.value, "use": "stream", "order": str(order_id)}
        return self._sign(claims, expires_at), expires_at

    def verify(self, token: str) -> Principal:
        """Give whom a login token speaks for; `Unauthenticated` if it does not hold."""
        known = self._verified.get(token)
        if known is not None:
            if time.time() < known[1]:
                return known[0]
            del self._verified[token]
        claims = self._claims(token, use="login")
        principal = _principal(claims)
        if self._settings.verified_tokens_max:
            if len(self._verified) >= self._settings.verified_tokens_max:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = (principal, float(claims["exp"]))
        return principal

    def read_stream(self, token: str, order_id: UUID) -> tuple[Principal, bool]:
        """Give whom a stream token of this order speaks for, and whether its time is over.

        Raises:
            Unauthenticated: if it is not genuine, or for something else; nothing is said of its time then.
        """
        claims = self._claims(token, use="stream", timed=False)
        if claims.get("order") != str(order_id):
            raise Unauthenticated("This stream token is for another order.")
        if not isinstance(claims["exp"], int):
            raise Unauthenticated("The token does not hold; log in again.")
        return _principal(claims), claims["exp"] <= time.time()

    def principal(self, scope: Scope) -> Principal:
        """Give who sends a request, by its Authorization header; `Unauthenticated` without a token that holds."""
        return self.bearer(next((value for name, value in scope["headers"] if name == b"authorization"), None))

    def bearer(self, authorization: bytes | None) -> Principal:
        """Give whom the value of an Authorization header speaks for; `Unauthenticated` if it does not hold."""
        kind, _, token = (authorization or b"").partition(b" ")
        if kind.lower() != b"bearer" or not token or len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated("Send a token: Authorization: Bearer <token>.")
        return self.verify(token.decode("latin-1").strip())

    def _sign(self, claims: dict[str, Any], expires_at: int | None) -> str:
        now = int(time.time())
        claims |= {
            "iss": self._settings.jwt_issuer,
            "aud": self._settings.jwt_audience,
            "iat": now,
            "exp": expires_at or now + self._settings.jwt_ttl_s,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def _claims(self, token: str, *, use: str, timed: bool = True) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=self._settings.jwt_issuer,
                audience=self._settings.jwt_audience,
                # `iat` must be there, but another machine's clock may be ahead of this one's; `exp` alone ends a token.
                options={"require": REQUIRED, "verify_iat": False, "verify_exp": timed},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired; log in again.") from error
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("The token does not hold; log in again.") from error
        if claims["use"] != use:
            raise Unauthenticated("This token is for something else.")
        return claims


UseTokens = NamedDependency[SkipValidation[Tokens]]
"""How a route asks for them."""


def _principal(claims: dict[str, Any]) -> Principal:
    try:
        return Principal(user_id=UUID(claims["sub"]), role=Role(claims["role"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unauthenticated("The token does not hold; log in again.") from error


def admin_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Litestar guard: administrators only."""
    tokens = connection.app.state.get("tokens")
    if not isinstance(tokens, Tokens):
        raise ImproperlyConfiguredException("no tokens in the app's state")
    if tokens.principal(connection.scope).role is not Role.ADMIN:
        raise Forbidden("Administrators only.")
