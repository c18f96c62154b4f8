"""Records: the books by day, and the trail of administration."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from flashsale.domain.errors import InvalidInput
from flashsale.http.routes import books, trail
from flashsale.pages.console.forms import day_of, instant_of, number_of, text_of
from flashsale.pages.console.frame import Page, as_in_api, csv_file
from flashsale.runtime.csv_rows import csv_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.domain.books import BookEntry
    from flashsale.domain.trail import TrailEntry
    from flashsale.http.messages import Answer
    from flashsale.pages.console.frame import Frame, Visit

BOOKS = "/console/books"
CSV = f"{BOOKS}.csv"
TRAIL = "/console/trail"
DAYS = 7
"""Days that the books show if none are named."""
TRAIL_PAGE = 100
TEXT_MAX = 254

COLUMNS = ("day", "productId", "product", "currency", "payments", "revenue", "refunds", "refunded", "fees", "net")
"""Columns of the file."""


class Records:
    """The pages."""

    def __init__(self, frame: Frame) -> None:
        """Use a frame."""
        self._frame = frame
        self._services = frame.services

    def pages(self) -> list[Page]:
        """Return the pages."""
        right = as_in_api(books.BOOKS)
        return [
            Page(path=BOOKS, right=right, view=self.books),
            Page(path=CSV, right=right, view=self.books_file),
            Page(path=TRAIL, right=as_in_api(trail.TRAIL), view=self.trail),
        ]

    async def books(self, visit: Visit) -> Answer:
        """Show what was taken and given back, by day."""
        asked = {name: visit.query.get(name, "") for name in ("since", "until", "timeZone")}
        entries: Sequence[BookEntry] = []
        try:
            asked, entries = await self._read(visit)
        except InvalidInput as error:
            visit = replace(visit, error=error)
        return self._frame.render(visit, "books.html", asked=asked, entries=entries, export=urlencode(asked))

    async def books_file(self, visit: Visit) -> Answer:
        """Return the same as a file."""
        asked, entries = await self._read(visit)
        rows = (
            (
                one.day.isoformat(), one.product_id, one.product_name, one.revenue.currency, one.payments,
                str(one.revenue), one.refunds, str(one.refunded), "" if one.fees is None else str(one.fees),
                str(one.net),
            )
            for one in entries
        )  # fmt: skip
        return csv_file(f"books-{asked['since']}-{asked['until']}.csv", csv_rows([COLUMNS, *rows]).encode())

    async def _read(self, visit: Visit) -> tuple[dict[str, str], Sequence[BookEntry]]:
        until = day_of(visit.query.get("until", ""), "until") or datetime.now(UTC).date()
        since = day_of(visit.query.get("since", ""), "since") or until - timedelta(days=DAYS - 1)
        zone = text_of(visit.query.get("timeZone", ""), "timeZone", most=books.ZONE_CHARS_MAX) or "UTC"
        entries = await self._services.read_books(since=since, until=until, zone=zone)
        return {"since": since.isoformat(), "until": until.isoformat(), "timeZone": zone}, entries

    async def trail(self, visit: Visit) -> Answer:
        """Show who changed what, the newest first."""
        asked = {name: visit.query.get(name, "").strip() for name in ("actor", "action", "object", "since", "until")}
        rows: Sequence[TrailEntry] = []
        try:
            rows = await self._services.trail.read(
                before=number_of(visit.query.get("before", ""), "before", most=2**63 - 1),
                actor=text_of(asked["actor"], "actor", most=TEXT_MAX),
                action=text_of(asked["action"], "action", most=TEXT_MAX),
                of=text_of(asked["object"], "object", most=TEXT_MAX),
                since=instant_of(asked["since"], "since"),
                until=instant_of(asked["until"], "until"),
                limit=TRAIL_PAGE,
            )
        except InvalidInput as error:
            visit = replace(visit, error=error)
        kept = {name: value for name, value in asked.items() if value}
        more = urlencode({**kept, "before": rows[-1].trail_id}) if len(rows) == TRAIL_PAGE else None
        return self._frame.render(visit, "trail.html", rows=rows, asked=asked, more=more)
