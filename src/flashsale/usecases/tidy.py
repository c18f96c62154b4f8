"""Delete old rows, so that tables with a row per request, order or job do not grow for ever."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import FlashSaleError
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flashsale.settings.outbox import OutboxSettings

log = structlog.get_logger(__name__)

SETTLED_S = 900.0
"""Age at which an order id cannot appear any more (accepts refuse ids older than ten minutes), and how long an order
that ended stays in view of the minute audit before only the totals count it."""

VOIDS_KEPT_S = 3600.0
"""Age at which a void request goes: no accept takes an id of that age, so nothing has to be held off any more."""

ADMIN_KEYS_KEPT_S = 86_400.0
"""How long an administrator's request that is repeated under its key gets the first answer; then it is a new one."""

JOBS_KEPT_S = 86_400.0
"""How long jobs that failed are kept for people who look into them; of each queue only the newest stay that long."""

REVOCATIONS_KEPT_S = 2 * 86_400.0
"""How long a revocation is kept: twice the longest life that `auth.jwt_ttl_s` can give a token."""

WEBHOOKS_KEPT_S = 30 * 86_400.0
"""How long a webhook is kept, for people who look into a payment. One that is sent again so late is too old."""

BATCH = 5_000
"""Maximum number of rows that one transaction deletes."""

CARRIED = 20_000
"""Most orders in one transaction that adds them to the totals."""

ROUNDS_MAX = 100
"""Most transactions of one kind in one run, so that a run ends; what is left waits for the next."""


class Upkeep(Protocol):
    """Deletions by age. A call deletes at most `limit` rows and returns their number; concurrent calls are safe."""

    async def carry(self, *, settled_s: float, limit: int) -> int:
        """Add final orders older than `settled_s` to the totals."""
        ...

    async def delete_voids(self, *, older_s: float, limit: int) -> int:
        """Delete void requests with ids older than `older_s`."""
        ...

    async def delete_admin_keys(self, *, older_s: float, limit: int) -> int:
        """Delete administrators' keys older than `older_s`, with their answers."""
        ...

    async def delete_jobs(self, *, older_s: float, limit: int) -> int:
        """Delete jobs that ended without success more than `older_s` ago."""
        ...

    async def delete_webhooks(self, *, older_s: float, limit: int) -> int:
        """Delete handled webhooks older than `older_s`."""
        ...

    async def delete_messages(self, outcome: str, *, older_s: float, limit: int) -> int:
        """Delete messages of the outbox that ended so more than `older_s` ago."""
        ...

    async def delete_orphans(self, *, limit: int) -> int:
        """Delete messages of the outbox to targets that are gone."""
        ...

    async def delete_revocations(self, *, older_s: float, limit: int) -> int:
        """Delete revocations older than `older_s`."""
        ...


class Tidy:
    """The use case."""

    def __init__(self, upkeep: Upkeep, outbox: OutboxSettings) -> None:
        """Wire it."""
        self._upkeep = upkeep
        self._outbox = outbox

    async def __call__(self) -> None:
        """Update the totals and delete rows that have reached their age. A table that fails delays no other.

        Raises:
            Unavailable, PoisonBatch: why the first of the tables that failed did; finished steps stay committed.
        """
        done: dict[str, int] = {}
        failed: FlashSaleError | PoisonBatch | None = None
        for table, work, limit in self._works():
            try:
                rows = await _until_done(work, limit)
            except (FlashSaleError, PoisonBatch) as error:
                # The other tables must not grow because of this one.
                failed = failed or error
                log.warning("table.not_tidied", table=table, problem=str(error).partition("\n")[0])
            else:
                done |= {table: rows} if rows else {}
        if done:
            log.info("tables.tidied", **done)
        if failed is not None:
            raise failed

    def _works(self) -> Sequence[tuple[str, Callable[[], Awaitable[int]], int]]:
        """Return the name of each table, what tidies it, and the most rows of one transaction."""
        upkeep, outbox = self._upkeep, self._outbox

        def older(delete: Callable[..., Awaitable[int]], older_s: float, *more: str) -> Callable[[], Awaitable[int]]:
            return partial(delete, *more, older_s=older_s, limit=BATCH)

        return [
            ("orders", partial(upkeep.carry, settled_s=SETTLED_S, limit=CARRIED), CARRIED),
            ("voids", older(upkeep.delete_voids, VOIDS_KEPT_S), BATCH),
            ("admin_keys", older(upkeep.delete_admin_keys, ADMIN_KEYS_KEPT_S), BATCH),
            ("jobs", older(upkeep.delete_jobs, JOBS_KEPT_S), BATCH),
            ("revocations", older(upkeep.delete_revocations, REVOCATIONS_KEPT_S), BATCH),
            ("delivered", older(upkeep.delete_messages, outbox.kept_s, "delivered"), BATCH),
            ("dead", older(upkeep.delete_messages, outbox.dead_kept_s, "dead"), BATCH),
            ("without_target", partial(upkeep.delete_orphans, limit=BATCH), BATCH),
            ("webhooks", older(upkeep.delete_webhooks, WEBHOOKS_KEPT_S), BATCH),
        ]


async def _until_done(work: Callable[[], Awaitable[int]], limit: int) -> int:
    total = 0
    for _ in range(ROUNDS_MAX):
        rows = await work()
        total += rows
        if rows < limit:
            break
    return total
