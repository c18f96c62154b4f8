"""The identity under which the gate counts a buyer, which is the one that Postgres counts."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from flashsale.domain.products import LimitPer
from flashsale.usecases.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.domain.products import Product
    from flashsale.domain.requests import BuyRequest
    from flashsale.usecases.ports import Acceptance

REMEMBERED_MAX = 200_000
"""Maximum number of identities that a process keeps. They stay true: an account's e-mail address never changes."""

BATCH_MAX = 256


class LimitIds:
    """Finds the identity of a buyer for products whose limit counts per e-mail root."""

    def __init__(self, acceptance: Acceptance, *, queue_max: int) -> None:
        """Start empty."""
        self._acceptance = acceptance
        self._known: dict[UUID, UUID] = {}
        """Limit ids by user id."""
        self._reading = Batcher[UUID, UUID](self._read, batch_max=BATCH_MAX, queue_max=queue_max)

    async def as_the_gate_knows(self, product: Product, request: BuyRequest) -> BuyRequest:
        """Return the request under the buyer's identity; its key still belongs to the account alone."""
        if product.limit_per is LimitPer.ACCOUNT or product.limit_per_buyer is None:
            return request
        limit_id = self._known.get(request.user_id) or await self._reading.submit(request.user_id)
        return request._replace(user_id=limit_id, key=request.key and f"{request.user_id}:{request.key}")

    async def _read(self, user_ids: list[UUID]) -> Sequence[UUID]:
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        found = await self._acceptance.limit_ids(user_ids)
        self._known |= found
        # The accept refuses an account that does not exist.
        return [found.get(user_id, user_id) for user_id in user_ids]
