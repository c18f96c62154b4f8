"""Payment intents and webhooks: `sql/queries/intents.sql`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.queries import load
from flashsale.domain.intents import BegunIntent, DueIntent, Effect, KnownIntent, KnownState, Merged
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import PaymentTerms
from flashsale.domain.traces import Origin
from flashsale.usecases.intents import WaitingEvent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.payments import Intent, ProviderEvent

QUERIES = load("queries/intents.sql")


class PostgresIntents:
    """Implements `usecases.intents.Intents`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def begin(self, order_id: UUID, provider: str, *, due_s: float) -> BegunIntent | None:
        """Return the intent under which the buyer pays; None unless the order waits for payment."""
        row = await self._database.fetch_row(QUERIES["begin_intent"], order_id, provider, timedelta(seconds=due_s))
        if row is None:
            return None
        if row["reference"] is not None:
            # The caller tells of an intent that was opened by an earlier COMMIT, which the standby may lack.
            await self._database.replicate()
        amount = Money(minor=row["amount_minor"], currency=row["currency"])
        origin = Origin.read(row["request_id"])
        return BegunIntent(intent=_known(row), amount=amount, terms=_terms(row), origin=origin)

    async def open(self, order_id: UUID, number: int, intent: Intent, *, due_s: float) -> KnownIntent | None:
        """Write the provider's answer; None if another reference was written for the intent first."""
        row = await self._database.fetch_row(
            QUERIES["open_intent"],
            order_id,
            number,
            intent.reference,
            intent.amount.minor,
            intent.amount.currency,
            intent.client_secret,
            intent.page_url,
            timedelta(seconds=due_s),
        )
        return None if row is None else _known(row)

    async def lose(self, order_id: UUID, number: int) -> None:
        """Give up an intent if it is unknown whether the provider opened it."""
        await self._database.fetch(QUERIES["lose"], order_id, number)

    async def wait(self, order_id: UUID, number: int, *, longest_s: float, retry_after_s: float) -> None:
        """Extend the buyer's time by the wait for the provider; see the port."""
        await self._database.fetch(
            QUERIES["wait"], order_id, number, timedelta(seconds=longest_s), timedelta(seconds=retry_after_s)
        )

    async def merge(self, order_id: UUID, provider: str, intent: Intent, *, due_s: float) -> Merged:
        """Write the provider's state of an intent, and move the order if that state decides it."""
        row = await self._database.fetch_row(
            QUERIES["merge"],
            order_id,
            provider,
            intent.reference,
            intent.state.value,
            intent.amount.minor,
            intent.amount.currency,
            intent.refunded_minor,
            intent.client_secret,
            intent.page_url,
            timedelta(seconds=due_s),
        )
        if row is None:
            raise AssertionError
        return Merged(
            effect=Effect(row["effect"]),
            number=row["number"],
            state=None if row["state"] is None else KnownState(row["state"]),
            status=None if row["order_status"] is None else OrderStatus(row["order_status"]),
            origin=Origin.read(row["request_id"]),
        )

    async def note(self, order_id: UUID, provider: str, reference: str, *, due_s: float) -> None:
        """Record an intent that an automatic charge opened and whose outcome is unknown."""
        await self._database.fetch(QUERIES["note"], order_id, provider, reference, timedelta(seconds=due_s))

    async def held(self, order_id: UUID, number: int) -> DueIntent | None:
        """Read an intent; None if it can never again change."""
        row = await self._database.fetch_row(QUERIES["held"], order_id, number)
        if row is None:
            return None
        return DueIntent(
            number=row["number"],
            provider=row["provider"],
            reference=row["reference"],
            state=KnownState(row["state"]),
            amount=Money(minor=row["amount_minor"], currency=row["currency"]),
            looks=row["looks"],
            terms=_terms(row),
            unwanted=row["unwanted"],
        )

    async def again(self, order_id: UUID, number: int, *, after_s: float) -> None:
        """Postpone the next look at an intent."""
        await self._database.fetch(QUERIES["again"], order_id, number, timedelta(seconds=after_s))

    async def refused(self, order_id: UUID, number: int, *, after_s: float) -> None:
        """Record that a person must give the money of an intent back."""
        await self._database.fetch(QUERIES["refused"], order_id, number, timedelta(seconds=after_s))

    async def receive(self, provider: str, event: ProviderEvent, *, due_s: float) -> bool:
        """Write a webhook and its job in one transaction; False if it was received before."""
        row = await self._database.fetch_row(
            QUERIES["receive"], provider, event.event_id, event.type, event.reference, timedelta(seconds=due_s)
        )
        return row is not None and bool(row["fresh"])

    async def waiting(self, provider: str, event_id: str) -> Sequence[WaitingEvent]:
        """Read the waiting webhooks about the same intent as this one; none if this one was handled."""
        rows = await self._database.fetch(QUERIES["waiting"], provider, event_id)
        return [WaitingEvent(event_id=row["event_id"], type=row["type"], reference=row["reference"]) for row in rows]

    async def taken(self, provider: str, event_ids: Sequence[str], order_id: UUID | None) -> None:
        """Record that webhooks were handled, and of which order they are, if of one."""
        await self._database.fetch(QUERIES["taken"], provider, event_ids, order_id)

    async def events_again(self, provider: str, event_ids: Sequence[str], *, after_s: float) -> None:
        """Postpone the handling of webhooks."""
        await self._database.fetch(QUERIES["events_again"], provider, event_ids, timedelta(seconds=after_s))

    async def is_archived(self, order_id: UUID) -> bool:
        """Say whether an order is in files only."""
        return await self._database.fetch_row(QUERIES["archived"], order_id) is not None

    async def is_known(self, provider: str, reference: str) -> bool:
        """Say whether an intent is an order's."""
        return await self._database.fetch_row(QUERIES["known_intent"], provider, reference) is not None

    async def settled(self, provider: str, reference: str) -> UUID | None:
        """Return the order of an intent that paid it, or is cancelled or given back; None if more can come of it."""
        row = await self._database.fetch_row(QUERIES["settled"], provider, reference)
        return None if row is None else row["order_id"]

    async def origin(self, provider: str, reference: str) -> Origin:
        """Return the request that made the order of an intent, as far as the intent is known here."""
        row = await self._database.fetch_row(QUERIES["origin_of_intent"], provider, reference)
        return Origin.read(None if row is None else row["request_id"])

    async def wake(self, *, intents_max: int, events_max: int, due_s: float) -> tuple[int, int]:
        """Defer jobs for due intents and webhooks; returns the number of each."""
        row = await self._database.fetch_row(QUERIES["wake"], intents_max, events_max, timedelta(seconds=due_s))
        return (0, 0) if row is None else (row["intents"], row["events"])


def _terms(row: asyncpg.Record) -> PaymentTerms:
    return PaymentTerms(
        name=row["product_name"],
        window_s=row["window_s"],
        asked_at=row["asked_at"],
        pay_by=row["asked_at"] + row["window_left"],
    )


def _known(row: asyncpg.Record) -> KnownIntent:
    return KnownIntent(
        number=row["number"],
        state=KnownState(row["state"]),
        reference=row["reference"],
        client_secret=row["client_secret"],
        page_url=row["page_url"],
        differs=row["problem"] == "amount",
    )
