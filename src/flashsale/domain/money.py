"""Money as an integer of minor units plus a currency."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import iso4217

from flashsale.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPONENTS: Mapping[str, int] = {
    currency.code: currency.exponent for currency in iso4217.Currency if currency.exponent is not None
}
"""Decimals of every currency that something can be sold in, by its ISO 4217 code.

From the list of the ISO 4217 maintenance agency. Gold, test codes and other codes without a minor unit are no currency
that a buyer pays with. The table `currencies` in Postgres holds the same codes; a test compares the two.
"""

UNKNOWN_EXPONENT = 2
"""Decimals of a code that is not in the list: a product that an older release made may have one."""

PRICE_MINOR_MAX = 10**12
"""Largest price of one unit, in minor units; a product of it and the largest quantity fits in 8 bytes."""

_AMOUNT = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An amount: `minor` minor units (cents) of `currency` (ISO 4217 code, three capitals)."""

    minor: int
    currency: str

    @property
    def exponent(self) -> int:
        """How many decimals the currency has."""
        return EXPONENTS.get(self.currency, UNKNOWN_EXPONENT)

    def __str__(self) -> str:
        """Return the amount without its currency, as the API writes it: `999.99`, in yen `1000`."""
        exponent = self.exponent
        digits = f"{abs(self.minor):0{exponent + 1}d}"
        sign = "-" if self.minor < 0 else ""
        return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}" if exponent else sign + digits

    def times(self, quantity: int) -> Money:
        """Return the price of `quantity` units."""
        return Money(minor=self.minor * quantity, currency=self.currency)


def parse_money(amount: str, currency: str, *, field: str = "price") -> Money:
    """Read an amount such as `999.99` or `5`; `field` is the name of the amount for a refusal.

    Raises:
        InvalidInput: if `currency` is not in the list, or `amount` is not a positive decimal number that is within the
            limit and has at most as many decimals as the currency.
    """
    exponent = EXPONENTS.get(currency)
    if exponent is None:
        raise InvalidInput(field="currency", problem="must be the ISO 4217 code of a currency, such as USD")
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise InvalidInput(field=field, problem="must be a decimal number such as 999.99")
    decimals = match[2] or ""
    if len(decimals) > exponent:
        raise InvalidInput(field=field, problem=f"must have at most {exponent} decimals in {currency}")
    minor = int(match[1] + decimals.ljust(exponent, "0"))
    if not 0 < minor <= PRICE_MINOR_MAX:
        most = Money(minor=PRICE_MINOR_MAX, currency=currency)
        raise InvalidInput(field=field, problem=f"must be more than 0 and at most {most}")
    return Money(minor=minor, currency=currency)
