"""Forms as the types that the API takes, so that both refuse the same values."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import msgspec

from flashsale.domain.errors import InvalidInput
from flashsale.domain.instants import YEARS, check_instant
from flashsale.http.bodies import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T", bound=msgspec.Struct)

_LOCAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?")
"""What a field of the type `datetime-local` sends; the console's times are in UTC."""


def typed(
    form: Mapping[str, str], wanted: type[T], what: str, *, checks: tuple[str, ...] = (), leave: tuple[str, ...] = ()
) -> T:
    """Return a form as a body of the API. An empty field is null where the body may have null, else missing.

    `checks`: fields of the form that are boxes to tick; `leave`: those that are not of the body.

    Raises:
        InvalidInput: with the field, if a value does not fit.
    """
    values: dict[str, object] = {name: name in form for name in checks}
    for name, text in form.items():
        if name not in {"key", *checks, *leave}:
            values[name] = instant_of(text, name) if name.endswith("At") else text.strip() or None
    nullable = {field.encode_name for field in msgspec.structs.fields(wanted) if _takes_null(field)}
    try:
        return msgspec.convert(
            {name: value for name, value in values.items() if value is not None or name in nullable},
            wanted,
            strict=False,
        )
    except msgspec.ValidationError as error:
        raise invalid(error, what=what) from error


def _takes_null(field: msgspec.structs.FieldInfo) -> bool:
    try:
        msgspec.convert(None, field.type)
    except msgspec.ValidationError:
        return False
    return True


def instant_of(text: str, field: str) -> datetime | None:
    """Return a time in UTC; None: the field is empty.

    Raises:
        InvalidInput: if it is no time, or one that no database holds.
    """
    text = text.strip()
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text).replace(tzinfo=UTC) if _LOCAL.fullmatch(text) else _whole(text)
    except ValueError:
        raise InvalidInput(field=field, problem="must be a time in UTC, such as 2026-11-27T09:00") from None
    check_instant(field, instant)
    return instant


def _whole(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise ValueError(text)
    return read


def day_of(text: str, field: str) -> date | None:
    """Return a day; None: the field is empty.

    Raises:
        InvalidInput: if it is none, or outside the years of all sales.
    """
    try:
        day = date.fromisoformat(text.strip()) if text.strip() else None
    except ValueError:
        raise InvalidInput(field=field, problem="must be a day such as 2026-11-27") from None
    if day is not None and day.year not in YEARS:
        raise InvalidInput(field=field, problem=f"must be in the years {YEARS.start} to {YEARS.stop - 1}")
    return day


def id_of(text: str, field: str) -> UUID | None:
    """Return an id; None: the field is empty.

    Raises:
        InvalidInput: if it is none.
    """
    try:
        return UUID(text.strip()) if text.strip() else None
    except ValueError:
        raise InvalidInput(field=field, problem="must be an id such as 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58") from None


def number_of(text: str, field: str, *, most: int) -> int | None:
    """Return a whole number; None: the field is empty.

    Raises:
        InvalidInput: if it is none from 1 to `most`.
    """
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise InvalidInput(field=field, problem=f"must be a whole number from 1 to {most}")
    return int(text)


def text_of(text: str, field: str, *, most: int) -> str | None:
    """Return a text without the space around it; None: the field is empty.

    Raises:
        InvalidInput: if it is too long, or has control characters.
    """
    text = text.strip()
    if len(text) > most or not all(one.isprintable() for one in text):
        raise InvalidInput(field=field, problem=f"must be at most {most} characters, none of them a control character")
    return text or None
