"""Kill one cell as a whole in the middle of both sales: the other one must not notice, and both must end whole."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cells.shop import Crowd, create, sell, settled, tokens_of

if TYPE_CHECKING:
    from tests.cells.shop import TwoCells


NOTICED_S = 1.0
"""A buyer who waits for longer noticed that the cell was dead; a start takes seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What happened."""

    dead: int
    """Which cell was killed."""
    alone: Crowd
    """The crowd of the living cell with a product of its own, before, while both cells live."""
    living: Crowd
    """The crowd of the living cell, while the other one dies and comes back."""
    struck: Crowd
    """The crowd of the cell that was killed."""
    sold: dict[int, int]
    """Accepted orders of the two products, by cell."""
    audit: str

    def faults(self, units: int, buyers: int) -> list[str]:
        """Say what is not as promised."""
        wrong = []
        if self.living.errors or self.living.undecided:
            wrong.append(f"the living cell's buyers saw {dict(self.living.errors)}")
        for name, crowd in (("living", self.living), ("struck", self.struck)):
            if crowd.accepted != units or crowd.refused != {"sold_out": buyers - units}:
                wrong.append(f"{name}: {crowd.accepted} accepted, {dict(crowd.refused)}, {crowd.undecided} undecided")
        # A connection that finds nobody waits until the cell is back.
        if not self.struck.errors and max(self.struck.seconds) < NOTICED_S:
            wrong.append("nobody noticed that a cell was killed")
        return wrong


async def trial(shop: TwoCells, *, dead: int, units: int, buyers: int, over_s: float) -> Trial:
    """Sell a product of each cell to buyers of its own, kill one cell after a third of its units, and start it again."""
    tokens = await tokens_of(shop, buyers)
    living = 1 - dead
    before = Crowd()
    await sell(shop, await create(shop, living, units), tokens, over_s=over_s, some=1, crowd=before)
    products = {cell: await create(shop, cell, units) for cell in (dead, living)}
    crowds = {cell: Crowd() for cell in products}

    async def strike() -> None:
        await crowds[dead].sold_some.wait()
        await shop.kill(dead)
        crowds[dead].rest_may_come.set()
        # Down until the living cell has sold out to tokens in hand.
        while crowds[living].accepted < units:
            await asyncio.sleep(0.05)
        await shop.start(dead)

    await asyncio.gather(
        strike(),
        *(
            sell(shop, products[cell], tokens, over_s=over_s, some=units // 3, crowd=crowds[cell], held=cell == dead)
            for cell in (dead, living)
        ),
    )
    await settled(shop)
    audit = await shop.check("audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr
    return Trial(
        dead=dead,
        alone=before,
        living=crowds[living],
        struck=crowds[dead],
        sold={cell: crowds[cell].accepted for cell in products},
        audit=audit.stdout,
    )
