"""A sound sale with an order in every state, what its clients saw, the gateway's ledger, and an audit over one session."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from flashsale.adapters.payments.simulator import _ledger_entry
from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.gate_books import PostgresGateBooks
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.adapters.postgres.queries import Query
from flashsale.adapters.postgres.settlement import PostgresSettledOrders
from flashsale.bootstrap.api import open_services
from flashsale.domain.errors import FlashSaleError, Unavailable
from flashsale.domain.messages import MAILED, Event
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payment_errors import NotSupported
from flashsale.domain.payments import ChargeAnswer as Answer
from flashsale.domain.payments import ChargeOutcome, NoAnswer, NoAnswerKind, Refund, RefundState
from flashsale.domain.products import LimitPer, PaymentMode, ProductChange
from flashsale.domain.requests import AdminRequest, BuyRequest
from flashsale.domain.users import Principal, Role
from flashsale.simulator.ledger import Ledger
from flashsale.usecases import gate_audit, ledger_audit
from flashsale.usecases.audit import Audit
from flashsale.usecases.history import read_history
from flashsale.usecases.ports import PoisonBatch
from flashsale.usecases.return_units import ReturnUnits
from flashsale.usecases.settle import Settle
from tests.conftest import add_buyers, add_product
from tests.corruption.archived import archive_another
from tests.corruption.moved import move_others
from tests.support.accepting import new_id
from tests.support.charging import charging
from tests.support.provider import paying
from tests.support.refunding import refunding, requesting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from flashsale.settings import Settings
    from flashsale.usecases.findings import Checked
    from flashsale.usecases.services import Services

LEASE_S = 300.0
"""Long enough that a lease lives as long as the test."""


class Gateway:
    """The gateway's port over a ledger of the simulator's; its lines are there to be falsified."""

    def __init__(self) -> None:
        self.book = Ledger(None)
        self.lines: list[dict[str, Any]] | None = None
        self.outcome = ChargeOutcome.CAPTURED
        self.loses_refunds = False

    async def charge(
        self, *, order_id: UUID, reference: str | None, amount: Any, timeout_s: float, first: bool
    ) -> Answer:
        key = str(order_id)
        entry = self.book.get(key) or self.book.open(
            key, amount_minor=amount.minor, currency=amount.currency, reference=None
        )
        if self.outcome is ChargeOutcome.CAPTURED:
            self.book.capture(entry)
        elif self.outcome is ChargeOutcome.DECLINED:
            self.book.decline(entry, "card_declined")
        return Answer(outcome=self.outcome, reference=f"ch_{key}")

    async def cancel(self, *, order_id: UUID, reference: str | None, amount: Any, timeout_s: float) -> Answer:
        self.book.cancel(str(order_id))
        return Answer(outcome=ChargeOutcome.CANCELLED, reference=None)

    def intents(self, **_: Any) -> Any:
        raise NotSupported(provider="test", call="intents")

    async def look_up(self, **_: Any) -> Any:
        raise NotSupported(provider="test", call="look_up")

    async def refund(self, *, key: str, reference: str, amount: Any, timeout_s: float) -> Refund | NoAnswer:
        entry = self.book.get(key.partition(":")[0])
        assert entry is not None
        if self.loses_refunds:
            return NoAnswer(kind=NoAnswerKind.UNSENT, reason="lost")
        self.book.refund(entry, key, amount.minor)
        return Refund(
            reference=f"re_{key}", key=key, intent=reference, state=RefundState.SUCCEEDED, amount=amount, reason=None
        )

    async def ledger(self) -> AsyncIterator[Any]:
        for line in self.true_lines() if self.lines is None else self.lines:
            try:
                yield _ledger_entry(line)
            except TypeError as error:
                raise Unavailable("The gateway's ledger cannot be read.") from error

    def true_lines(self) -> list[dict[str, Any]]:
        return [json.loads(entry.as_line(f"ch_{entry.key}")) for entry in self.book]


@dataclass
class Pinned:
    """A session that every query of the audit goes through, so that what it audits can be rolled back."""

    connection: asyncpg.Connection[Any]


class OneSession(Database):
    """A database whose pool is one session in a transaction."""

    def __init__(self, settings: Settings, connection: asyncpg.Connection[Any]) -> None:
        super().__init__(settings.postgres, name="corruption")
        self._session = connection

    @asynccontextmanager
    async def connection(self, *, reads: bool = False) -> AsyncIterator[Any]:
        yield self._session


@dataclass
class SoundSale:
    """The sale, its clients' history as lines, and its gateway."""

    services: Services
    gateway: Gateway
    history: list[dict[str, Any]] = field(default_factory=list)
    orders: dict[str, UUID] = field(default_factory=dict)
    products: list[Any] = field(default_factory=list)

    async def buy(
        self, product: Any, user: UUID, name: str, *, key: str | None, quantity: int = 1, tries: int = 1
    ) -> None:
        """Buy, as a client of the load generator's would note it."""
        for _ in range(tries):
            line: dict[str, Any] = {
                "kind": "buy", "user": str(user), "key": key, "product": product.product_id, "quantity": quantity,
                "sent_at": time.time(), "status": 202, "order_id": None, "code": None, "body": None, "answer": None,
            }  # fmt: skip
            request = BuyRequest(user_id=user, product_id=product.product_id, quantity=quantity, key=key)
            try:
                accepted = await self.services.buy(request)
            except FlashSaleError as error:
                line |= {"status": 409, "code": error.code}
            else:
                self.orders[name] = accepted.order_id
                answer = {
                    "product": accepted.product_id, "name": accepted.product_name, "price": str(accepted.unit_price),
                    "currency": accepted.unit_price.currency, "quantity": accepted.quantity,
                }  # fmt: skip
                body = hashlib.sha256(repr(accepted).encode()).hexdigest()
                line |= {"order_id": str(accepted.order_id), "answer": answer, "body": body}
            self.history.append({**line, "answered_at": time.time()})

    async def charge(self, outcome: ChargeOutcome, *names: str, tries: int = 1) -> None:
        """Let the gateway answer so; `tries` times."""
        charge = charging(self.services, self.gateway, tries_max=2)
        self.gateway.outcome = outcome
        for name in names:
            for _ in range(tries):
                await charge(self.orders[name])
        await ReturnUnits(self.services.books, self.services.gate, limit=100)()

    async def refund(self, name: str, *amounts: str | None, restock: bool = False, lost: bool = False) -> None:
        """Give money back; `lost`: the provider did not get the call."""
        self.gateway.loses_refunds = lost
        for amount in amounts:
            await requesting(self.services)(self.orders[name], amount, restock=restock)
            await refunding(self.services, self.gateway)(self.orders[name])

    async def see(self) -> None:
        """Let two readers see every stock and every order as it is."""
        for stock in await self.services.products.stocks():
            for reader in ("s1", "s2"):
                seen = {"kind": "stock", "reader": reader, "product": stock.product_id, "version": stock.version}
                self.history.append({**seen, "stock": stock.free})
        for order in (await self.services.order_rows.get_many(list(self.orders.values()))).values():
            seen = {"kind": "order", "reader": f"p-{order.order_id}", "order_id": str(order.order_id)}
            self.history.append({**seen, "version": order.version, "status": order.status.value})

    def lines(self) -> list[str]:
        return [json.dumps(line) for line in self.history]


