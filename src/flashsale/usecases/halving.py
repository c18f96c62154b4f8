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
    """Run a batch, in halves if it is refused; returns what each part that was run came to, in order.

    `refused` gets each item that is refused by itself. The other items are run whatever becomes of a part; one culprit
    among n items costs about 2 log2(n) further calls.

    Raises:
        Unavailable: if a part was not decided, after the others were run.
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

    What refuses it may be a migration that is half way, so it is tried again for ever; an alert says that there is one.
    """

    def __init__(self, orders: Orders, *, pause_s: float, pause_max_s: float) -> None:
        """Wait `pause_s` after the first refusal, twice as long after each further one, at most `pause_max_s`."""
        self._orders = orders
        self._pause_s = pause_s
        self._pause_max_s = pause_max_s

    async def __call__(self, order_id: UUID, poison: PoisonBatch, *, job: str) -> int:
        """Put an order off that `job` could not move; returns how often it was refused in its state."""
        # What Postgres says below its first line holds the row's values.
        problem = str(poison).partition("\n")[0]
        times = await self._orders.postpone(
            order_id, job=job, problem=problem, pause_s=self._pause_s, pause_max_s=self._pause_max_s
        )
        log.error("order.postponed", order_id=str(order_id), job=job, times=times, problem=problem)
        return times
