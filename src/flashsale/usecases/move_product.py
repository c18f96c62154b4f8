"""Move a product to another cell, in steps that each can be repeated.

In one transaction its free units leave the one cell; in the next a product of the other cell has them. Between the two
they are nowhere for sale. After a crash at any instant, the same call goes on where the last one ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flashsale.domain.cells import home_of_product
from flashsale.domain.errors import NotReady, ProductNotFound, ProductOpen
from flashsale.domain.moves import move_of

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.products import NewProduct

WHY_NOT = {
    "archived": "The product is archived.",
    "none": "No unit of the product is free.",
    "on_sale": "The product is on sale: pause it, or end its sale.",
    "orders": "The product has orders that are not final: wait until they are final, or cancel them.",
    "refunds": "The product has pending refunds: wait until they are made.",
    "limits": "Buyers have units of the product, and its limit per buyer counts from zero in the other cell: "
    "allow it with --limits-anew.",
}
"""Why a product does not leave, by what Postgres says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """A product that moves, or may move."""

    product_id: int
    terms: NewProduct
    """Its terms, with the units that left or would leave as allotment."""
    paused: bool
    move_id: UUID | None
    """None: nothing has left."""
    to_cell: int | None
    moved_to: int | None
    """The product that it became, as far as its own cell knows."""


class MovingCell(Protocol):
    """What a cell does for a move; each call is a transaction, and has no effect when it is repeated."""

    async def number(self) -> int:
        """Return the cell's number, as its database has it."""

    async def moving(self, product_id: int) -> Moving | None:
        """Read a product of this cell; None: there is none."""

    async def leave(self, product_id: int, move_id: UUID, to_cell: int, *, limits_anew: bool) -> str:
        """Let the free units of a product leave. Returns `left`, `before` (they left already), or why not."""

    async def enter(self, moving: Moving, move_id: UUID, *, rehearse: bool = False) -> int:
        """Create the product that another cell's becomes, and return its id; `rehearse`: undo it.

        Raises:
            NotReady: if this cell refuses it.
        """

    async def tell(self, product_id: int, move_id: UUID, moved_to: int) -> None:
        """Write what a product became."""


async def move_product(
    old: MovingCell, new: MovingCell, product_id: int, *, limits_anew: bool = False
) -> tuple[int, int]:
    """Move a product; returns the units that moved, and its id in the other cell.

    Raises:
        NotReady: if the cells are not those of the product and of an unfinished move, or one refuses.
        ProductNotFound: if there is none.
        ProductOpen: if the product cannot leave; the detail says why not.
    """
    here, there = await old.number(), await new.number()
    if home_of_product(product_id) != here:
        raise NotReady(f"Product {product_id} is one of cell {home_of_product(product_id)}, and --from is cell {here}.")
    if here == there:
        raise NotReady(f"Both files are of cell {here}.")
    moving = await old.moving(product_id)
    if moving is None:
        raise ProductNotFound(product_id)
    if moving.move_id is None:
        # A cell that would refuse the product refuses it before anything has left.
        if moving.terms.allotment:
            await new.enter(moving, move_of(product_id), rehearse=True)
        left = await old.leave(product_id, move_of(product_id), there, limits_anew=limits_anew)
        if left not in {"left", "before"}:
            raise ProductOpen(WHY_NOT.get(left, left))
        moving = await old.moving(product_id)
    if moving is None or moving.move_id is None:
        raise AssertionError
    if moving.to_cell != there:
        raise NotReady(f"Product {product_id} moves to cell {moving.to_cell}, and --to is cell {there}.")
    # Also after the end of a move: the other cell may have been restored to a time before the product came.
    became = await new.enter(moving, moving.move_id)
    if became != moving.moved_to:
        await old.tell(product_id, moving.move_id, became)
    return moving.terms.allotment, became
