"""Payment intents in Postgres, the code that their use cases share, and their metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flashsale.runtime.shared_metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.intents import BegunIntent, DueIntent, KnownIntent, Merged
    from flashsale.domain.payments import Intent, ProviderEvent
    from flashsale.domain.traces import Origin

RETRY_MAX_S = 3600.0
"""Longest pause between two tries to end an intent."""

INTENTS = Counter(
    "flashsale_intents",
    "What became of payment intents: requested (held in time), confirmed (captured before we asked), voided, refunded,"
    " refund_failed, differs (in amount or currency), lost (opened without a clear answer).",
    ["end"],
)
for _end in ("requested", "confirmed", "voided", "refunded", "refund_failed", "differs", "lost"):
    INTENTS.labels(_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingEvent:
    """A webhook that was not handled yet."""

    event_id: str
    type: str
    reference: str


class Intents(Protocol):
    """Payment intents and webhooks in Postgres."""

    async def begin(self, order_id: UUID, provider: str, *, due_s: float) -> BegunIntent | None:
        """Return the intent under which the buyer pays; None unless the order waits for payment."""
        ...

    async def open(self, order_id: UUID, number: int, intent: Intent, *, due_s: float) -> KnownIntent | None:
        """Write the provider's answer; None if another reference was written for the intent first."""
        ...

    async def lose(self, order_id: UUID, number: int) -> None:
        """Give up an intent if it is unknown whether the provider opened it."""
        ...

    async def wait(self, order_id: UUID, number: int, *, longest_s: float, retry_after_s: float) -> None:
        """Extend the buyer's time by the wait for the provider, by at most `longest_s` in all."""
        ...

    async def merge(self, order_id: UUID, provider: str, intent: Intent, *, due_s: float) -> Merged:
        """Write the provider's state of an intent, and move the order if that state decides it."""
        ...

    async def note(self, order_id: UUID, provider: str, reference: str, *, due_s: float) -> None:
        """Record an intent that an automatic charge opened and whose outcome is unknown."""
        ...

    async def held(self, order_id: UUID, number: int) -> DueIntent | None:
        """Read an intent; None if it can never again change."""
        ...

    async def again(self, order_id: UUID, number: int, *, after_s: float) -> None:
        """Postpone the next look at an intent."""
        ...

    async def refused(self, order_id: UUID, number: int, *, after_s: float) -> None:
        """Record that a person must give the money of an intent back."""
        ...

    async def receive(self, provider: str, event: ProviderEvent, *, due_s: float) -> bool:
        """Write a webhook and its job in one transaction; False if it was received before."""
        ...

    async def waiting(self, provider: str, event_id: str) -> Sequence[WaitingEvent]:
        """Read the waiting webhooks about the same intent as this one; none if this one was handled."""
        ...

    async def taken(self, provider: str, event_ids: Sequence[str], order_id: UUID | None) -> None:
        """Record that webhooks were handled, and of which order they are, if of one."""
        ...

    async def events_again(self, provider: str, event_ids: Sequence[str], *, after_s: float) -> None:
        """Postpone the handling of webhooks."""
        ...

    async def is_archived(self, order_id: UUID) -> bool:
        """Say whether an order is in files only."""
        ...

    async def is_known(self, provider: str, reference: str) -> bool:
        """Say whether an intent is an order's."""
        ...

    async def settled(self, provider: str, reference: str) -> UUID | None:
        """Return the order of an intent that paid it, or is cancelled or given back; None if more can come of it."""
        ...

    async def origin(self, provider: str, reference: str) -> Origin:
        """Return the request that made the order of an intent, as far as the intent is known here."""
        ...

    async def wake(self, *, intents_max: int, events_max: int, due_s: float) -> tuple[int, int]:
        """Defer jobs for due intents and webhooks; returns the number of each."""
        ...
