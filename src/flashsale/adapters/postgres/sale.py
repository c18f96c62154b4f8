"""What the demo and the fault tests read of one product's sale, over connections of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from flashsale.adapters.postgres.failures import AWAY
from flashsale.adapters.postgres.hosts import Hosts
from flashsale.adapters.postgres.queries import load

if TYPE_CHECKING:
    from collections.abc import Mapping

FIGURES = load("queries/figures.sql")
DOWN = (*AWAY, asyncpg.PostgresError)
"""Failures while the database may be killed."""

LOOK_S = 10.0
"""Maximum duration of a connect and of a statement: a server that was stopped answers neither."""

OUTCOME = load("queries/audit.sql")["outcome_of_sale"]


def open_sale_pool(url: str) -> asyncpg.Pool[asyncpg.Record]:
    """Make the pool of two connections; it connects when it is entered."""
    hosts = Hosts(url)

    async def connect(*_: object, **__: object) -> asyncpg.Connection[asyncpg.Record]:
        return await hosts.connect(
            asyncpg.Connection,
            within_s=LOOK_S,
            command_timeout=LOOK_S,
            target_session_attrs="read-write",
            statement_cache_size=0,
        )

    return asyncpg.create_pool(connect=connect, min_size=1, max_size=2)


class SaleLook(NamedTuple):
    """The state of a sale at one instant."""

    orders: Mapping[str, int]
    """Number by status."""
    jobs: int
    free: int


class PostgresSale:
    """Reads of a sale that goes on while the database may be killed."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        """Read through this pool."""
        self.pool = pool

    async def look(self, product_id: int) -> SaleLook | None:
        """Read the state of the sale; None if the database is down."""
        try:
            orders = await self.pool.fetch(
                "SELECT status, count(*) AS orders FROM orders WHERE product_id = $1 GROUP BY status", product_id
            )
            jobs = await self.pool.fetch(FIGURES["jobs_by_queue"].text)
            free = await self.pool.fetchval("SELECT free FROM product_live WHERE product_id = $1", product_id)
        except DOWN:
            return None
        return SaleLook(
            orders={row["status"]: row["orders"] for row in orders},
            jobs=sum(row["jobs"] for row in jobs if row["queue"] != "maintenance"),
            free=free,
        )

    async def outcome(self, product_id: int) -> dict[str, Any]:
        """Return the outcome of the orders: `outcome_of_sale` in `sql/queries/audit.sql`."""
        row = await self.pool.fetchrow(OUTCOME.text, product_id)
        if row is None:
            raise AssertionError
        return dict(row)
