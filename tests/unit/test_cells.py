"""The ids of cells: what they name, in an order of time that all cells share."""

from uuid import UUID

import pytest

from flashsale.domain.cells import (
    CELL_MAX,
    Cells,
    first_product,
    home_of_order,
    home_of_product,
    last_product,
)
from flashsale.domain.errors import (
    BadCredentials,
    OrderNotFound,
    OtherCell,
    ProductNotFound,
    SoldOut,
    Unauthenticated,
    Unavailable,
)
from flashsale.domain.products import PRODUCT_ID_MAX
from flashsale.domain.requests import order_id_at
from flashsale.http.cells import as_of_cell
from flashsale.http.problems import problem_of
from flashsale.settings.cells import CellSettings

ENTROPIES = (bytes(10), b"\xff" * 10, bytes(range(10)), b"\xa5" * 10)


@pytest.mark.parametrize("cell", range(CELL_MAX + 1))
def test_an_order_id_names_its_cell(cell):
    for entropy in ENTROPIES:
        order_id = order_id_at(1_800_000_000_000, entropy, cell)
        assert home_of_order(order_id) == cell
        assert order_id.variant == UUID(int=0).variant or order_id.version == (8 if cell else 7)
        if cell:
            assert str(order_id)[14:18] == f"8{cell:03}"


def test_order_ids_of_all_cells_sort_by_time():
    made = [order_id_at(ms, entropy, cell) for ms in (1, 2, 2**48 - 1) for entropy in ENTROPIES for cell in (0, 1, 199)]
    assert [one.int >> 80 for one in sorted(made)] == sorted(one.int >> 80 for one in made)
    # Postgres takes the least id of an instant as a boundary.
    assert all(UUID(int=(one.int >> 80) << 80) < one for one in made)


def test_order_ids_of_a_cell_differ_as_their_random_bytes_do():
    assert len({order_id_at(5, bytes([n] * 10), 7) for n in range(256)}) == 256


@pytest.mark.parametrize("cell", range(CELL_MAX + 1))
def test_the_products_of_a_cell_are_its_own(cell):
    assert home_of_product(first_product(cell)) == home_of_product(last_product(cell)) == cell
    assert last_product(cell) < first_product(cell + 1) <= PRODUCT_ID_MAX


@pytest.mark.parametrize("odd", [UUID(int=0), UUID(int=2**128 - 1), UUID("01890a5d-ac96-8abc-8000-000000000000")])
def test_what_is_no_order_id_is_looked_for_in_cell_0(odd):
    assert home_of_order(odd) == 0


ORDER = str(order_id_at(1, bytes(10), 2))


def test_a_shop_of_one_cell_says_not_found_whatever_the_id():
    for error in (ProductNotFound(20_000_001), OrderNotFound(), Unauthenticated("a", unknown=True)):
        assert as_of_cell(Cells(), error, f"/api/order/{ORDER}/status") is error


def test_what_another_cell_has_is_misdirected_and_names_it():
    cells = Cells(number=1, count=3)
    for error, path in ((ProductNotFound(20_000_001), "/"), (OrderNotFound(), f"/api/order/{ORDER.upper()}/status")):
        told = as_of_cell(cells, error, path)
        assert isinstance(told, OtherCell)
        assert told.cell == 2
        answer = problem_of(told)
        assert answer.status == 421
        assert b'"cell":2' in answer.body


def test_what_no_cell_has_is_not_found():
    cells = Cells(number=1, count=3)
    for error, path in (
        (ProductNotFound(10_000_001), "/"),
        (ProductNotFound(30_000_001), "/"),
        (OrderNotFound(), f"/api/order/{order_id_at(1, bytes(10), 1)}/status"),
        (OrderNotFound(), "/"),
        (SoldOut(), "/"),
        (Unauthenticated("a", refused=True), "/"),
    ):
        assert as_of_cell(cells, error, path) is error


def test_an_account_that_has_not_arrived_is_no_definite_no():
    told = as_of_cell(Cells(number=1, count=2), Unauthenticated("a", unknown=True), "/")
    assert isinstance(told, Unavailable)
    assert told.retry_after_s > 0
    account_cell = Unauthenticated("a", unknown=True)
    assert as_of_cell(Cells(number=0, count=2), account_cell, "/") is account_cell


def test_a_wrong_password_is_no_definite_no_where_the_new_one_may_not_have_arrived():
    told = as_of_cell(Cells(number=1, count=2), BadCredentials(), "/api/auth/login")
    assert isinstance(told, OtherCell)
    assert told.cell == 0
    wrong = BadCredentials()
    assert as_of_cell(Cells(number=0, count=2), wrong, "/api/auth/login") is wrong


def test_a_number_that_is_none_of_the_cells_is_refused():
    with pytest.raises(ValueError, match="number 2 is none of 2 cells"):
        CellSettings(number=2, count=2)
