"""What the audit reads: `sql/invariants.sql` and `sql/queries/audit.sql`."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from flashsale.adapters.postgres.failures import AWAY, told
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.recent_invariants import RECENT, limited_to_recent
from flashsale.domain.requests import BuyRequest
from flashsale.usecases.findings import Checked, skipped
from flashsale.usecases.history import OrderRow
from flashsale.usecases.ledger_audit import Ends
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from flashsale.adapters.postgres.database import Database
    from flashsale.adapters.postgres.queries import Query

    Session = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

INVARIANTS = load("invariants.sql")
QUERIES = load("queries/audit.sql")

OF_SECRETS = frozenset({"I26_targets"})
"""Statements that read secrets: those of the endpoints, which the database user of the API may not read."""

COUNTED = """
SELECT
    count(*) AS checked, count(*) FILTER (WHERE bad) AS violations,
    (array_agg(coalesce(id, 'NULL')) FILTER (WHERE bad))[1:5] AS sample
FROM ({}) AS judged
"""
"""Counts the rows of an invariant's statement."""

WHOLE_TABLES = """
SELECT
    set_config('enable_seqscan', 'on', true), set_config('enable_mergejoin', 'on', true),
    set_config('max_parallel_workers_per_gather', '0', true)
"""
"""For this transaction: plans that read whole tables, on one core."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

IDS_MAX = 10_000
"""Maximum number of ids in one statement."""


class PostgresInvariants:
    """Implements `usecases.audit.Truth`."""

    def __init__(self, database: Database, *, timeout_s: float) -> None:
        """Work through this pool; a statement may take `timeout_s` seconds."""
        self._database = database
        self._timeout_s = timeout_s

    async def check(self, *, overdue_s: float, stuck_s: float, but: Collection[str] = ()) -> Sequence[Checked]:
        """Check every invariant on one snapshot, except those named.

        Raises:
            Unavailable: if Postgres is away, or a statement takes too long.
        """

        async def whole(connection: Session) -> str:
            await connection.execute(WHOLE_TABLES)
            return ""

        named = [query for query in INVARIANTS.values() if query.name.partition("_")[0] not in but]
        return await self._judge_all(named, whole, (overdue_s, stuck_s))

    async def check_recent(self, *, overdue_s: float, stuck_s: float, secrets: bool = True) -> Sequence[Checked]:
        """Check every invariant on one snapshot, for the orders that may have changed lately.

        Without `secrets`: except those whose statements read secrets, for a process that may not.

        Raises:
            Unavailable: if Postgres is away, or a statement takes too long.
        """

        async def recent(connection: Session) -> str:
            # Without a mark every order is recent.
            return limited_to_recent(await connection.fetchval(QUERIES["mark"].text) or UUID(int=0))

        left_out = [query for query in RECENT if query.name in OF_SECRETS and not secrets]
        judged = await self._judge_all([one for one in RECENT if one not in left_out], recent, (overdue_s, stuck_s))
        return [
            *judged,
            *(
                skipped(query.name.partition("_")[0], query.description, "a worker alone may read the secrets")
                for query in left_out
            ),
        ]

    async def _judge_all(
        self, queries: Sequence[Query], prepare: Callable[[Session], Awaitable[str]], bounds: tuple[float, float]
    ) -> Sequence[Checked]:
        """Judge invariants; `prepare` gives the WITH clause of their statements, in the transaction that reads them.

        An invariant that cannot be computed, because no sound row has such a value, is violated. The transaction ends
        with it; the others are judged on another snapshot.
        """
        results: list[Checked] = []
        while len(results) < len(queries):
            try:
                async with self._snapshot() as connection:
                    before = await prepare(connection)
                    while len(results) < len(queries):
                        results.append(await self._judge(connection, queries[len(results)], before, bounds))
            except asyncpg.DataError as error:
                query = queries[len(results)]
                results.append(
                    Checked(
                        invariant=query.name.partition("_")[0],
                        promise=query.description,
                        checked=0,
                        violations=1,
                        note=f"it cannot be computed: {told(error)}",
                    )
                )
        return results

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Session]:
        try:
            async with (
                self._database.connection(reads=True) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                await connection.execute(f"SET LOCAL statement_timeout = {round(self._timeout_s * 1000)}")
                yield connection
        except asyncpg.InsufficientPrivilegeError as error:
            raise PoisonBatch(
                f"{error} (the audit needs the rights of flashsale_worker)", unknown_user=False
            ) from error
        except (*AWAY, asyncpg.QueryCanceledError) as error:
            raise self._database.away("audit", error) from error

    async def _judge(self, connection: Session, query: Query, before: str, bounds: tuple[float, float]) -> Checked:
        arguments = bounds if "$1" in query.text else ()
        counted = before + COUNTED.format(query.text)
        row = await connection.fetchrow(counted, *arguments, timeout=self._timeout_s + 1)
        if row is None:
            raise AssertionError(query.name)
        return Checked(
            invariant=query.name.partition("_")[0],
            promise=query.description,
            checked=row["checked"],
            violations=row["violations"],
            sample=tuple(row["sample"] or ()),
        )

    async def orders(self) -> Sequence[OrderRow]:
        """Read every order."""
        return [OrderRow(**dict(row)) for row in await self._database.fetch(QUERIES["outcomes"])]

    async def fingerprints(self) -> Sequence[tuple[BuyRequest, bytes, int, str]]:
        """Read the use of each key: a request, the stored fingerprint, the number of orders, the id of one order."""
        return [
            (
                BuyRequest(user_id=row["user_id"], product_id=row["product_id"], quantity=row["quantity"], key=""),
                row["fingerprint"],
                row["orders"],
                row["order_id"],
            )
            for row in await self._database.fetch(QUERIES["fingerprints"])
        ]

    async def payment_ends(self) -> Ends:
        """Read the outcomes of attempts."""
        captured = await self._database.fetch(QUERIES["captured_references"])
        failed = await self._database.fetch(QUERIES["last_outcomes"])
        return Ends(
            references={row["gateway_key"]: row["reference"] for row in captured},
            failed={row["gateway_key"]: row["outcome"] for row in failed},
        )

    async def allotments(self) -> Mapping[int, tuple[int, int]]:
        """Read the first and the highest allotment of products."""
        rows = await self._database.fetch(QUERIES["allotments"])
        return {row["product_id"]: (row["first"], row["most"]) for row in rows}

    async def unit_changes(self, product_id: int) -> Sequence[tuple[float, int]]:
        """Read when units of a product came free (negative: were taken), in Unix seconds, in order."""
        rows = await self._database.fetch(QUERIES["unit_changes"], product_id)
        return [(row["at_s"], row["delta"]) for row in rows]

    async def events(self, order_ids: Sequence[str]) -> Mapping[tuple[str, int], str]:
        """Read the status of orders in each version."""
        events: dict[tuple[str, int], str] = {}
        # A text that is no id belongs to no order.
        order_ids = [order_id for order_id in order_ids if _UUID.fullmatch(order_id)]
        for begin in range(0, len(order_ids), IDS_MAX):
            rows = await self._database.fetch(QUERIES["events_seen"], order_ids[begin : begin + IDS_MAX])
            events |= {(row["order_id"], row["version"]): row["status"] for row in rows}
        return events

    async def sales(self) -> Sequence[tuple[int, bool]]:
        """Read every product, and whether it is on sale now."""
        rows = await self._database.fetch(QUERIES["sales"])
        return [(row["product_id"], row["on_sale"]) for row in rows]

    async def owed_returns(self, product_id: int) -> tuple[int, float]:
        """Read the units whose return the gate has not counted, and the age of the oldest return in seconds."""
        row = await self._database.fetch_row(QUERIES["owed_returns"], product_id)
        if row is None:
            raise AssertionError
        return row["units"], row["waited_s"]
