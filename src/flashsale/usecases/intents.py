"""Payment intents in Postgres, what their use cases share, and what is counted of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flashsale.runtime.shared_metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.intents import DueIntent, KnownIntent, Merged
    from flashsale.domain.money import Money
    from flashsale.domain.payments import Intent, ProviderEvent

RETRY_MAX_S = 3600.0
"""Longest pause before an intent that is to end is tried again."""

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
    """A webhook that was not taken yet."""

    event_id: str
    type: str
    reference: str


class Intents(Protocol):
    """Payment intents and webhooks in Postgres."""

    async def begin(self, order_id: UUID, provider: str, *, due_s: float) -> tuple[KnownIntent, Money] | None:
        """Return the intent under which the buyer pays, with its amount; None if the order does not wait in time."""
        ...

    async def open(self, order_id: UUID, number: int, intent: Intent, *, due_s: float) -> KnownIntent | None:
        """Write what the provider answered; None if another reference was found for the intent first."""
        ...

    async def lose(self, order_id: UUID, number: int) -> None:
        """Give an intent up whose opening had no clear answer."""
        ...

    async def wait(self, order_id: UUID, number: int, *, longest_s: float, retry_after_s: float) -> None:
        """Let the wait for the provider, of at most `longest_s` in all, use up nothing of the buyer's time."""
        ...

    async def merge(self, order_id: UUID, provider: str, intent: Intent, *, due_s: float) -> Merged:
        """Write what the provider says of an intent, and move its order if that decides something."""
        ...

    async def note(self, order_id: UUID, provider: str, reference: str, *, due_s: float) -> None:
        """Note an intent that an automatic charge opened and whose outcome is not known."""
        ...

    async def held(self, order_id: UUID, number: int) -> DueIntent | None:
        """Read an intent; None if nothing more can come of it."""
        ...

    async def again(self, order_id: UUID, number: int, *, after_s: float) -> None:
        """Look at an intent again later."""
        ...

    async def refused(self, order_id: UUID, number: int, *, after_s: float) -> None:
        """Note that a person has to give the money of an intent back."""
        ...

    async def receive(self, provider: str, event: ProviderEvent, *, due_s: float) -> bool:
        """Write a webhook and its job in one transaction; False if it was received before."""
        ...

    async def waiting(self, provider: str, event_id: str) -> Sequence[WaitingEvent]:
        """Read the webhooks that wait and speak of the same intent as this one; none if it was taken."""
        ...

    async def taken(self, provider: str, event_ids: Sequence[str]) -> None:
        """Note that webhooks were taken."""
        ...

    async def events_again(self, provider: str, event_ids: Sequence[str], *, after_s: float) -> None:
        """Take webhooks again later."""
        ...

    async def settled(self, provider: str, reference: str) -> bool:
        """Whether an order was paid by an intent, or the intent is cancelled or given back."""
        ...

    async def wake(self, *, intents_max: int, events_max: int, due_s: float) -> tuple[int, int]:
        """Make jobs for due intents and webhooks; returns how many of each."""
        ...
