"""The keys that sign tokens, and the two ways to read a token that one of them signed.

PyJWT is the authority: it can read every token, and only PyJWT refuses one. Nearly all tokens are login tokens that
this module wrote. `Key.read` recognises them byte by byte in a tenth of PyJWT's time, and leaves every other token to
PyJWT. A property test compares the two (`tests/unit/test_token_keys.py`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Annotated, Any, Literal
from uuid import UUID

import jwt
import msgspec

from flashsale.domain.errors import Unauthenticated
from flashsale.domain.users import GENERATION_MAX, Role
from flashsale.settings.edge import AuthSettings

ALGORITHM = "HS256"
TYPE = "JWT"
REQUIRED = ["exp", "iat", "iss", "aud", "sub", "use"]
KID_BYTES = 9
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_TO_URL = bytes.maketrans(b"+/", b"-_")

Generation = Annotated[int, msgspec.Meta(ge=0, le=GENERATION_MAX)]


class LoginClaims(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The claims of a login token, in the order in which they are written."""

    sub: UUID
    role: Role
    gen: Generation
    use: Literal["login"]
    iss: str
    aud: str
    iat: int
    exp: int


def _base64url(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URL)


_decode = msgspec.json.Decoder(LoginClaims).decode


class Key:
    """One secret: it signs tokens whose header names it."""

    def __init__(self, secret: str) -> None:
        """Derive the name and the header from the secret."""
        raw = secret.encode()
        # A digest over a label of its own, so that the key's name never equals a signature by the key.
        digest = hashlib.sha256(b"flashsale key id\x00" + raw).digest()
        self.kid = base64.urlsafe_b64encode(digest[:KID_BYTES]).decode()
        # PyJWT prepares a JWK once, but examines a text key on each call.
        self.jwk = jwt.PyJWK({"kty": "oct", "k": base64.urlsafe_b64encode(raw).decode()}, algorithm=ALGORITHM)
        self._mac = hmac.new(raw, digestmod=hashlib.sha256)
        self._head = self.sign({}).encode().partition(b".")[0] + b"."

    def sign(self, claims: dict[str, Any]) -> str:
        """Make a token of these claims."""
        return jwt.encode(claims, self.jwk, algorithm=ALGORITHM, headers={"kid": self.kid})

    def read(self, token: bytes) -> LoginClaims | None:
        """Return the claims of a login token in the form that `sign` writes; None for any other token, valid or not.

        Checks the signature and the form of the claims, not their values.
        """
        if not token.startswith(self._head):
            return None
        signed, _, signature = token.rpartition(b".")
        mac = self._mac.copy()
        mac.update(signed)
        # Compared as text, so that each signature has one spelling, like each body.
        if not hmac.compare_digest(_base64url(mac.digest()), signature):
            return None
        body = signed[len(self._head) :]
        try:
            decoded = binascii.a2b_base64(body.translate(_TO_STANDARD) + b"=" * (-len(body) % 4), strict_mode=True)
            return _decode(decoded) if _base64url(decoded) == body else None
        except (ValueError, RecursionError):
            return None


class Keys:
    """The key that signs, and during a rotation of the secret another key whose tokens are valid too."""

    def __init__(self, settings: AuthSettings) -> None:
        """Read the secrets."""
        self._settings = settings
        self._signing = Key(settings.jwt_secret.get_secret_value())
        second = settings.jwt_second_secret.get_secret_value()
        self._keys = [self._signing, *([Key(second)] if second else [])]

    def sign(self, claims: dict[str, Any]) -> str:
        """Make a token of these claims."""
        return self._signing.sign(claims)

    def login(self, token: bytes, *, now_s: float) -> LoginClaims | None:
        """Return the claims of a valid login token in the form that `sign` writes; None if only `claims` can decide."""
        for key in self._keys:
            read = key.read(token)
            if read is not None:
                settings = self._settings
                holds = read.exp > now_s and read.iss == settings.jwt_issuer and read.aud == settings.jwt_audience
                return read if holds else None
        return None

    def claims(self, token: str, *, use: str, timed: bool = True) -> dict[str, Any]:
        """Return the claims of a token for this use; without `timed`, the token may have expired.

        Raises:
            Unauthenticated: if the token is not valid.
        """
        try:
            header = jwt.get_unverified_header(token)
            claims = self._verified(token, header, timed=timed)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired; log in again.", refused=True) from error
        except (jwt.InvalidTokenError, UnicodeError) as error:
            raise Unauthenticated("The token does not hold; log in again.", refused=True) from error
        if claims["use"] != use:
            raise Unauthenticated("This token is for something else.", refused=True)
        return claims

    def _verified(self, token: str, header: dict[str, Any], *, timed: bool) -> dict[str, Any]:
        if header.get("typ", TYPE) != TYPE:
            raise jwt.InvalidTokenError("another type")
        # A token without a key id comes from a release that had only one key.
        keys = [key for key in self._keys if header.get("kid", key.kid) == key.kid]
        if not keys:
            raise jwt.InvalidTokenError("an unknown key")
        for key in keys[:-1]:
            try:
                return self._decode(token, key, timed=timed)
            except jwt.InvalidSignatureError:
                continue
        return self._decode(token, keys[-1], timed=timed)

    def _decode(self, token: str, key: Key, *, timed: bool) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.jwk,
            algorithms=[ALGORITHM],
            issuer=self._settings.jwt_issuer,
            audience=self._settings.jwt_audience,
            # `iat` is required but not compared, because another machine's clock may be ahead; only `exp` ends a token.
            options={"require": REQUIRED, "verify_iat": False, "verify_exp": timed},
        )
        return claims
