"""A quick part of the kill matrix (`nox -s faults` runs all of it): small sales, one seed."""

from __future__ import annotations

import asyncio

import pytest

from flashsale.local.stack import Stack
from tests.faults.__main__ import demand
from tests.faults.cells import CELLS
from tests.faults.scene import play

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


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_leaked_sold_twice_or_charged_wrongly(tmp_path, name):
    cell = next(cell for cell in CELLS if cell.name == name)

    async def run():
        async with Stack(tmp_path, port=0, payments=2, environment=QUICK) as stack:
            return await play(stack, cell, 1, demand(100, 300, 1), tmp_path / "sale")

    result = asyncio.run(run())
    assert result.right, "\n".join(result.problems)
    assert result.fault_to_202_s is not None
