"""What cells say of products that moved between them fits together, or each contradiction is named."""

import itertools
import uuid
from dataclasses import replace

import pytest

from flashsale.domain.cells import first_product
from flashsale.domain.moves import Arrival, Departure, contradictions

MOVE = uuid.UUID(int=1)
LEFT = Departure(product_id=7, move_id=MOVE, to_cell=1, units=5, moved_to=first_product(1))
CAME = Arrival(product_id=first_product(1), move_id=MOVE, from_product_id=7, units=5)
BOTH = {0, 1}


def test_a_move_that_is_whole_contradicts_nothing():
    assert contradictions([LEFT], [CAME], BOTH) == []
    # A product that goes on to a third cell.
    on = replace(LEFT, product_id=CAME.product_id, move_id=uuid.UUID(int=2), to_cell=2, moved_to=first_product(2))
    there = Arrival(product_id=first_product(2), move_id=on.move_id, from_product_id=CAME.product_id, units=5)
    assert contradictions([LEFT, on], [CAME, there], {0, 1, 2}) == []
    # Of a cell that was not asked nothing is known.
    assert contradictions([LEFT, on], [CAME], BOTH) == []
    assert contradictions([], [CAME], {1}) == []


WRONG = {
    "units": 6,
    "move_id": uuid.UUID(int=9),
    "product_id": 8,
    "to_cell": 0,
    "from_product_id": 8,
    "moved_to": first_product(1) + 1,
}
CHANGES = [
    (which, field, WRONG[field])
    for which, fields in (
        ("left", ("product_id", "move_id", "to_cell", "units", "moved_to")),
        ("came", ("move_id", "from_product_id", "units")),
    )
    for field in fields
]


@pytest.mark.parametrize(("which", "field", "value"), CHANGES, ids=str)
def test_each_value_that_is_wrong_in_one_cell_is_named(which, field, value):
    left = replace(LEFT, **{field: value}) if which == "left" else LEFT
    came = replace(CAME, **{field: value}) if which == "came" else CAME
    assert contradictions([left], [came], BOTH)


def test_units_in_two_cells_or_in_none_are_named():
    assert contradictions([], [CAME], BOTH) == [f"product {CAME.product_id} has 5 units of product 7, which never left"]
    assert "which cell 1 does not have" in contradictions([LEFT], [], BOTH)[0]
    twice = [CAME, replace(CAME, product_id=first_product(2))]
    assert any("2 products were made of product 7" in one for one in contradictions([LEFT], twice, {0, 1, 2}))


@pytest.mark.parametrize("arrived", [False, True])
def test_a_move_that_is_half_done_is_named_with_the_command_that_ends_it(arrived):
    half = replace(LEFT, moved_to=None)
    [told] = contradictions([half], [CAME] * arrived, BOTH)
    assert told.endswith("half done: repeat `flashsale cells move 7`")


def test_nothing_is_said_of_cells_that_agree_whatever_their_order():
    moves = [
        (replace(LEFT, product_id=one, move_id=uuid.UUID(int=one), moved_to=first_product(1) + one), one)
        for one in (1, 2, 3)
    ]
    came = [
        replace(CAME, product_id=first_product(1) + one, move_id=uuid.UUID(int=one), from_product_id=one)
        for _, one in moves
    ]
    for order in itertools.permutations(came):
        assert contradictions([left for left, _ in moves], order, BOTH) == []
