"""Everything that is done again and again while a shop is open, beside the sale itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import PaymentMode
from tests.conftest import add_buyers, add_product
from tests.growth.old_orders import RARE
from tests.integration.test_accept import accept_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LISTED = 100


async def open_shop(services, jobs):
    """A product on sale with a few orders in each stage: what there is to do is the same, however old the shop is."""
    product = await add_product(services, allotment=1000, payment_mode=PaymentMode.BY_BUYER, limit_per_buyer=2)
    order_ids = [await accept_one(services, product, user, key="k") for user in await add_buyers(services, 60)]
    await services.order_rows.process(order_ids[:40], payment_due_s=30)
    await services.order_rows.end(order_ids[:20], OrderStatus.CANCELLED)
    await jobs.reconcile()
    return product


def regular_work(services, jobs, product) -> dict[str, Callable[[], Awaitable[object]]]:
    """Give each piece of work by its name."""
    listed = services.order_rows.admin_list
    rare = OrderStatus(RARE[0])

    return {
        "scrape": jobs.truth.read,
        "minute audit": jobs.audit,
        "tidy": jobs.tidy,
        "sweep": jobs.sweep,
        "reconcile": jobs.reconcile,
        "products and stocks": services.catalog.refresh,
        "waiting orders": services.catalog.count_waiting,
        "list: newest": lambda: listed(product_id=None, status=None, before=None, limit=LISTED),
        "list: a common status": lambda: listed(
            product_id=None, status=OrderStatus.CONFIRMED, before=None, limit=LISTED
        ),
        "list: a rare status": lambda: listed(product_id=None, status=rare, before=None, limit=LISTED),
        "list: an open status": lambda: listed(
            product_id=None, status=OrderStatus.AWAITING_PAYMENT, before=None, limit=LISTED
        ),
        "list: a status without orders": lambda: listed(
            product_id=None, status=OrderStatus.REFUNDED, before=None, limit=LISTED
        ),
        "list: a product": lambda: listed(product_id=product.product_id, status=None, before=None, limit=LISTED),
        "list: a rare status of a product": lambda: listed(
            product_id=product.product_id, status=rare, before=None, limit=LISTED
        ),
    }
