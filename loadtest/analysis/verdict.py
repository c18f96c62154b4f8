"""One oracle for every approach: what clients saw, what the database has, and what the payment provider booked."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.domain.orders import FINAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashsale.domain.payments import LedgerEntry
    from flashsale.usecases.history import History

COMMIT_S = 1.0
"""How long a unit that came back may stay unseen: its time is taken before the COMMIT, which may wait for a lock."""

CLOCKS_S = 0.05
"""How much two clocks of one machine differ when they are read at different moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """An order as the database has it at the end; times are Unix seconds."""

    order_id: str
    user_id: str
    status: str
    quantity: int
    created_s: float
    ended_s: float | None = None
    """When it became final; None while it is not."""

    @property
    def released_s(self) -> float | None:
        """When its units came back; None while it has them."""
        return None if self.status == "confirmed" else self.ended_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What went wrong; a sale that is right has only zeros."""

    oversold: int
    """Units confirmed above the allotment."""
    lost: int
    """Orders whose 202 a client saw, and which the database does not have."""
    leaked: int
    """Units that no order has and that nobody is offered."""
    stuck: int
    """Orders that are not final."""
    charged_twice: int
    """Orders with more than one capture."""
    charged_wrongly: int
    """Orders that were captured and not confirmed, or confirmed and not captured."""
    refused_falsely: int
    """Buyers who were told `sold out` while at every moment of their request a unit was free."""

    @property
    def right(self) -> bool:
        """Whether nothing went wrong."""
        return not any(getattr(self, name) for name in self.__slots__)


def judge(
    *,
    allotment: int,
    offered: int,
    orders: Sequence[Sold],
    history: History,
    ledger: Mapping[str, Sequence[LedgerEntry]],
) -> Verdict:
    """Judge a sale of one product.

    `offered`: the units that buyers are shown at the end. `ledger`: the provider's entries by order id.
    """
    known = {order.order_id for order in orders}
    confirmed = {order.order_id for order in orders if order.status == "confirmed"}
    held = sum(order.quantity for order in orders if order.released_s is None)
    captures = Counter({order_id: sum(entry.captures for entry in entries) for order_id, entries in ledger.items()})
    seen = {buy["order_id"] for buy in history.buys if buy["order_id"] is not None}
    return Verdict(
        oversold=max(0, sum(order.quantity for order in orders if order.order_id in confirmed) - allotment),
        lost=len(seen - known),
        leaked=max(0, allotment - held - offered),
        stuck=sum(order.status not in FINAL for order in orders),
        charged_twice=sum(count > 1 for count in captures.values()),
        charged_wrongly=len({order_id for order_id, count in captures.items() if count} ^ confirmed),
        refused_falsely=_refused_falsely(allotment, orders, history),
    )


def _refused_falsely(allotment: int, orders: Sequence[Sold], history: History) -> int:
    changes = [(order.created_s, -order.quantity) for order in orders]
    changes += [(order.released_s + COMMIT_S, order.quantity) for order in orders if order.released_s is not None]
    changes.sort()
    instants = [at_s for at_s, _ in changes]
    free = list(itertools.accumulate((delta for _, delta in changes), initial=allotment))
    wrong = 0
    for buy in history.buys:
        if buy["code"] == "sold_out":
            first = bisect.bisect_left(instants, buy["sent_at"] - CLOCKS_S)
            last = bisect.bisect_right(instants, buy["answered_at"] + CLOCKS_S)
            wrong += min(free[first : last + 1]) >= buy["quantity"]
    return wrong
