"""What the audit reads: `sql/invariants.sql` and `sql/queries/audit.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.failures import AWAY
from flashsale.adapters.postgres.queries import load
from flashsale.usecases.history import Checked, OrderRow

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flashsale.adapters.postgres.database import Database

INVARIANTS = load("invariants.sql")
QUERIES = load("queries/audit.sql")

COUNTED = """
SELECT count(*) AS checked, count(*) FILTER (WHERE bad) AS violations, (array_agg(id) FILTER (WHERE bad))[1:5] AS sample
FROM ({}) AS judged
"""
"""Counts what an invariant's statement gives."""


class PostgresInvariants:
    """Implements `usecases.audit.Truth`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def check(self, *, overdue_s: float, but: Collection[str] = ()) -> Sequence[Checked]:
        """Check every invariant on one snapshot, but those named.

        Raises:
            Unavailable: if Postgres is away.
        """
        results = []
        try:
            async with (
                self._database.connection() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                for query in INVARIANTS.values():
                    invariant = query.name.partition("_")[0]
                    if invariant in but:
                        continue
                    arguments = (overdue_s,) if "$1" in query.text else ()
                    row = await connection.fetchrow(COUNTED.format(query.text), *arguments)
                    if row is None:
                        raise AssertionError(query.name)
                    results.append(
                        Checked(
                            invariant=invariant,
                            promise=query.description,
                            checked=row["checked"],
                            violations=row["violations"],
                            sample=tuple(row["sample"] or ()),
                        )
                    )
        except AWAY as error:
            raise self._database.away("audit", error) from error
        return results

    async def orders(self) -> Sequence[OrderRow]:
        """Read every order."""
        return [OrderRow(**dict(row)) for row in await self._database.fetch(QUERIES["outcomes"])]

    async def unit_changes(self, product_id: int) -> Sequence[tuple[float, int]]:
        """Read claims (negative) and releases of a product's units by time, in Unix seconds."""
        rows = await self._database.fetch(QUERIES["unit_changes"], product_id)
        return [(row["at_s"], row["delta"]) for row in rows]
