"""The texts of the storefront, in each language that has a file in `messages/`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from flashsale.domain.money import Money
    from flashsale.http.messages import Request

FOLDER = Path(__file__).parent / "messages"
DEFAULT = "en"
SENT_MAX = 10
"""Languages of Accept-Language that are looked at."""
SCRIPTED = "js."
"""How the keys of texts begin that scripts show."""
_RANGE = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]{1,40})?\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


def _read() -> Mapping[str, Mapping[str, str]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


LANGUAGES = _read()
"""Texts by language and key."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of one visitor."""

    language: str
    chosen: bool = False
    """Whether `?lang=` named the language: links then name it too. Otherwise the browser's languages decide."""

    def __call__(self, key: str, **values: object) -> Markup:
        """Return a text with its values, escaped for HTML.

        Raises:
            KeyError: if there is no such text.
        """
        return Markup(escape(LANGUAGES[self.language][key])).format(**values)  # noqa: S704 - escaped

    def has(self, key: str) -> bool:
        """Return whether there is a text."""
        return key in LANGUAGES[self.language]

    @property
    def scripted(self) -> dict[str, str]:
        """Return the texts that scripts show, by key."""
        return {key: text for key, text in LANGUAGES[self.language].items() if key.startswith(SCRIPTED)}

    def url(self, path: str) -> str:
        """Return a path of the shop in this visitor's language."""
        if not self.chosen:
            return path
        return f"{path}{'&' if '?' in path else '?'}lang={self.language}"

    def amount(self, money: Money) -> str:
        """Write an amount with its currency: `1,499.00 USD`."""
        whole, _, decimals = str(money).partition(".")
        known = LANGUAGES[self.language]
        grouped = f"{int(whole):,}".replace(",", known["js.group"])
        return f"{grouped}{known['js.decimal'] + decimals if decimals else ''}\N{NO-BREAK SPACE}{money.currency}"

    def number(self, number: int) -> str:
        """Write a whole number: `1,000`."""
        return f"{number:,}".replace(",", LANGUAGES[self.language]["js.group"])

    @staticmethod
    def moment(instant: datetime) -> Markup:
        """Write an instant in UTC; a script puts the visitor's own time in its place."""
        text = f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return Markup('<time datetime="{}">{}</time>').format(f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", text)


def texts_of(request: Request) -> Texts:
    """Return the texts for a visitor: of `?lang=`, or the best of Accept-Language."""
    named = parse_qs(request.query.decode("latin-1")).get("lang", [""])[-1]
    if named in LANGUAGES:
        return Texts(named, chosen=True)
    return Texts(_accepted(b",".join(request.all(b"accept-language")).decode("latin-1")))


def _accepted(header: str) -> str:
    best, best_weight = DEFAULT, 0.0
    for part in header.split(",")[:SENT_MAX]:
        found = _RANGE.fullmatch(part)
        if found is not None and found[1].lower() in LANGUAGES:
            weight = float(found[2] or 1)
            if weight > best_weight:
                best, best_weight = found[1].lower(), weight
    return best