async def sell(services: Services) -> SoundSale:  # noqa: PLR0915 - one sale from its start to its end
    """Sell: an order in every state, ordinary work of the merchant meanwhile, a lease and a return under way."""
    sale = SoundSale(services, Gateway())
    automatic = await add_product(services, name="Phone", allotment=14, limit_per_buyer=3)
    by_buyer = await add_product(
        services,
        name="Case",
        allotment=7,
        payment_mode=PaymentMode.BY_BUYER,
        limit_per_buyer=5,
        limit_per=LimitPer.EMAIL_ROOT,
    )
    sale.products = [automatic, by_buyer]
    await archive_another(sale)
    await move_others(sale)
    # A shop's endpoint and the buyers are told; added a minute ago, so that every message is missed.
    outbox = PostgresOutbox(cast("Database", services.database))
    await outbox.add_endpoint(
        "wh_a", "https://shop.example/", "whsec_AA==", [event.value for event in Event], targets_max=9
    )
    await outbox.tell_buyers(MAILED)
    await cast("Database", services.database).fetch(
        _statement(
            "UPDATE outbox_targets SET created_at = created_at - i.age, wanted_since = wanted_since - i.age "
            "FROM (VALUES (interval '1 minute')) AS i (age)"
        )
    )
    await cast("Database", services.database).fetch(
        _statement("SELECT granted FROM take_turns_v1('simulator', 'charge', 1, interval '40 ms', interval '1 second')")
    )
    users = await add_buyers(services, 11)
    process = services.order_rows.process
    database = cast("Database", services.database)

    async def pay(name: str, user: UUID) -> None:
        await services.orders.pay(sale.orders[name], Principal(user_id=user, role=Role.BUYER))

    await sale.buy(automatic, users[0], "confirmed", key="a", quantity=2, tries=2)
    await sale.buy(automatic, users[1], "declined", key="a", tries=2)
    await sale.buy(automatic, users[2], "keyless", key=None)
    for number, name in enumerate(("refunded", "restocked", "refunding", "part refunded")):
        await sale.buy(automatic, users[7 + number], name, key="a")
    await sale.see()
    await services.administer.change(
        automatic.product_id, ProductChange(fields={"limit_per_buyer": 1, "name": "Phone, second batch"})
    )
    await database.fetch(_statement("UPDATE products SET price_minor = 89999 WHERE product_id = 1"))
    await services.catalog.refresh()
    # An administrator's request under a key, and an account that was signed out.
    request = AdminRequest(user_id=users[6], key="a", fingerprint=bytes(16))
    await services.administer.change(by_buyer.product_id, ProductChange(fields={"name": "Cover"}), request=request)
    await services.users.raise_generation(users[6])
    await sale.buy(automatic, users[3], "unknown", key="b", tries=2)
    await sale.buy(automatic, users[4], "processing_payment", key="b")
    await sale.buy(automatic, users[5], "queued", key="b")
    await sale.buy(automatic, users[6], "given up", key="b")
    await sale.buy(automatic, users[5], "limited", key="c")
    await sale.buy(by_buyer, users[0], "expired", key="d")
    await sale.buy(by_buyer, users[1], "awaiting", key="d", quantity=2)
    await sale.buy(by_buyer, users[2], "paid by buyer", key="d")
    await sale.buy(by_buyer, users[3], "asked to pay", key="d")
    await sale.buy(by_buyer, users[4], "cancelled", key="d")
    await sale.see()
    await process([sale.orders[name] for name in sale.orders if name != "queued"], payment_due_s=30)
    # Buyers who pay at the provider: one is being paid, one was paid, one's order ends.
    pays = paying(services)
    for name in ("awaiting", "paid by buyer", "expired"):
        pays.provider.keys[f"{sale.orders[name]}:create:1"] = f"ch_{sale.orders[name]}"
        await pays.open(sale.orders[name])
    pays.provider.authorize(f"ch_{sale.orders['paid by buyer']}")
    await pays.tell("evt_1", f"ch_{sale.orders['paid by buyer']}")
    await pays.webhook("evt_2", f"ch_{sale.orders['awaiting']}")
    await pay("asked to pay", users[3])
    refunds = ("refunded", "restocked", "refunding", "part refunded")
    await sale.charge(ChargeOutcome.CAPTURED, "confirmed", "keyless", "paid by buyer", *refunds)
    await sale.refund("refunded", "300.00", None)
    await sale.refund("restocked", None, restock=True)
    await sale.refund("part refunded", "0.01")
    await sale.refund("refunding", None, lost=True, restock=True)
    await sale.charge(ChargeOutcome.DECLINED, "declined")
    await sale.charge(ChargeOutcome.UNKNOWN, "unknown", tries=2)
    await sale.charge(ChargeOutcome.UNKNOWN, "given up", tries=3)
    await PostgresPayments(services.database).begin([sale.orders["processing_payment"]], due_s=30)
    await sale.see()
    # All that is left of the second product is sold, and one buyer is told so.
    await sale.buy(by_buyer, users[5], "rest", key="d")
    await sale.buy(by_buyer, users[5], "refused", key="e")
    # A proposal that was given up, a lease that waits for Postgres, and a return that the gate was not told of.
    void = new_id()
    await PostgresAcceptance(services.database, order_due_s=10).void([void])
    leasing = BuyRequest(user_id=users[2], product_id=by_buyer.product_id, quantity=1, key="l")
    await services.order_rows.end([sale.orders["cancelled"]], OrderStatus.CANCELLED)
    returning = ReturnUnits(services.books, services.gate, limit=100)
    await returning()
    await services.gate.admit(await services.catalog.get(by_buyer.product_id), new_id(), leasing)
    await services.order_rows.process([sale.orders["rest"]], payment_due_s=30)
    await services.administer.change(by_buyer.product_id, ProductChange(fields={"payment_window_s": 200}))
    await database.fetch(
        _statement(f"UPDATE orders SET due_at = clock_timestamp() WHERE order_id = '{sale.orders['expired']}'")
    )
    await services.order_rows.end([sale.orders["expired"]], OrderStatus.EXPIRED)
    await pays.settle(sale.orders["expired"], 1)
    # What an operator would have recorded of a transfer that paid this order.
    await database.fetch(
        _statement(f"""
            INSERT INTO manual_entries (order_id, number, reference, amount_minor, currency, recorded_by)
            SELECT a.order_id, 0, a.reference, a.amount_minor, a.currency, '{users[6]}'
            FROM payment_attempts AS a WHERE a.order_id = '{sale.orders["paid by buyer"]}' AND a.outcome = 'captured'
        """)
    )
    await _tell(outbox)
    await sale.see()
    sale.history += [{**line, "last": True} for line in sale.history[-40:] if line["kind"] == "stock"][-4:]
    sale.history += [{"kind": "complete", "product": product.product_id} for product in sale.products]
    return sale


