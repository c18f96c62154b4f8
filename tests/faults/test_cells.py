"""A quick part of the kill matrix (`nox -s faults` runs all of it): small sales, one seed."""

from __future__ import annotations

import pytest
import pytest_asyncio

from flashsale.local.stack import Stack
from tests.faults.__main__ import demand
from tests.faults.cells import CELLS
from tests.faults.scene import play

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK = {
    "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.2",
    "FLASHSALE_PAYMENTS__TIMEOUT_S": "2",
    "FLASHSALE_ORDERS__PAYMENT_DUE_S": "2",
    "FLASHSALE_LOG__LEVEL": "warning",
}
NAMES = (
    "all workers killed",
    "Valkey killed, data gone",
    "Postgres killed",
    "every process replaced",
    "adversary in Valkey",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory):
    """One stack for all sales, as in `nox -s soak`: what a fault leaves behind also shows in the sales after it."""
    async with Stack(tmp_path_factory.mktemp("stack"), port=0, payments=2, environment=QUICK) as stack:
        yield stack


@pytest.mark.parametrize("name", NAMES)
async def test_nothing_is_lost_leaked_sold_twice_or_charged_wrongly(stack, tmp_path, name):
    cell = next(cell for cell in CELLS if cell.name == name)
    result = await play(stack, cell, 1, demand(100, 300, 1), tmp_path)
    assert result.right, "\n".join(result.problems)
    assert result.fault_to_202_s is not None
