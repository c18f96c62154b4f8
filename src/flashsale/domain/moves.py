"""Moves of products between cells: what each cell says of them must fit together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from flashsale.domain.cells import home_of_product

if TYPE_CHECKING:
    from collections.abc import Sequence

MOVES = UUID("5c1b0c5e-3f0a-4d0e-9a44-7f6a2d9b1e30")


def move_of(product_id: int) -> UUID:
    """Return the id of a product's only move: the same one again, after a restore of its cell too."""
    return uuid5(MOVES, str(product_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """Units that left for another cell."""

    product_id: int
    move_id: UUID
    to_cell: int
    units: int
    moved_to: int | None
    """The product that has them there; None: the move is not at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A product that was made with units of another cell."""

    product_id: int
    move_id: UUID
    from_product_id: int
    units: int


def contradictions(departures: Sequence[Departure], arrivals: Sequence[Arrival], cells: set[int]) -> list[str]:
    """Return what is wrong between these cells, a sentence each: units that are in two cells, in none, or in another.

    The arrivals were read first. A move is half done if its product is in neither cell for sale, or the first one does
    not know its new number; the same command ends it.
    """
    left = {one.move_id: one for one in departures}
    arrived = {one.move_id: one for one in arrivals}
    wrong = [
        f"{count} products were made of product {product_id}"
        for product_id, count in Counter(one.from_product_id for one in arrivals).items()
        if count > 1
    ]
    for here in arrivals:
        there = left.get(here.move_id)
        if there is None:
            if home_of_product(here.from_product_id) in cells:
                wrong.append(
                    f"product {here.product_id} has {here.units} units of product {here.from_product_id}, "
                    "which never left"
                )
        elif (there.product_id, there.units, there.to_cell) != (
            here.from_product_id,
            here.units,
            home_of_product(here.product_id),
        ):
            wrong.append(
                f"{there.units} units of product {there.product_id} left for cell {there.to_cell}, "
                f"and product {here.product_id} has {here.units} units of product {here.from_product_id}"
            )
        elif there.moved_to is not None and there.moved_to != here.product_id:
            wrong.append(f"product {there.product_id} leads to {there.moved_to} and not to {here.product_id}")
    for there in departures:
        if there.to_cell not in cells or (there.moved_to is not None and there.move_id in arrived):
            continue
        state = (
            f"the move of product {there.product_id} to cell {there.to_cell} is half done"
            if there.moved_to is None
            else f"product {there.product_id} leads to {there.moved_to}, which cell {there.to_cell} does not have"
        )
        wrong.append(f"{state}: repeat `flashsale cells move {there.product_id}`")
    return wrong
