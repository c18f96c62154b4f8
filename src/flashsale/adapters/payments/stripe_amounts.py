"""Amounts as Stripe writes them: integers, whose decimals differ from ISO 4217 for some currencies.

Source: https://docs.stripe.com/currencies (zero-decimal, three-decimal and special-case currencies).
"""

from __future__ import annotations

from flashsale.domain.errors import InvalidInput
from flashsale.domain.money import Money

ZERO_DECIMALS = frozenset(
    "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split()  # noqa: SIM905 - as Stripe lists them
)
"""Whole amounts. The ariary (MGA) has two decimals in ISO 4217, and none here."""

TENS = frozenset("BHD JOD KWD OMR TND".split())  # noqa: SIM905 - as Stripe lists them
"""Three decimals, of which the last must be 0: card networks know two."""

TWO_DECIMALS_OF_NONE = frozenset({"ISK", "UGX"})
"""Without decimals in ISO 4217, and sent with two, which must be 0."""

SCALE = (1, 10, 100, 1000, 10_000)


def to_stripe(amount: Money) -> int:
    """Return an amount as Stripe takes it.

    Raises:
        InvalidInput: if Stripe cannot charge this amount: a fraction that it does not know, or a currency with three or
            four decimals that it does not have.
    """
    ours, theirs = amount.exponent, _decimals(amount.currency)
    if ours > theirs:
        sent, left = divmod(amount.minor, SCALE[ours - theirs])
    else:
        sent, left = amount.minor * SCALE[theirs - ours], 0
    if left or (amount.currency in TENS and sent % 10):
        raise InvalidInput(field="price", problem=f"{amount} {amount.currency} has a fraction that Stripe lacks")
    return sent


def from_stripe(amount: int, currency: str) -> Money:
    """Return what Stripe says as money; its currency codes are small letters.

    Raises:
        InvalidInput: if the amount has a fraction that the currency does not have, or the currency is not Stripe's.
    """
    code = currency.upper()
    ours, theirs = Money(minor=0, currency=code).exponent, _decimals(code)
    minor, left = divmod(amount * SCALE[max(0, ours - theirs)], SCALE[max(0, theirs - ours)])
    if left:
        raise InvalidInput(field="amount", problem=f"{amount} of Stripe is no whole number of minor units of {code}")
    return Money(minor=minor, currency=code)


def _decimals(code: str) -> int:
    if code in ZERO_DECIMALS:
        return 0
    if code in TENS:
        return 3
    if code not in TWO_DECIMALS_OF_NONE and Money(minor=0, currency=code).exponent != 2:  # noqa: PLR2004 - the rule's own
        raise InvalidInput(field="currency", problem=f"{code} is a currency that Stripe does not take")
    return 2
