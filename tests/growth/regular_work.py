"""Everything that is done again and again while a shop is open: what must cost the same however old the shop is."""

from __future__ import annotations

import hashlib
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.adapters.postgres.turns import PostgresTurns
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.domain.messages import Event
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderFilter, OrderStatus
from flashsale.domain.payments import ChargeOutcome, Intent, IntentState, ProviderEvent
from flashsale.domain.products import PaymentMode, ProductChange
from flashsale.domain.requests import AdminRequest
from flashsale.domain.users import Principal, Role
from flashsale.usecases.tidy import CARRIED, SETTLED_S
from tests.conftest import add_buyers, add_product
from tests.growth.old_orders import ENDPOINT, PROVIDER, RARE
from tests.support.accepting import accept, accept_one, acceptance, new_id, propose
from tests.support.charging import Gateway, charging
from tests.support.gates import ask
from tests.support.refunding import Provider, refunding
from workers.maintenance import make_tasks
from workers.sale_metrics import SaleMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LISTED = 10
OLD_BUYER = f"{uuid.UUID(hashlib.md5(b'buyer 1', usedforsecurity=False).hexdigest())}@buyers.invalid"
OLD_BOOKS = date(2000, 1, 1)
OLD_DAY = datetime.now(tz=UTC) - timedelta(days=20)
"""When the shop sold what are old orders now."""
URL = "https://shop.invalid/"
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
        self.intents, self.refunds = PostgresIntents(services.database), PostgresRefunds(services.database)
        self.outbox, self.turns = PostgresOutbox(services.database), PostgresTurns(services.database)

    async def open(self):
        services = self.services
        assert await self.outbox.add_endpoint(ENDPOINT, URL, "whsec_" + "A" * 43 + "=", list(Event), targets_max=1)
        self.product = await add_product(
            services, allotment=10_000, payment_mode=PaymentMode.BY_BUYER, limit_per_buyer=10_000
        )
        self.buyers = await add_buyers(services, BUYERS)
        order_ids = [await accept_one(services, self.product, user, key="k") for user in self.buyers]
        await services.order_rows.process(order_ids[: BUYERS // 2], payment_due_s=30)
        await services.order_rows.end(order_ids[: BUYERS // 4], OrderStatus.CANCELLED)
        await self.jobs.reconcile()
        self.order_id = order_ids[0]

    async def reopen(self, order_ids):
        """Begin to refund orders of long ago, of which the totals have passed."""
        upkeep = PostgresUpkeep(self.services.database)
        while await upkeep.carry(settled_s=SETTLED_S, limit=CARRIED) == CARRIED:
            pass
        for order_id in order_ids:
            await self.services.refunds(
                order_id,
                amount=None,
                restock=True,
                reason="late",
                requested_by=self.buyers[5],
                request=AdminRequest(user_id=self.buyers[5], key=uuid.uuid4().hex, fingerprint=bytes(16)),
            )

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
            "payment by intent, and its refund": self.pay_by_intent,
            "messages": self.message,
            "budget of the provider": self.take_turns,
            "due payments": self.periodic("wake_payments"),
            "due refunds": self.periodic("wake_refunds"),
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
            "books of an old day": lambda: self.services.read_books(since=OLD_BOOKS, until=OLD_BOOKS, zone="UTC"),
            "list: own orders": lambda: self.services.order_rows.of_buyer(self.buyers[0], before=None, limit=LISTED),
            "list: a buyer": self.finding(email=OLD_BUYER),
            "list: a buyer in a status": self.finding(email=OLD_BUYER, status=rare),
            "list: an old day": self.finding(created_from=OLD_DAY, created_to=OLD_DAY + timedelta(days=1)),
            "list: an old hour of a rare status": self.finding(
                created_from=OLD_DAY, created_to=OLD_DAY + timedelta(hours=1), status=rare
            ),
            "list: a time without orders": self.finding(created_from=datetime(2999, 1, 1, tzinfo=UTC)),
            "trail": self.read_trail,
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
        return self.finding(product_id=self.product.product_id if of_product else None, status=status)

    def finding(self, **wanted):
        return lambda: self.services.find_orders(OrderFilter(**wanted), before=None, limit=LISTED)

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

    async def pay_by_intent(self):
        order_id = await accept_one(self.services, self.product, self.buyers[6], epoch=None)
        await self.services.order_rows.process([order_id], payment_due_s=30)
        intents = self.intents
        begun = await intents.begin(order_id, PROVIDER, due_s=30)
        known, amount = begun.intent, begun.amount
        await intents.wait(order_id, known.number, longest_s=30, retry_after_s=1)
        opened = _intent(order_id, amount, IntentState.OPEN)
        await intents.open(order_id, known.number, opened, due_s=30)
        await intents.lose(order_id, known.number)
        await intents.held(order_id, known.number)
        await intents.note(order_id, PROVIDER, opened.reference, due_s=30)
        await intents.again(order_id, known.number, after_s=0)
        await self.hear(opened.reference)
        await intents.merge(order_id, PROVIDER, _intent(order_id, amount, IntentState.CAPTURED), due_s=30)
        await intents.refused(order_id, known.number, after_s=30)
        await self.turns.put_off([(order_id, 1)])
        assert await intents.settled(PROVIDER, opened.reference)
        await self.refund(order_id)

    async def hear(self, reference):
        """Take a webhook of an intent."""
        event = ProviderEvent(
            event_id=uuid.uuid4().hex, type="changed", reference=reference, created_at=datetime.now(tz=UTC)
        )
        assert await self.intents.receive(PROVIDER, event, due_s=30)
        await self.intents.origin(PROVIDER, reference)
        await self.intents.is_known(PROVIDER, reference)
        waiting = [one.event_id for one in await self.intents.waiting(PROVIDER, event.event_id)]
        await self.intents.events_again(PROVIDER, waiting, after_s=0)
        await self.jobs.wake_payments()
        await self.intents.taken(PROVIDER, waiting, None)

    async def refund(self, order_id):
        """Give the money of an order back, by the key of a request, at the second try."""
        request = AdminRequest(user_id=self.buyers[5], key=uuid.uuid4().hex, fingerprint=bytes(16))
        for _ in range(2):
            await self.services.refunds(
                order_id, amount=None, restock=True, reason="broken", requested_by=self.buyers[5], request=request
            )
        tried = await self.refunds.begin(order_id, due_s=0)
        await self.refunds.miss(tried, "unknown", "lost", retry_after_s=0)
        await self.refunds.wake(limit=10, due_s=30)
        await self.refunds.paid_by(order_id)
        await self.refunds.note_dispute(order_id, disputed=False)
        await self.refunds.bounce_unused(order_id, "of another intent")
        await refunding(self.services, Provider())(order_id)

    async def message(self):
        """Take two messages: one arrives, and one does not."""
        assert ENDPOINT in {target.target_id for target in await self.outbox.waiting_targets()}
        told, kept = await self.outbox.claim(ENDPOINT, limit=2, lease_s=30)
        await self.outbox.addresses([self.order_id])
        await self.outbox.end(told, "delivered", None)
        await self.outbox.postpone(kept, "away", pause_s=0, give_up_s=60)
        await self.outbox.give_up(ENDPOINT, give_up_s=3600, limit=10)

    async def read_trail(self):
        await self.services.trail.read(
            before=None, actor=None, action=None, of=None, since=None, until=None, limit=LISTED
        )

    async def take_turns(self):
        await self.turns.take(PROVIDER, "charge", 10, interval_s=0.001, horizon_s=1)
        await self.turns.hold(PROVIDER, "charge", 0)
        await self.turns.rest(PROVIDER, 60)
        await self.turns.away(PROVIDER)
        await self.turns.back(PROVIDER)

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


def _intent(order_id, amount: Money, state) -> Intent:
    return Intent(
        reference=f"in_{order_id}",
        order_id=order_id,
        state=state,
        amount=amount,
        refunded_minor=0,
        disputed=False,
        client_secret="secret",
        page_url=None,
        decline_code=None,
        created_at=datetime.now(tz=UTC),
    )
