"""The books: what was taken and given back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date

    from flashsale.domain.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class BookEntry:
    """What moved of a product's money in a currency on a day."""

    day: date
    product_id: int
    product_name: str
    """The present name."""
    payments: int
    refunds: int
    revenue: Money
    """Charges that were captured on that day."""
    refunded: Money
    """Refunds that succeeded on that day, also of charges of other days."""
    fees: Money | None = None
    """What the provider kept of the revenue; None: it is not known of each charge, in the same currency."""

    @property
    def net(self) -> Money:
        """Return what is left of the revenue, which may be negative."""
        kept = 0 if self.fees is None else self.fees.minor
        return replace(self.revenue, minor=self.revenue.minor - self.refunded.minor - kept)
