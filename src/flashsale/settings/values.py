"""Types of settings, and the checks of their values."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationInfo, field_validator

from flashsale.settings.server_urls import check_gateway_url, with_password

if TYPE_CHECKING:
    from collections.abc import Callable


KEY_CHARS_MIN = 32
"""Shortest key of the tokens: RFC 7518 asks HS256 for 256 bits."""

PAIRS_MIN = 16
"""How many different pairs of neighbouring characters it holds at least: half of those of 32 random digits."""

EXAMPLE = "change-me"
"""The placeholder for secrets in docker/.env.example."""


NUMBER_MAX = 2**31 - 1
"""Largest number of a setting: any larger one is a slip, and some part would fail with it while it runs."""

POSTGRES_LIMIT_S_MAX = NUMBER_MAX / 1000
"""Largest limit of a statement, lock or session, which Postgres takes as a 4-byte number of milliseconds."""

DURATION_S_MIN = 0.001
"""Shortest duration: Postgres' unit, for which a rounded 0 means no limit."""


NOT_PRINTABLE = "holds a line break or another character that cannot be printed; take it away"


def _replaced(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().isprintable():
        raise ValueError(NOT_PRINTABLE)
    letters = "".join(character for character in secret.get_secret_value().lower() if character.isalpha())
    if EXAMPLE.replace("-", "") in letters:
        raise ValueError(f"still holds the example's {EXAMPLE}; set a secret of your own")
    return secret


def varied(secret: SecretStr) -> SecretStr:
    """Refuse a key that repeats too few characters."""
    text = secret.get_secret_value()
    if text and len(set(pairwise(text))) < PAIRS_MIN:
        raise ValueError("repeats too few different characters; make one with `openssl rand -hex 32`")
    return secret


def long_or_empty(secret: SecretStr) -> SecretStr:
    """Refuse a key that is short."""
    if 0 < len(secret.get_secret_value()) < KEY_CHARS_MIN:
        raise ValueError(f"should have at least {KEY_CHARS_MIN} characters, or be empty")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_replaced)]
"""A secret, or a URL with one, that is not the example's."""


def url_checked_by(check: Callable[[str], None], *, optional: bool = False) -> AfterValidator:
    """Make a check of a URL that may hold a password; an optional one may be empty."""

    def checked(url: SecretStr) -> SecretStr:
        if url.get_secret_value() or not optional:
            check(url.get_secret_value())
        return url

    return AfterValidator(checked)


def password_from(field: str) -> AfterValidator:
    """Put the password that another field of the group holds into a URL."""

    def merged(url: SecretStr, info: ValidationInfo) -> SecretStr:
        password: SecretStr = info.data.get(field, SecretStr(""))
        if not (url.get_secret_value() and password.get_secret_value()):
            return url
        return SecretStr(with_password(url.get_secret_value(), password.get_secret_value()))

    return AfterValidator(merged)


def _network(text: str) -> str:
    ip_network(text)
    return text


Network = Annotated[str, AfterValidator(_network)]
"""An IP network or address."""


def checked_gateway_url(url: str) -> str:
    """Check the URL of a payment provider, if there is one."""
    if url:
        check_gateway_url(url)
    return url


class Group(BaseModel):
    """A part of the tree: frozen, without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, (int, float)) and not abs(value) <= NUMBER_MAX:
            raise ValueError(f"should be a number of at most {NUMBER_MAX}")
        if isinstance(value, float) and str(info.field_name).endswith("_s") and 0 < value < DURATION_S_MIN:
            raise ValueError(f"should be at least {DURATION_S_MIN} seconds")
        texts = value if isinstance(value, list) else [value]
        if not all(text.isprintable() for text in texts if isinstance(text, str)):
            raise ValueError(NOT_PRINTABLE)
        return value
