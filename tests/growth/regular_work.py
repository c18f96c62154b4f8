"""Everything that is done again and again while a shop is open: what must cost the same however old the shop is."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.products import PaymentMode, ProductChange
from flashsale.domain.requests import AdminRequest
from flashsale.domain.users import Principal, Role
from tests.conftest import add_buyers, add_product
from tests.growth.old_orders import RARE
from tests.support.accepting import accept, accept_one, acceptance, new_id, propose
from tests.support.charging import Gateway, charging
from tests.support.gates import ask
from workers.maintenance import make_tasks
from workers.sale_metrics import SaleMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LISTED = 10
BUYERS = 12

DUE = """
UPDATE orders SET due_at = now() - interval '1 second'
WHERE order_id IN (SELECT order_id FROM orders WHERE due_at IS NOT NULL AND status = 'queued' ORDER BY order_id LIMIT 3)
"""


class Shop:
    """A product on sale, with a few orders in each stage. Everything that it does can be done again and again."""

    def __init__(self, services, jobs):
        self.services, self.jobs = services, jobs
        self.tasks = make_tasks().tasks
        self.context = SimpleNamespace(additional_context={"jobs": jobs})

    async def open(self):
        services = self.services
        self.product = await add_product(
            services, allotment=10_000, payment_mode=PaymentMode.BY_BUYER, limit_per_buyer=10_000
        )
        self.buyers = await add_buyers(services, BUYERS)
        order_ids = [await accept_one(services, self.product, user, key="k") for user in self.buyers]
        await services.order_rows.process(order_ids[: BUYERS // 2], payment_due_s=30)
        await services.order_rows.end(order_ids[: BUYERS // 4], OrderStatus.CANCELLED)
        await self.jobs.reconcile()
        self.order_id = order_ids[0]

    async def tell(self):
        await self.services.stories.read(self.order_id)

    def work(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return each piece of work by its name."""
        rare = OrderStatus(RARE[0])
        return {
            "scrape": SaleMetrics(self.jobs.figures, self.jobs.gate, self.jobs.acceptance).read,
            "minute audit": self.periodic("audit"),
            "status": self.services.status,
            "story of an order": self.tell,
            "tidy": self.periodic("tidy"),
            "sweep": self.sweep,
            "reconcile": self.periodic("reconcile"),
            "units ahead": self.periodic("tend_units"),
            "products and stocks": self.services.catalog.refresh,
            "waiting orders": self.services.catalog.count_waiting,
            "list: newest": self.listing(None),
            "list: a common status": self.listing(OrderStatus.CONFIRMED),
            "list: a rare status": self.listing(rare),
            "list: an open status": self.listing(OrderStatus.AWAITING_PAYMENT),
            "list: a status without orders": self.listing(OrderStatus.REFUNDED),
            "list: a product": self.listing(None, of_product=True),
            "list: a rare status of a product": self.listing(rare, of_product=True),
            "sale of a unit": self.sell,
            "refusal by Postgres": self.refuse,
            "replay": self.replay,
            "lease given up": self.give_up,
            "order cancelled": self.cancel,
            "new product": self.offer,
            "change of a product": self.change,
            "load of the gate": self.load,
            "request of an administrator": self.administer,
            "limit per e-mail root": lambda: acceptance(self.services).limit_ids(self.buyers[:3]),
            "sign-out": lambda: self.services.users.raise_generation(self.buyers[4]),
            "revocations": self.services.revocations.refresh,
            "generations": lambda: self.services.users.generations(self.buyers[:3]),
            "account": lambda: self.services.users.account(self.buyers[0]),
            "administrators": self.services.users.administrators,
            "log in": lambda: self.services.users.credentials("nobody@buyers.invalid"),
        }

    def periodic(self, name):
        return lambda: self.tasks[name].func(self.context, int(time.time()))

    def listing(self, status, *, of_product=False):
        return lambda: self.services.order_rows.admin_list(
            product_id=self.product.product_id if of_product else None, status=status, before=None, limit=LISTED
        )

    async def sweep(self):
        async with self.services.database.connection() as connection:
            await connection.execute(DUE)
        await self.jobs.sweep()

    async def sell(self):
        services, user = self.services, self.buyers[0]
        order = await services.buy(ask(self.product, user))
        await self.jobs.process_orders([order.order_id])
        await services.orders.pay(order.order_id, Principal(user_id=user, role=Role.BUYER))
        await charging(services, Gateway(ChargeOutcome.CAPTURED))(order.order_id)

    async def refuse(self):
        # The key of an order, under another id: what the accept leaves is a void request.
        product = await self.services.catalog.get(self.product.product_id)
        await accept(self.services, propose(product, self.buyers[2], key="k"))

    async def replay(self):
        asked = [propose(self.product, user, key="k").request for user in self.buyers[:3]]
        proposals = acceptance(self.services)
        await proposals.look(asked)
        await proposals.free([self.product.product_id])
        await proposals.held([(self.product.product_id, user) for user in self.buyers[:3]])

    async def give_up(self):
        await acceptance(self.services).void([new_id()])

    async def cancel(self):
        user = self.buyers[3]
        order_id = await accept_one(self.services, self.product, user, epoch=None)
        await self.services.order_rows.process([order_id], payment_due_s=30)
        await self.services.orders.cancel(order_id, Principal(user_id=user, role=Role.BUYER))

    async def administer(self):
        """Change a product under a key, and ask again."""
        request = AdminRequest(user_id=self.buyers[5], key=uuid.uuid4().hex, fingerprint=bytes(16))
        change = ProductChange(fields={"name": "Phone"})
        for _ in range(2):
            await self.services.administer.change(self.product.product_id, change, request=request)

    async def offer(self):
        made = await add_product(self.services, allotment=1)
        await self.services.administer.set_allotment(made.product_id, 0)
        await self.services.administer.change_allotment(made.product_id, 1)

    async def change(self):
        change = ProductChange(fields={"ends_at": datetime(2999, 1, 1, tzinfo=UTC)})
        await self.services.administer.change(self.product.product_id, change)

    async def load(self):
        product = await self.services.catalog.get(self.product.product_id)
        await self.services.load_gate(product.product_id, seen_epoch=product.epoch)
        await self.services.catalog.refresh()
