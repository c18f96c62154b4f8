"""Every cell of the conformance suite against the simulator, in the ordinary run of the tests."""

from __future__ import annotations

import pytest

from tests.conformance.cells import CELLS, Cell
from tests.conformance.providers import simulator
from tests.conftest import ROOT


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
async def test_the_simulator_keeps_the_promise(cell: Cell) -> None:
    assert "simulator" not in cell.lacks
    async with simulator() as provider:
        await cell.run(provider)


def test_the_documented_table_has_each_cell():
    page = (ROOT / "docs/how-to/try-stripe.md").read_text()
    outcomes = [f"not supported: {cell.lacks['localstripe']}" if cell.lacks else "passed" for cell in CELLS]
    for cell, outcome in zip(CELLS, outcomes, strict=True):
        assert f"| {cell.name} | passed | {outcome} |" in page, "run nox -s conformance and show its table"
    assert page.count("| passed |") == len(CELLS)
