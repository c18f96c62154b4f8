"""The books: what was taken and given back, by day, product and currency."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

from flashsale.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.domain.books import BookEntry

DAYS_MAX = 366
"""Days in one reading: more would make one request read for minutes."""


class LedgerDays(Protocol):
    """Payments and refunds in Postgres, by the time at which the money moved."""

    async def day(self, day: date, since: datetime, until: datetime) -> Sequence[BookEntry]:
        """Sum what moved from one instant until another."""
        ...


class ReadBooks:
    """The use case. The caller checks the permission."""

    def __init__(self, ledger: LedgerDays) -> None:
        """Read these payments and refunds."""
        self._ledger = ledger

    async def __call__(self, *, since: date | None, until: date | None, zone: str) -> list[BookEntry]:
        """Return the entries of days from `since` to `until`, both included; one statement reads one day.

        `until` is today if it is missing, `since` is `until`. `zone`: whose midnight divides the days.

        Raises:
            InvalidInput: if the zone is unknown, or the days are out of order or too many.
        """
        midnight = _zone(zone)
        last = until or datetime.now(tz=midnight).date()
        first = since or last
        if last < first:
            raise InvalidInput(field="until", problem="must not be before since")
        if (last - first).days >= DAYS_MAX:
            raise InvalidInput(field="since", problem=f"must be within {DAYS_MAX} days before until")
        if not 1970 < first.year <= last.year < 9999:  # noqa: PLR2004
            raise InvalidInput(field="since", problem="must be in the years 1971 to 9998")
        found: list[BookEntry] = []
        for number in range((last - first).days + 1):
            day = first + timedelta(days=number)
            begin, end = (datetime.combine(one, time(), midnight).astimezone(UTC) for one in (day, day + timedelta(1)))
            found += await self._ledger.day(day, begin, end)
        return found


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise InvalidInput(field="timeZone", problem="must be a time zone such as UTC or Europe/Berlin") from None
