"""The targets of messages, as the operator's commands see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from flashsale.domain.messages import DeadMessage, ListedTarget


class Endpoints(Protocol):
    """What `flashsale webhooks` asks of Postgres."""

    async def add_endpoint(
        self, target_id: str, url: str, secret: str, events: Sequence[str], *, targets_max: int
    ) -> bool:
        """Add an endpoint; False if the maximum number of targets exists."""
        ...

    async def targets(self) -> Sequence[ListedTarget]:
        """List the targets, the oldest first."""
        ...

    async def remove_endpoint(self, target_id: str) -> bool:
        """Remove a target with its messages; False if there is none."""
        ...

    async def dead(self, target_id: str | None, *, limit: int) -> Sequence[DeadMessage]:
        """List dead messages, the newest first."""
        ...

    async def resend(self, *, message_id: UUID | None = None, target_id: str | None = None) -> int:
        """Make an ended message due again, or all dead messages of a target; returns the number of messages."""
        ...
