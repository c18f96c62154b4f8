"""A batch that Postgres refuses permanently is halved until the poison row is alone; that row is postponed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import structlog

from flashsale.domain.errors import Unavailable
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from flashsale.usecases.ports import Orders

Item = TypeVar("Item")
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


async def halve(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Awaitable[Result]],
    refused: Callable[[Item, PoisonBatch], Awaitable[None]],
) -> list[Result]:
    """Run a batch; if Postgres refuses the batch, run its halves. Returns the result of each part, in order.

    `refused` is called with each item that is refused alone. A failed part does not stop the others. One culprit among
    n items costs about 2 log2(n) further calls.

    Raises:
        Unavailable: if a part was not decided; raised after the other parts were run.
    """
    if not items:
        return []
    try:
        return [await run(items)]
    except PoisonBatch as poison:
        if len(items) == 1:
            await refused(items[0], poison)
            return []
    middle = len(items) // 2
    results: list[Result] = []
    undecided: Unavailable | None = None
    for half in (items[:middle], items[middle:]):
        try:
            results += await halve(half, run, refused)
        except Unavailable as error:
            undecided = error
    if undecided is not None:
        raise undecided
    return results


class Postpone:
    """Postpones an order that Postgres refuses to change, longer after each refusal, so that no batch contains it.

    An unfinished migration may cause the refusal, so the order is tried again for ever. An alert reports such orders.
    """

    def __init__(self, orders: Orders, *, pause_s: float, pause_max_s: float) -> None:
        """Wait `pause_s` after the first refusal, and twice as long after each further refusal, up to `pause_max_s`."""
        self._orders = orders
        self._pause_s = pause_s
        self._pause_max_s = pause_max_s

    async def __call__(self, order_id: UUID, poison: PoisonBatch, *, job: str) -> int:
        """Postpone an order that `job` could not move; returns how often it was refused in its state."""
        # The lines after the first one of a Postgres error hold the row's values.
        problem = str(poison).partition("\n")[0]
        times = await self._orders.postpone(
            order_id, job=job, problem=problem, pause_s=self._pause_s, pause_max_s=self._pause_max_s
        )
        log.error("order.postponed", order_id=str(order_id), job=job, times=times, problem=problem)
        return times
