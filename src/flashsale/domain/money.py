"""Money as an integer of minor units plus a currency."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flashsale.domain.errors import InvalidInput

MINOR_UNITS_PER_MAJOR = 100
"""Every currency sold in has two decimals (ISO 4217 exponent 2)."""

PRICE_MINOR_MAX = 10**12
"""Largest price of one unit, in minor units; a product of it and the largest quantity fits in 8 bytes."""

_AMOUNT = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,2}))?")
_CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An amount: `minor` minor units (cents) of `currency` (ISO 4217 code, three capitals)."""

    minor: int
    currency: str

    def __str__(self) -> str:
        """Return the amount without its currency, as the API writes it: `999.99`."""
        return f"{self.minor // MINOR_UNITS_PER_MAJOR}.{self.minor % MINOR_UNITS_PER_MAJOR:02d}"

    def times(self, quantity: int) -> Money:
        """Return the price of `quantity` units."""
        return Money(minor=self.minor * quantity, currency=self.currency)


def parse_money(amount: str, currency: str) -> Money:
    """Read an amount such as `999.99` or `5`.

    Raises:
        InvalidInput: if `amount` is not a positive decimal with at most two decimals, or `currency` is not a code.
    """
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise InvalidInput(field="price", problem="must be a decimal number such as 999.99")
    if _CURRENCY.fullmatch(currency) is None:
        raise InvalidInput(field="currency", problem="must be an ISO 4217 code such as USD")
    minor = int(match[1]) * MINOR_UNITS_PER_MAJOR + int((match[2] or "0").ljust(2, "0"))
    if not 0 < minor <= PRICE_MINOR_MAX:
        raise InvalidInput(field="price", problem="must be more than 0 and at most 10000000000.00")
    return Money(minor=minor, currency=currency)
