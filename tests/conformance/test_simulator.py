"""Every cell of the conformance suite against the simulator, in the ordinary run of the tests."""

from __future__ import annotations

import pytest

from tests.conformance.cells import CELLS, Cell
from tests.conformance.providers import simulator


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
async def test_the_simulator_keeps_the_promise(cell: Cell) -> None:
    assert "simulator" not in cell.lacks
    async with simulator() as provider:
        await cell.run(provider)
