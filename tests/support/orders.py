"""Orders in the states that jobs find."""

from __future__ import annotations

from flashsale.domain.products import PaymentMode
from tests.conftest import add_buyers, add_product
from tests.support.accepting import accept, propose


async def unpaid(services, count, **product):
    """Make orders that wait for their buyers and are due, of one product; returns the product and their ids."""
    product = await add_product(services, allotment=count, payment_mode=PaymentMode.BY_BUYER, **product)
    orders = await orders_of(services, product, await add_buyers(services, count))
    await services.order_rows.process(orders, payment_due_s=30)
    return product, orders


async def orders_of(services, product, users):
    proposals = [propose(product, user) for user in sorted(users)]
    await accept(services, *proposals)
    return [proposal.order_id for proposal in proposals]


async def due(db, order_ids=None):
    await db.execute(
        "UPDATE orders SET due_at = now() - interval '1 s' WHERE $1::uuid [] IS NULL OR order_id = ANY($1)", order_ids
    )


async def by_status(db, order_ids):
    rows = await db.fetch(
        "SELECT status, count(*) AS n FROM orders WHERE order_id = ANY($1) GROUP BY status", order_ids
    )
    return {row["status"]: row["n"] for row in rows}
