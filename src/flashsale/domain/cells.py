"""Cells: a shop may be several whole stacks, each of which sells its own products (docs/how-to/several-cells.md).

The ids say where their things are, in decimal digits that a router can read. Cell 0 has the ids of a shop of one cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

CELL_MAX = 199
"""So that the products of the last cell have ids of four bytes."""

PRODUCTS = 10_000_000
"""How many ids each cell has: 12000034 is a product of cell 1."""

ACCOUNTS = 0
"""The cell that changes accounts; the others have copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The cells of a shop, as one of them knows them."""

    number: int = 0
    """Which one this is."""
    count: int = 1

    def elsewhere(self, home: int) -> bool:
        """Say whether a cell is another one of this shop."""
        return home != self.number and home < self.count


def first_product(cell: int) -> int:
    """Return the least product id of a cell."""
    return cell * PRODUCTS + 1


def last_product(cell: int) -> int:
    """Return the greatest product id of a cell."""
    return (cell + 1) * PRODUCTS - 1


def home_of_product(product_id: int) -> int:
    """Return the cell that a product id names."""
    return product_id // PRODUCTS


def home_of_order(order_id: UUID) -> int:
    """Return the cell that an order id names; 0 for an id of version 7, and for what is no order id."""
    if order_id.version != 8:  # noqa: PLR2004 - see `order_id_at`
        return 0
    digits = f"{order_id.int >> 64 & 0xFFF:03x}"
    return int(digits) if digits.isdecimal() else 0
