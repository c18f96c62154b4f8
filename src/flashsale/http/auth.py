"""Tokens: JWT as RFC 8725 recommends: one algorithm, every claim required, a claim that names the token's use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from litestar.di import NamedDependency
from litestar.exceptions import ImproperlyConfiguredException
from litestar.params import SkipValidation

from flashsale.domain.errors import InvalidInput, Unauthenticated
from flashsale.domain.users import GENERATION_MAX, Principal, Role
from flashsale.http.token_keys import Keys
from flashsale.usecases.sessions import Sessions, ended

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler
    from litestar.types import Scope

    from flashsale.http.messages import Request
    from flashsale.settings.edge import AuthSettings
    from flashsale.usecases.revocations import Revocations

TOKEN_BYTES_MAX = 2048
TOKEN_CHARS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")
"""What RFC 6750 lets a bearer token hold."""


class Tokens:
    """Issues and verifies tokens. Verified login tokens are remembered until they expire."""

    def __init__(self, settings: AuthSettings, revocations: Revocations | None = None) -> None:
        """Read the keys. `revocations` knows the tokens that were revoked; a process that only issues needs none."""
        self._keys = Keys(settings)
        self._revocations = revocations
        self._settings = settings
        self._verified: dict[bytes, tuple[Principal, int]] = {}

    def issue(self, principal: Principal, *, ttl_s: int | None = None) -> str:
        """Make a login token; `ttl_s`: its lifetime, if it is another than that of the settings."""
        lasts_s = self._settings.jwt_ttl_s if ttl_s is None else ttl_s
        return self._sign(principal, int(time.time()) + lasts_s, use="login")

    def prolong(self, token: bytes, *, most_s: int) -> tuple[str, int]:
        """Make a login token that ends later than `token`, which is valid; returns it and when it expires.

        It keeps the time of the login as its `iat`, and ends `most_s` after it at the latest. The token that a script
        has is never prolonged: it lasts for less than a login does.
        """
        principal, began_at, expires_at = self._read(token)
        lasts_s = self._settings.jwt_ttl_s
        later = min(int(time.time()) + lasts_s, began_at + most_s)
        if expires_at - began_at < lasts_s or later <= expires_at:
            return token.decode("ascii"), expires_at
        return self._sign(principal, later, issued_at=began_at, use="login"), later

    def logged_in_at(self, token: bytes) -> int:
        """Return when the login of a login token was, in Unix seconds; `Unauthenticated` if the token is not valid."""
        return self._read(token)[1]

    def issue_stream(self, principal: Principal, order_id: UUID) -> tuple[str, int]:
        """Make a token that opens the stream of one order; returns it and when it expires, in Unix seconds."""
        expires_at = int(time.time()) + self._settings.stream_token_ttl_s
        return self._sign(principal, expires_at, use="stream", order=str(order_id)), expires_at

    def issue_reset(self, principal: Principal) -> str:
        """Make a token with which an account sets a new password once."""
        return self._sign(principal, int(time.time()) + self._settings.reset_token_ttl_s, use="reset")

    def verify(self, token: bytes) -> Principal:
        """Return the account of a login token; `Unauthenticated` if the token is not valid."""
        known = self._verified.get(token)
        if known is not None and time.time() < known[1]:
            return self._standing(known[0])
        principal, _, expires_at = self._read(token)
        if self._settings.verified_tokens_max:
            self._verified.pop(token, None)
            if len(self._verified) >= self._settings.verified_tokens_max:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = (principal, expires_at)
        return self._standing(principal)

    def read_stream(self, token: str, order_id: UUID) -> tuple[Principal, bool]:
        """Return the account of a stream token for this order, and whether the token has expired.

        Raises:
            Unauthenticated: if the signature is wrong, or the token is for another order or use.
        """
        claims = self._keys.claims(token, use="stream", timed=False)
        if claims.get("order") != str(order_id):
            raise Unauthenticated("This stream token is for another order.", refused=True)
        if not isinstance(claims["exp"], int):
            raise Unauthenticated("The token does not hold; log in again.", refused=True)
        return self._standing(_principal(claims)), claims["exp"] <= time.time()

    def verify_reset(self, token: str) -> Principal:
        """Return the account of a reset token, used or not; `Unauthenticated` if the token is not valid."""
        return _principal(self._keys.claims(token, use="reset"))

    def sender(self, request: Request) -> Principal:
        """Return the account that sends a request, by its Authorization header; raises as `bearer` does."""
        return self.bearer(request.all(b"authorization"))

    def principal(self, scope: Scope) -> Principal:
        """Return the account that sends a request, by its Authorization header; raises as `bearer` does."""
        return self.bearer([value for name, value in scope["headers"] if name == b"authorization"])

    def bearer(self, sent: list[bytes]) -> Principal:
        """Return the account that a request's Authorization headers name.

        Raises:
            Unauthenticated: if there is no header, another scheme, or a token that is not valid.
            InvalidInput: if there are several headers, or the token breaks the syntax of RFC 6750.
        """
        if len(sent) != 1:
            if sent:
                raise InvalidInput(field="Authorization", problem="was sent twice")
            raise Unauthenticated(SEND_A_TOKEN)
        scheme, _, rest = sent[0].partition(b" ")
        if scheme != b"Bearer" and scheme.lower() != b"bearer":
            raise Unauthenticated(SEND_A_TOKEN)
        token = rest.strip(b" \t")
        if not token or len(token) > TOKEN_BYTES_MAX:
            raise InvalidInput(
                field="Authorization", problem=f"must hold a token of 1 to {TOKEN_BYTES_MAX} bytes after `Bearer`"
            )
        try:
            return self.verify(token)
        except Unauthenticated:
            if not TOKEN_CHARS.issuperset(token):
                raise InvalidInput(field="Authorization", problem="holds characters that no token has") from None
            raise

    def _standing(self, principal: Principal) -> Principal:
        if self._revocations is not None and not self._revocations.holds(principal):
            raise ended()
        return principal

    def _read(self, token: bytes) -> tuple[Principal, int, int]:
        """Return the account of a login token, when it logged in (0 if unknown), and when the token expires."""
        read = self._keys.login(token, now_s=time.time())
        if read is not None:
            return Principal(user_id=read.sub, role=read.role, generation=read.gen), read.iat, read.exp
        claims = self._keys.claims(token.decode("latin-1"), use="login")
        began_at = claims["iat"]
        return _principal(claims), began_at if isinstance(began_at, int) else 0, int(claims["exp"])

    def _sign(
        self, principal: Principal, expires_at: int, *, use: str, issued_at: int | None = None, **more: str
    ) -> str:
        return self._keys.sign(
            {
                "sub": str(principal.user_id),
                "role": principal.role.value,
                "gen": principal.generation,
                "use": use,
                **more,
                "iss": self._settings.jwt_issuer,
                "aud": self._settings.jwt_audience,
                "iat": int(time.time()) if issued_at is None else issued_at,
                "exp": expires_at,
            }
        )


SEND_A_TOKEN = "Send a token: Authorization: Bearer <token>."  # noqa: S105 - says how

UseTokens = NamedDependency[SkipValidation[Tokens]]
"""How a route asks for them."""


def _principal(claims: dict[str, Any]) -> Principal:
    # Releases before generations issued tokens without one; these belong to generation 0.
    generation = claims.get("gen", 0)
    try:
        principal = Principal(user_id=UUID(claims["sub"]), role=Role(claims["role"]), generation=generation)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unauthenticated("The token does not hold; log in again.", refused=True) from error
    if type(generation) is not int or not 0 <= generation <= GENERATION_MAX:
        raise Unauthenticated("The token does not hold; log in again.", refused=True)
    return principal


async def permitted(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Litestar guard: only accounts that have a role of the handler's operation now, whatever the token says."""
    tokens, sessions = connection.app.state.get("tokens"), connection.app.state.get("sessions")
    if not isinstance(tokens, Tokens) or not isinstance(sessions, Sessions):
        raise ImproperlyConfiguredException("no tokens or no sessions in the app's state")
    await sessions.require(tokens.principal(connection.scope), handler.opt["operation"].roles)
