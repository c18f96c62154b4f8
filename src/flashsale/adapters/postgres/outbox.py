"""The outbox: `sql/queries/outbox.sql`."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from flashsale.adapters.postgres.queries import load
from flashsale.domain.messages import DeadMessage, Event, ListedTarget, Message, Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from flashsale.adapters.postgres.database import Database

QUERIES = load("queries/outbox.sql")

EVENTS = frozenset(str(event) for event in Event)

CLAIMS_MAX = 100
"""Most claims of one call in which every message is of a newer release."""

log = structlog.get_logger(__name__)


class PostgresOutbox:
    """Implements `usecases.deliver.OutboxRows`."""

    def __init__(self, database: Database) -> None:
        """Work through this pool."""
        self._database = database

    async def tell_buyers(self, events: Sequence[str]) -> None:
        """Make the buyers a target of these events."""
        await self._database.fetch(QUERIES["tell_buyers"], [str(event) for event in events])

    async def waiting_targets(self) -> Sequence[Target]:
        """List the targets with a message that is due."""
        rows = await self._database.fetch(QUERIES["waiting_targets"])
        return [Target(target_id=row["target_id"], url=row["url"], secret=row["secret"]) for row in rows]

    async def claim(self, target_id: str, *, limit: int, lease_s: float) -> Sequence[Message]:
        """Begin a try of messages that are due; those of events of a newer release only wait again."""
        lease = timedelta(seconds=lease_s)
        # Such messages may come first, and the others must not wait for them.
        for _ in range(CLAIMS_MAX):
            rows = await self._database.fetch(QUERIES["claim_messages"], target_id, limit, lease)
            if unknown := {row["event"] for row in rows} - EVENTS:
                log.warning("outbox.unknown_event", target=target_id, message_events=sorted(unknown))
            if not rows or not unknown.issuperset(row["event"] for row in rows):
                break
        return [
            Message(
                message_id=row["message_id"],
                event=Event(row["event"]),
                order_id=row["order_id"],
                facts=json.loads(row["facts"]),
                created_at=row["created_at"],
                attempts=row["attempts"],
            )
            for row in rows
            if row["event"] in EVENTS
        ]

    async def end(self, message: Message, outcome: str, problem: str | None) -> None:
        """End a message, unless a later try began."""
        await self._database.fetch(QUERIES["end_message"], message.message_id, message.attempts, outcome, problem)

    async def postpone(self, message: Message, problem: str, *, pause_s: float, give_up_s: float) -> bool:
        """Postpone a message, unless a later try began; False if the message was given up instead."""
        row = await self._database.fetch_row(
            QUERIES["postpone_message"],
            message.message_id,
            message.attempts,
            timedelta(seconds=pause_s),
            problem,
            timedelta(seconds=give_up_s),
        )
        return row is None or row["outcome"] is None

    async def give_up(self, target_id: str, *, give_up_s: float, limit: int) -> Sequence[UUID]:
        """Give up due messages of a target that have waited for `give_up_s`; returns their orders."""
        rows = await self._database.fetch(QUERIES["give_up_messages"], target_id, timedelta(seconds=give_up_s), limit)
        return [row["order_id"] for row in rows if row["order_id"] is not None]

    async def addresses(self, order_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Return the e-mail address of each order's buyer."""
        rows = await self._database.fetch(QUERIES["buyer_addresses"], list(order_ids))
        return {row["order_id"]: row["email"] for row in rows}

    async def add_endpoint(
        self, target_id: str, url: str, secret: str, events: Sequence[str], *, targets_max: int
    ) -> bool:
        """Add an endpoint; False if the maximum number of targets exists."""
        added = await self._database.fetch(QUERIES["add_endpoint"], target_id, url, secret, list(events), targets_max)
        return bool(added)

    async def targets(self) -> Sequence[ListedTarget]:
        """List the targets, the oldest first."""
        return [ListedTarget(**dict(row)) for row in await self._database.fetch(QUERIES["list_targets"])]

    async def remove_endpoint(self, target_id: str) -> bool:
        """Remove a target with its messages; False if there is none."""
        return bool(await self._database.fetch(QUERIES["remove_endpoint"], target_id))

    async def dead(self, target_id: str | None, *, limit: int) -> Sequence[DeadMessage]:
        """List dead messages, the newest first."""
        rows = await self._database.fetch(QUERIES["dead_messages"], target_id, limit)
        return [DeadMessage(**dict(row)) for row in rows]

    async def resend(self, *, message_id: UUID | None = None, target_id: str | None = None) -> int:
        """Make an ended message due again, or all dead messages of a target; returns the number of messages."""
        return len(await self._database.fetch(QUERIES["resend_messages"], message_id, target_id))
