"""The accept transaction: `sql/queries/acceptance.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import structlog

from flashsale.adapters.postgres.database import SERIALIZATION_TRIES, Database
from flashsale.adapters.postgres.failures import AWAY, OTHER_SCHEMA, READ_ONLY, SLOW
from flashsale.adapters.postgres.queries import load
from flashsale.domain.errors import Unavailable
from flashsale.domain.money import Money
from flashsale.domain.requests import Accepted, AcceptOutcome, BuyRequest, Held, Proposal, Verdict
from flashsale.usecases.ports import CommitUnknown, PoisonBatch, Seen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

QUERIES = load("queries/acceptance.sql")

log = structlog.get_logger(__name__)


class PostgresAcceptance:
    """Implements `ports.Acceptance`."""

    def __init__(self, database: Database, *, order_due_s: float) -> None:
        """Orders whose job is lost get a new one `order_due_s` after they were accepted."""
        self._database = database
        self._due = timedelta(seconds=order_due_s)

    async def accept(self, proposals: Sequence[Proposal]) -> Sequence[Verdict]:
        """Make orders of a batch in one transaction; see the port."""
        requests = [proposal.request for proposal in proposals]
        expected = [proposal.expected_minor for proposal in proposals]
        arguments = (
            [proposal.order_id for proposal in proposals],
            [request.user_id for request in requests],
            [request.product_id for request in requests],
            [request.quantity for request in requests],
            [request.key for request in requests],
            # The fingerprint says what a key was used for; a request without a key has nothing to compare.
            [None if request.key is None else request.fingerprint() for request in requests],
            [proposal.epoch for proposal in proposals],
            self._due,
            [one.request_id if one.span is None else one.origin.kept for one in proposals],
            None if expected.count(None) == len(expected) else expected,
        )
        for left in reversed(range(SERIALIZATION_TRIES)):
            try:
                async with self._database.connection() as connection:
                    rows = await connection.fetch(QUERIES["accept"].text, *arguments)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
                if not left:
                    raise Unavailable from error
                log.info("accept.conflict_retried", proposals=len(proposals))
            except (*SLOW, *READ_ONLY, *OTHER_SCHEMA) as error:
                # By these errors the server says that it rolled back.
                raise self._database.away("accept", error) from error
            except AWAY as error:
                # A terminated backend may have committed just before, or the standby may lack what was committed.
                log.warning("accept.commit_unknown", error=type(error).__name__)
                raise CommitUnknown from error
            except asyncpg.PostgresError as error:
                raise PoisonBatch(str(error), unknown_user="users" in (getattr(error, "detail", None) or "")) from error
            else:
                return [
                    Verdict(
                        outcome=AcceptOutcome(row["outcome"]),
                        accepted=None if row["order_id"] is None else _accepted(row),
                        visible=row["visible"] or 0,
                        held=row["held"] or 0,
                        cools_until=row["cools_until"],
                    )
                    for row in rows
                ]
        raise AssertionError

    async def void(self, order_ids: Sequence[UUID], *, patience_s: float | None = None) -> dict[UUID, bool]:
        """Void proposals: True for each that is void now. The result omits those whose insert is still in flight."""
        patience = None if patience_s is None else timedelta(seconds=patience_s)
        rows = await self._database.fetch(QUERIES["void"], sorted(order_ids), patience)
        return {row["order_id"]: row["kind"] == "void" for row in rows}

    async def look(self, requests: Sequence[BuyRequest]) -> Sequence[Seen]:
        """Look requests up by (user, key), with the free units at the same instant."""
        rows = await self._database.fetch(
            QUERIES["replays"],
            [request.user_id for request in requests],
            [request.key for request in requests],
            [request.product_id for request in requests],
        )
        seen = [Seen(free=0, verdict=None)] * len(requests)
        for row in rows:
            place = row["place"] - 1
            verdict = None
            if row["order_id"] is not None:
                if row["fingerprint"] == requests[place].fingerprint():
                    verdict = Verdict(outcome=AcceptOutcome.REPLAYED, accepted=_accepted(row))
                else:
                    verdict = Verdict(outcome=AcceptOutcome.KEY_REUSED, accepted=None)
            seen[place] = Seen(free=row["free"], verdict=verdict)
        return seen

    async def free(self, product_ids: Sequence[int]) -> Sequence[int]:
        """Read the free units of products, now."""
        rows = await self._database.fetch(QUERIES["free"], list(set(product_ids)))
        free = {row["product_id"]: row["free"] for row in rows}
        return [free.get(product_id, 0) for product_id in product_ids]

    async def held(self, buyers: Sequence[tuple[int, UUID]]) -> Sequence[Held]:
        """Read how many units of a product count for a buyer, as its limit counts them, now."""
        rows = await self._database.fetch(
            QUERIES["held"], [product_id for product_id, _ in buyers], [user_id for _, user_id in buyers]
        )
        held = [Held(units=0)] * len(buyers)
        for row in rows:
            place = row["place"] - 1
            units, cooling, until, _ = held[place]
            if row["cooling"]:
                until = row["cools_until"] if until is None else max(until, row["cools_until"])
            held[place] = Held(units + row["units"], cooling + row["cooling"], until, row["limit_per_buyer"])
        return held

    async def limit_ids(self, user_ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Return the identities that a limit per e-mail root counts, of the users that there are."""
        rows = await self._database.fetch(QUERIES["limit_ids"], user_ids)
        return {row["user_id"]: row["limit_id"] for row in rows}

    async def accepted(self, order_ids: Sequence[UUID]) -> dict[UUID, Accepted]:
        """Return the contents of the 202 of each order."""
        rows = await self._database.fetch(QUERIES["accepted"], order_ids)
        return {row["order_id"]: _accepted(row) for row in rows}


def _accepted(row: asyncpg.Record) -> Accepted:
    return Accepted(
        order_id=row["order_id"],
        product_id=row["product_id"],
        product_name=row["product_name"],
        quantity=row["quantity"],
        unit_price=Money(minor=row["unit_price_minor"], currency=row["currency"]),
    )
