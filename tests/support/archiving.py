"""A finished sale with an order in every final state, and what archives it."""

from __future__ import annotations

from datetime import timedelta

from flashsale.adapters.archive_files import FolderOfArchive
from flashsale.adapters.postgres.sale_rows import PostgresSaleRows
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.trail import Author
from flashsale.usecases.archive_sale import ArchiveSale
from tests.conftest import add_buyers, add_product
from tests.support.accepting import accept, propose
from tests.support.charging import Gateway, charging
from tests.support.refunding import Provider, refunding, requesting

BY = Author(user_id=None, action="archive", origin="ada@desk")

FATES = ("confirmed", "part refunded", "refunded", "restocked", "declined", "cancelled", "keyless")
"""One order each."""

DOUBLE = {"confirmed", "restocked"}
"""Orders of two units."""


async def sold(services, gateway=None, provider=None, **changes):
    """Sell a product to its end, with units left; returns the product and the orders by their fate."""
    gateway = gateway or Gateway()
    provider = provider or Provider()
    product = await add_product(services, **{"allotment": len(FATES) + 4, "limit_per_buyer": 2, **changes})
    buyers = sorted(await add_buyers(services, len(FATES)))
    proposals = {
        fate: propose(product, user, key=None if fate == "keyless" else f"k-{fate}", quantity=1 + (fate in DOUBLE))
        for fate, user in zip(FATES, buyers, strict=True)
    }
    await accept(services, *proposals.values())
    orders = {fate: proposal.order_id for fate, proposal in proposals.items()}
    await services.order_rows.process(list(orders.values()), payment_due_s=30)
    await services.order_rows.end([orders["cancelled"]], OrderStatus.CANCELLED)
    charge = charging(services, gateway)
    for fate, order_id in orders.items():
        if fate != "cancelled":
            outcome = ChargeOutcome.DECLINED if fate == "declined" else ChargeOutcome.CAPTURED
            gateway.outcomes = [outcome]
            await charge(order_id)
    for fate, amount, restock in (
        ("part refunded", "1.50", False),
        ("refunded", None, False),
        ("restocked", None, True),
    ):
        await requesting(services)(orders[fate], amount, restock=restock)
        await refunding(services, provider)(orders[fate])
    return product, orders


async def finished(services, **changes):
    """Sell a product, take it out of the lists, and let the totals count its orders."""
    product, orders = await sold(services, **changes)
    await finish(services, product)
    return product, orders


async def finish(services, product):
    await services.administer.close(product.product_id)
    await services.administer.archive(product.product_id)
    await PostgresUpkeep(services.database).carry(settled_s=0, limit=1000)


def archiving(services, folder, *, quiet=timedelta(0), rows=None, files=None):
    """Make the use case over one folder."""
    return ArchiveSale(
        rows or PostgresSaleRows(services.database), files or FolderOfArchive(folder), quiet=quiet, author=BY
    )
