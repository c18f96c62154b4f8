"""Rows of CSV files (RFC 4180) that a spreadsheet opens without running anything in them."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMULAS = ("=", "+", "-", "@")
"""Spreadsheets run a cell that begins so: OWASP, "CSV Injection"."""
ROW_END = "\r\n"
_CONTROLS = dict.fromkeys([*range(0x20), 0x7F], " ")


def csv_rows(rows: Iterable[Iterable[object]]) -> str:
    """Render rows. A text that would be a formula gets an apostrophe before it, and control characters become spaces.

    ROW_END therefore ends rows and stands nowhere else. Numbers stay as they are, negative ones too.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=ROW_END)
    for row in rows:
        writer.writerow([_cell(one) if isinstance(one, str) else one for one in row])
    return text.getvalue()


def _cell(text: str) -> str:
    shown = text.translate(_CONTROLS)
    return f"'{shown}" if shown.lstrip().startswith(FORMULAS) and not _is_number(shown) else shown


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdecimal() and text.isascii()