async def _tell(outbox: PostgresOutbox) -> None:
    """Deliver one message, give one up, send one again, and let one wait."""
    ended, dead, again, waiting, *_ = await outbox.claim("wh_a", limit=9, lease_s=60)
    await outbox.end(ended, "delivered", None)
    await outbox.end(dead, "dead", "The endpoint answered 410.")
    await outbox.end(again, "dead", "The endpoint answered 410.")
    await outbox.resend(message_id=again.message_id)
    await outbox.postpone(waiting, "The endpoint answered 503.", pause_s=60, give_up_s=600)


def _statement(text: str) -> Query:
    return Query(name="test", description="", text=text, reads=False)


@asynccontextmanager
async def sound_sale(settings: Settings) -> AsyncIterator[SoundSale]:
    """Make the sale; nothing checks it afterwards."""
    gate = settings.gate.model_copy(update={"lease_s": LEASE_S, "rate_limit": 0, "attempts_per_minute": 50})
    # A reply that is an error must not make the next look find no gate.
    redis = settings.redis.model_copy(update={"reconnect_s": 0.0})
    patient = settings.model_copy(update={"gate": gate, "redis": redis})
    async with open_services(patient, name="corruption") as services:
        yield await sell(services)


@asynccontextmanager
async def auditing(sale: SoundSale, session: asyncpg.Connection[Any]) -> AsyncIterator[Any]:
    """Wire the audit over one session of Postgres; returns a function that audits once, without patience."""
    settings = sale.services.settings
    database = OneSession(settings, session)
    truth, products = PostgresInvariants(database, timeout_s=60), PostgresProducts(database)
    gate = gate_audit.GateAudit(
        truth=truth,
        books=PostgresGateBooks(database),
        gate=sale.services.gate,
        acceptance=PostgresAcceptance(database, order_due_s=10),
        lease_s=LEASE_S,
        bypass_allowed=False,
    )
    settle = Settle(PostgresSettledOrders(database), sale.gateway)
    audit = Audit(truth=truth, products=products, gate=gate, gateway=sale.gateway, settle=settle, lease_s=LEASE_S)

    async def run(part: str = "all", lines: Sequence[str] | None = None) -> set[str]:
        """Return the invariants that are violated; `refused` for what cannot be read. A part is what reads a source."""
        try:
            history = read_history(sale.lines() if lines is None else lines)
            results: Sequence[Checked]
            if part == "history":
                results = await audit._check_history(history, await truth.orders(), 3600)
            elif part == "ledger":
                results = [await ledger_audit.check_ledger(truth, await truth.orders(), sale.gateway)]
            elif part == "gate":
                results = [await gate()]
            else:
                results = await audit(history=history, overdue_s=3600, stuck_s=3600)
        except (FlashSaleError, PoisonBatch, ValueError):
            # One line, and exit code 1.
            return {"refused"}
        except Exception as error:  # noqa: BLE001 - an audit that breaks off reports nothing
            return {f"broke off: {error!r}"}
        assert not [result for result in results if result.skipped]
        return {result.invariant for result in results if result.violations}

    yield run
