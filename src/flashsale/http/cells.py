"""What a cell says about the things of others: 421, and 503 about an account whose copy has not arrived."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

from flashsale.domain.cells import ACCOUNTS, home_of_order, home_of_product
from flashsale.domain.errors import (
    BadCredentials,
    OrderNotFound,
    OtherCell,
    ProductNotFound,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from flashsale.domain.cells import Cells
    from flashsale.domain.errors import FlashSaleError

_ORDER_ID = re.compile(r"/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|$)", re.IGNORECASE)


def as_of_cell(cells: Cells, error: FlashSaleError, path: str) -> FlashSaleError:
    """Return the error that a request to `path` gets in this cell. Only a refusal asks: nothing is added to a buy."""
    if cells.count == 1:
        return error
    if isinstance(error, ProductNotFound):
        home = home_of_product(error.product_id)
    elif isinstance(error, OrderNotFound) and (found := _ORDER_ID.search(path)) is not None:
        home = home_of_order(UUID(found[1]))
    elif isinstance(error, BadCredentials):
        # The account, or its new password, may not have arrived.
        home = ACCOUNTS
    elif isinstance(error, Unauthenticated) and error.unknown and cells.number != ACCOUNTS:
        return Unavailable(
            "This account has not arrived in this cell yet; send the same request again.", retry_after_s=2
        )
    else:
        return error
    return OtherCell(home) if cells.elsewhere(home) else error
