"""What the HTML pages are made from. They are a room of their own, above this one; `build_app` gets their routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.http.routing import Direct

if TYPE_CHECKING:
    from flashsale.http.addresses import Addresses
    from flashsale.http.auth import Tokens
    from flashsale.http.limits import Limits
    from flashsale.http.metrics import Meter
    from flashsale.http.recent import Recent
    from flashsale.usecases.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class PageParts:
    """The parts of an API process that pages use: those of the API's own routes."""

    services: Services
    tokens: Tokens
    limits: Limits
    meter: Meter
    addresses: Addresses
    recent: Recent


PageRoutes = Callable[[PageParts], Sequence[Direct]]
"""Makes the routes of pages. They declare no operation; see `routing.Direct`."""


def no_pages(_: PageParts) -> Sequence[Direct]:
    """Make no routes: an API without pages."""
    return ()
