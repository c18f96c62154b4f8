"""One call: what it was sent, what it changes, and what it may ask the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.simulator.rules import draw_uniform
from flashsale.simulator.stripe.cards import DRAWN_DECLINES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashsale.simulator.rules import Simulator
    from flashsale.simulator.stripe.form import Form
    from flashsale.simulator.stripe.store import Change, Object, Store


@dataclass(slots=True, kw_only=True)
class Call:
    """A call of an operation."""

    form: Form
    ids: Mapping[str, str]
    """The variable parts of its path."""
    store: Store
    change: Change
    simulator: Simulator
    key: str | None
    """Its idempotency key."""
    public: bool
    """It came with the publishable key: a page, not the shop."""
    base_url: str
    """Where the caller finds this service, for the pages."""

    def draw_decline(self, draw: str) -> tuple[str | None, str | None]:
        """Return code and decline code, or None twice; the same for the same `draw` and seed."""
        seed = self.simulator.seed
        if draw_uniform(seed, "decline", draw) >= self.simulator.behaviour.decline_rate:
            return None, None
        return DRAWN_DECLINES[int(draw_uniform(seed, "code", draw) * len(DRAWN_DECLINES))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A path and what it does."""

    method: str
    path: str
    run: Callable[[Call], Object]
    bank: bool = False
    """It waits for the bank, so it takes the charge's latency; otherwise it does only with `confirm=true`."""
    public: bool = False
    """A page may call it with the publishable key and the intent's client secret."""
    helper: bool = False
    """A test's command: no faults, no limits, nothing that Stripe has."""
