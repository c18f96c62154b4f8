"""Instants that somebody sends."""

from __future__ import annotations

from datetime import UTC, datetime

from flashsale.domain.errors import InvalidInput

YEARS = range(1970, 9999)
"""Years, in UTC, in which a sale may start and end."""


def check_instant(field: str, instant: object) -> None:
    """Refuse an instant outside YEARS. An offset can move an instant out of the database's range, and the driver writes
    the first and last instants as infinite values, which are read without a time zone.
    """
    if isinstance(instant, datetime):
        try:
            sane = instant.astimezone(UTC).year in YEARS
        except OverflowError:
            sane = False
        if not sane:
            raise InvalidInput(field=field, problem=f"must be in the years {YEARS.start} to {YEARS.stop - 1}, in UTC")
