"""What a payment provider's ledger says about the orders of a restored database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Charged(NamedTuple):
    """Money that the provider took for an order."""

    order_id: str
    amount_minor: int
    """The captured amount less refunds."""
    currency: str
    reference: str
    """The provider's id of the charge or intent."""


class GivenBack(NamedTuple):
    """A refund of an order that the database knows."""

    order_id: str
    key: str
    reference: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A ledger in two parts, and what they say of money."""

    kept: Sequence[str]
    """The lines about orders that the database knows, and about no order."""
    after: Sequence[str]
    """The lines about orders that it does not know."""
    charged: Sequence[Charged]
    """What was taken, and not given back, for orders that it does not know."""
    paid: Sequence[str]
    """The orders that it knows for which money was taken."""
    given_back: Sequence[GivenBack]
    """The refunds of orders that it knows."""
