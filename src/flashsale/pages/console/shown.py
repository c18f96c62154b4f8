"""How the console writes values."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from flashsale.domain.errors import FlashSaleError, NotOnSale, SaleEnded, SaleMoved, SaleNotStarted, SalePaused
from flashsale.http.routes.problem_pages import MEANINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashsale.domain.money import Money

DONE = {
    "created": "The product is created.",
    "changed": "The product is changed.",
    "paused": "The sale is paused: nobody can buy.",
    "resumed": "The sale is no longer paused.",
    "closed": "The sale is closed.",
    "archived": "The product is archived.",
    "stock": "The stock is changed.",
    "cancelled": "The order is cancelled; its units are free again.",
    "refunding": "The refund is on its way: a payment worker makes it.",
    "owed": "The refund is noted. Give the money back, then record it here.",
    "recorded": "The payment is recorded: a payment worker confirms the order.",
    "returned": "The refund is recorded.",
    "staff": "The account is created.",
    "role": "The role is changed; the account's sessions and tokens have ended.",
    "ended": "All sessions and tokens of the account have ended.",
}
"""What an action says after it, by the word that the next page's path carries."""

STATES: dict[type[NotOnSale], tuple[str, str]] = {
    SalePaused: ("paused", "paused"),
    SaleNotStarted: ("not started", "before"),
    SaleEnded: ("ended", "ended"),
    SaleMoved: ("moved", "ended"),
}


def sale_state(closed: NotOnSale | None, *, free: int) -> tuple[str, str]:
    """Return the state of a sale as a reader sees it, and its name in the style sheet."""
    if closed is not None:
        return STATES.get(type(closed), ("closed", "ended"))
    return ("on sale", "open") if free else ("sold out", "out")


def number(value: float) -> str:
    """Write a number with separators: 1,000 or 0.4."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def money(value: Money) -> str:
    """Write an amount with its currency: 699,993.00 USD."""
    whole, point, decimals = str(value).partition(".")
    return f"{int(whole):,}{point}{decimals} {value.currency}" if int(whole) else f"{value} {value.currency}"


def instant(value: datetime | None) -> str:
    """Write a time in UTC, to the second."""
    return "never" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def for_input(value: datetime | None) -> str:
    """Write a time in UTC as a field of a form holds it."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"


def age(seconds: float) -> str:
    """Write an age: 3 s, 4 min, 2 h."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def words(name: str) -> str:
    """Write a name of the code as words: payment_unknown, payment unknown."""
    return name.replace("_", " ")


def facts(values: Mapping[str, Any] | None) -> str:
    """Write facts in a line."""
    if not values:
        return "-"
    return ", ".join(f"{words(name)} {_fact(value)}" for name, value in values.items() if value is not None)


def _fact(value: object) -> str:
    return instant(value) if isinstance(value, datetime) else str(value)


def advice(error: FlashSaleError) -> str:
    """Say what to do about a refusal, as the page of its code does; empty: nothing is to be said."""
    _, _, todo = MEANINGS.get(error.code, (0, "", "-"))
    return "" if todo == "-" else f"{todo[0].upper()}{todo[1:]}.".replace("`", "")


def stand(*shown: object) -> str:
    """Return what is another one once something that a page shows has changed."""
    return hashlib.blake2b(repr(shown).encode(), digest_size=8).hexdigest()


def day(value: date) -> str:
    """Write a day."""
    return value.isoformat()


FILTERS: dict[str, Callable[..., str]] = {
    one.__name__: one for one in (number, money, instant, for_input, age, words, facts, advice, day)
}
"""Filters of the templates."""
