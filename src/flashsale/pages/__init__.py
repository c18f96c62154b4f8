"""The HTML pages: what buyers and staff see in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.http.pages import PageParts
    from flashsale.http.routing import Direct


def routes(parts: PageParts) -> Sequence[Direct]:  # noqa: ARG001
    """Make the routes of all pages."""
    return []
