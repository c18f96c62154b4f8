"""The composition root: Settings in, everything wired out. Used by the API, the workers, the CLI and the tests."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.adapters.mail.sender import SmtpSender
from flashsale.adapters.passwords import Argon2Passwords
from flashsale.adapters.payments.observed import ObservedGateway
from flashsale.adapters.payments.simulator import SimulatorGateway
from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.administration import PostgresAdminAnswers
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.failures import Misconfigured
from flashsale.adapters.postgres.feed import PostgresFeed
from flashsale.adapters.postgres.figures import PostgresFigures
from flashsale.adapters.postgres.gate_books import PostgresGateBooks
from flashsale.adapters.postgres.health import PostgresHealth
from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.job_queue import JobQueue
from flashsale.adapters.postgres.orders import PostgresOrders
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.adapters.postgres.schema import check_schema
from flashsale.adapters.postgres.settlement import PostgresSettledOrders
from flashsale.adapters.postgres.story import PostgresStories
from flashsale.adapters.postgres.turns import PostgresTurns
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.adapters.postgres.users import PostgresUsers
from flashsale.adapters.redis.gate import RedisGate
from flashsale.adapters.redis.logins import RedisLoginLimits
from flashsale.adapters.webhooks.sender import WebhookSender
from flashsale.domain.errors import FlashSaleError, NotReady
from flashsale.usecases.accounts import Accounts
from flashsale.usecases.administer import Administer
from flashsale.usecases.audit import Audit
from flashsale.usecases.buy import Buy
from flashsale.usecases.catalog import Catalog, CatalogFeed
from flashsale.usecases.charge import Charge
from flashsale.usecases.deliver import Deliver
from flashsale.usecases.gate_audit import GateAudit
from flashsale.usecases.halving import Postpone
from flashsale.usecases.load_gate import LoadGate
from flashsale.usecases.maintain import Sweep
from flashsale.usecases.open_intent import OpenIntent
from flashsale.usecases.orders import BuyerOrders
from flashsale.usecases.process_orders import ProcessOrders
from flashsale.usecases.readiness import Readiness
from flashsale.usecases.reconcile import Reconcile
from flashsale.usecases.refund import MakeRefund, RequestRefund
from flashsale.usecases.return_units import ReturnUnits
from flashsale.usecases.revocations import RevocationFeed, Revocations
from flashsale.usecases.services import Services
from flashsale.usecases.sessions import Sessions
from flashsale.usecases.settle import Settle
from flashsale.usecases.settle_intent import SettleIntent
from flashsale.usecases.status import Status
from flashsale.usecases.tend_units import TendUnits
from flashsale.usecases.tidy import Tidy
from flashsale.usecases.turns import Breaker, Turns
from flashsale.usecases.wake_payments import WakePayments
from flashsale.usecases.webhooks import ReceiveWebhook, TakeEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashsale.settings import Settings
    from flashsale.usecases.payment_ports import PaymentGateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Everything that the tasks of the workers call."""

    settings: Settings
    database: Database
    figures: PostgresFigures
    gate: RedisGate
    acceptance: PostgresAcceptance
    invariants: PostgresInvariants
    process_orders: ProcessOrders
    charge: Charge
    refund: MakeRefund
    sweep: Sweep
    reconcile: Reconcile
    tend_units: TendUnits
    tidy: Tidy
    settle_intent: SettleIntent
    take_event: TakeEvent
    wake_payments: WakePayments
    deliver: Deliver

    async def check_schema(self) -> None:
        """Look whether the database has this release's schema; `NotReady` if not."""
        await check_schema(self.database)


def job_queue(settings: Settings, *, name: str, slots: int) -> JobQueue:
    """Make the queue of one worker that runs `slots` jobs at once; it connects when it is opened."""
    return JobQueue(settings.postgres, name=name, slots=slots)


def require_servers(settings: Settings) -> None:
    """End the process with one line if Postgres refuses it permanently. Call it before an event loop exists.

    Or if the schema is not this release's. A server that is away may come: readiness, and the workers before their
    first job, look again. A gate that refuses is only bypassed, and the log says so.
    """
    database = Database(settings.postgres, name="flashsale-start")

    async def check() -> None:
        await database.check()
        await check_schema(database)

    try:
        asyncio.run(check())
    except Misconfigured as error:
        sys.exit(f"FLASHSALE_POSTGRES__URL: {error}")
    except NotReady as error:
        sys.exit(f"flashsale: {error.detail}")


async def _open_servers(opened: AsyncExitStack, settings: Settings, name: str) -> tuple[Database, RedisGate]:
    """Open the database's pool and the gate; leaving `opened` closes both, the gate first."""
    database = Database(settings.postgres, name=name)
    opened.push_async_callback(database.close)
    await database.open()
    gate = RedisGate(settings.redis, settings.gate)
    opened.push_async_callback(gate.close)
    return database, gate


def as_owner(settings: Settings) -> Settings:
    """Return the same settings with the database user who owns the tables, if one is named."""
    postgres = settings.postgres
    url = postgres.owner_url if postgres.owner_url.get_secret_value() else postgres.url
    return settings.model_copy(update={"postgres": postgres.model_copy(update={"url": url})})


@asynccontextmanager
async def open_accounts(settings: Settings, *, name: str) -> AsyncIterator[tuple[Accounts, PostgresUsers]]:
    """Wire what the commands about accounts need: Postgres alone."""
    async with AsyncExitStack() as opened:
        database = Database(settings.postgres, name=f"flashsale-{name}")
        opened.push_async_callback(database.close)
        await database.open()
        auth = settings.auth
        passwords = Argon2Passwords(
            concurrency=auth.hash_concurrency, queue_max=auth.hash_queue_max, wait_s=auth.hash_wait_s
        )
        opened.push_async_callback(passwords.close)
        users = PostgresUsers(database)
        yield Accounts(users, passwords, None), users


def _accounts(opened: AsyncExitStack, settings: Settings, users: PostgresUsers) -> Accounts:
    """Wire the accounts of an API process: with limits on logins."""
    passwords = Argon2Passwords(
        concurrency=settings.auth.hash_concurrency,
        queue_max=settings.auth.hash_queue_max,
        wait_s=settings.auth.hash_wait_s,
    )
    opened.push_async_callback(passwords.close)
    login_limits = RedisLoginLimits(settings.redis, settings.logins)
    opened.push_async_callback(login_limits.close)
    return Accounts(users, passwords, login_limits)


@asynccontextmanager
async def open_services(
    settings: Settings, *, name: str = "api", provider: PaymentGateway | None = None
) -> AsyncIterator[Services]:
    """Wire the services; servers that are away are no error here. Leaving the block closes everything.

    `provider`: at which buyers pay and which sends webhooks, in place of the one that the settings name.
    """
    async with AsyncExitStack() as opened:
        database, gate = await _open_servers(opened, settings, f"flashsale-{name}")
        products, books = PostgresProducts(database), PostgresGateBooks(database)
        users = PostgresUsers(database)
        order_rows = PostgresOrders(database)
        intents = PostgresIntents(database)
        if provider is None and settings.payments.provider == "stripe":
            provider = await opened.enter_async_context(
                open_gateway(
                    settings,
                    connections_max=settings.payments.api_connections,
                    turns=_turns(settings, database),
                )
            )
        catalog = Catalog(products, poll_s=settings.live.poll_s)
        load_gate = LoadGate(books, gate, catalog)
        opened.push_async_callback(load_gate.close)
        gate.on_unloaded = load_gate.soon
        return_units = ReturnUnits(books, gate, limit=settings.workers.sweep_limit)
        opened.push_async_callback(return_units.close)
        revocations = Revocations(users, token_s=settings.auth.jwt_ttl_s, poll_s=settings.live.poll_s)
        feed = CatalogFeed(RevocationFeed(PostgresFeed(database), revocations), catalog)
        acceptance = PostgresAcceptance(database, order_due_s=settings.orders.order_due_s)
        buy = Buy(
            catalog=catalog,
            gate=gate,
            acceptance=acceptance,
            load_gate=load_gate,
            return_units=return_units,
            accept=settings.accept,
            gate_settings=settings.gate,
            waiting_max=settings.orders.waiting_max,
            busy_s=settings.postgres.lock_timeout_s,
        )
        opened.push_async_callback(buy.close)
        with suppress(FlashSaleError):
            await revocations.refresh()
        for polling in (asyncio.create_task(catalog.poll()), asyncio.create_task(revocations.poll())):
            opened.callback(polling.cancel)
        accounts = _accounts(opened, settings, users)
        sessions = Sessions(users, accounts, revocations)
        yield Services(
            settings=settings,
            database=database,
            gate=gate,
            catalog=catalog,
            feed=feed,
            buy=buy,
            orders=BuyerOrders(
                order_rows,
                return_units,
                sessions.require_admin,
                payment_due_s=settings.orders.payment_due_s,
                open_intent=None if provider is None else OpenIntent(intents, provider, settings.payments),
            ),
            webhooks=ReceiveWebhook(intents, provider),
            order_rows=order_rows,
            products=products,
            books=books,
            users=users,
            accounts=accounts,
            sessions=sessions,
            revocations=revocations,
            administer=Administer(
                products,
                order_rows,
                catalog,
                load_gate,
                PostgresAdminAnswers(database),
                chunk=settings.units.chunk,
            ),
            refunds=RequestRefund(PostgresRefunds(database), order_rows, due_s=settings.orders.payment_due_s),
            load_gate=load_gate,
            readiness=Readiness(PostgresHealth(database), gate, catalog, feed),
            status=Status(PostgresFigures(database), products, gate, acceptance),
            stories=PostgresStories(database),
        )


def _turns(settings: Settings, database: Database) -> Turns | None:
    """Wire budget and breaker; the simulator's own dialect needs none."""
    payments = settings.payments
    if payments.provider != "stripe":
        return None
    breaker = Breaker(
        failures=payments.breaker_failures, pause_s=payments.breaker_pause_s, pause_max_s=payments.breaker_pause_max_s
    )
    return Turns(
        payments.provider,
        PostgresTurns(database),
        breaker,
        rate_per_s=payments.budget_per_s,
        wait_s=payments.budget_wait_s,
    )


@asynccontextmanager
async def open_gateway(
    settings: Settings, *, connections_max: int, turns: Turns | None = None
) -> AsyncIterator[PaymentGateway]:
    """Open the payment provider that the settings name, over at most `connections_max` connections."""
    if settings.payments.provider == "stripe":
        # Here, because the library takes 40 MB and a second that no other provider needs.
        from flashsale.adapters.payments.stripe import StripeGateway

        async with StripeGateway(settings.stripe, connections_max=connections_max, turns=turns) as stripe:
            yield ObservedGateway(stripe)
    else:
        url, secret = settings.payments.gateway_url, settings.payments.gateway_secret.get_secret_value()
        async with SimulatorGateway(url, secret, connections_max=connections_max) as simulator:
            yield ObservedGateway(simulator)


@asynccontextmanager
async def open_outbox(settings: Settings) -> AsyncIterator[PostgresOutbox]:
    """Wire what the commands about webhooks need."""
    database = Database(settings.postgres, name="flashsale-webhooks")
    await database.open()
    try:
        yield PostgresOutbox(database)
    finally:
        await database.close()


async def _open_deliver(opened: AsyncExitStack, settings: Settings, database: Database) -> Deliver:
    """Wire the delivery of the outbox; leaving `opened` breaks deliveries off."""
    outbox, mail = settings.outbox, settings.mail
    url = mail.url.get_secret_value()
    sender = WebhookSender(connections_max=outbox.concurrency * outbox.targets_max, loopback=outbox.loopback_allowed)
    await opened.enter_async_context(sender)
    mails = SmtpSender(url, sender=mail.sender, timeout_s=outbox.timeout_s) if url else None
    deliver = Deliver(PostgresOutbox(database), sender, mails, outbox)
    opened.push_async_callback(deliver.close)
    return deliver


@asynccontextmanager
async def open_jobs(settings: Settings, *, name: str) -> AsyncIterator[Jobs]:
    """Wire what a worker process runs."""
    async with AsyncExitStack() as opened:
        database, gate = await _open_servers(opened, settings, f"flashsale-{name}")
        gateway = await opened.enter_async_context(
            open_gateway(
                settings,
                connections_max=settings.workers.payment_concurrency,
                turns=(turns := _turns(settings, database)),
            )
        )
        products, books = PostgresProducts(database), PostgresGateBooks(database)
        orders = PostgresOrders(database)
        load_gate = LoadGate(books, gate, None)
        opened.push_async_callback(load_gate.close)
        return_units = ReturnUnits(books, gate, limit=settings.workers.sweep_limit)
        opened.push_async_callback(return_units.close)
        postpone = Postpone(orders, pause_s=settings.orders.postpone_s, pause_max_s=settings.orders.postpone_max_s)
        acceptance = PostgresAcceptance(database, order_due_s=settings.orders.order_due_s)
        intents = PostgresIntents(database)
        settle_intent = SettleIntent(intents, gateway, settings.payments)
        refund = MakeRefund(
            PostgresRefunds(database),
            gateway,
            settings.payments,
            return_units,
            due_s=settings.payments.timeout_s + settings.orders.payment_due_s,
        )
        yield Jobs(
            settings=settings,
            database=database,
            figures=PostgresFigures(database),
            gate=gate,
            acceptance=acceptance,
            invariants=PostgresInvariants(database, timeout_s=settings.audit.timeout_s),
            process_orders=ProcessOrders(orders, postpone, payment_due_s=settings.orders.payment_due_s),
            charge=Charge(
                PostgresPayments(database),
                gateway,
                settings.payments,
                return_units,
                postpone,
                payment_due_s=settings.payments.timeout_s + settings.orders.payment_due_s,
                turns=turns,
            ),
            refund=refund,
            sweep=Sweep(
                orders,
                return_units,
                postpone,
                limit=settings.workers.sweep_limit,
                due_s=settings.orders.payment_due_s,
            ),
            reconcile=Reconcile(
                books=books,
                gate=gate,
                acceptance=acceptance,
                load_gate=load_gate,
                return_units=return_units,
                limit=settings.workers.sweep_limit,
                idle=settings.workers.reconcile_idle,
                budget_s=settings.workers.reconcile_s,
            ),
            tend_units=TendUnits(products, chunk=settings.units.chunk, ahead=settings.units.ahead),
            tidy=Tidy(PostgresUpkeep(database), settings.outbox),
            settle_intent=settle_intent,
            take_event=TakeEvent(intents, gateway, settings.payments, settle_intent, hooks=[refund.note_intent]),
            wake_payments=WakePayments(intents, limit=settings.payments.poll_limit),
            deliver=await _open_deliver(opened, settings, database),
        )


@asynccontextmanager
async def open_status(settings: Settings) -> AsyncIterator[Status]:
    """Wire the status of the sale: Postgres and the gate."""
    async with AsyncExitStack() as opened:
        database, gate = await _open_servers(opened, settings, "flashsale-status")
        acceptance = PostgresAcceptance(database, order_due_s=settings.orders.order_due_s)
        yield Status(PostgresFigures(database), PostgresProducts(database), gate, acceptance)


@asynccontextmanager
async def open_audit(settings: Settings, *, bypass_allowed: bool = False) -> AsyncIterator[Audit]:
    """Wire the audit; the gateway's books are read if one is named.

    `bypass_allowed`: a product on sale whose gate is not loaded is no violation.
    """
    patient = settings.postgres.model_copy(update={"statement_timeout_s": settings.audit.timeout_s})
    database = Database(patient, name="flashsale-audit", by_index=False)
    await database.open()
    gate = RedisGate(settings.redis, settings.gate)
    has_books = bool(settings.payments.gateway_url) or settings.payments.provider != "simulator"
    try:
        async with open_gateway(settings, connections_max=1) as gateway:
            truth, products = (
                PostgresInvariants(database, timeout_s=settings.audit.timeout_s),
                PostgresProducts(database),
            )
            yield Audit(
                truth=truth,
                products=products,
                gate=GateAudit(
                    truth=truth,
                    books=PostgresGateBooks(database),
                    gate=gate,
                    acceptance=PostgresAcceptance(database, order_due_s=settings.orders.order_due_s),
                    lease_s=settings.gate.lease_s,
                    bypass_allowed=bypass_allowed,
                ),
                gateway=gateway if has_books else None,
                settle=Settle(PostgresSettledOrders(database), gateway) if has_books else None,
                lease_s=settings.gate.lease_s,
            )
    finally:
        await gate.close()
        await database.close()


@asynccontextmanager
async def open_settlement(settings: Settings) -> AsyncIterator[Settle]:
    """Wire the settlement.

    Raises:
        NotReady: if no payment provider is named.
    """
    if settings.payments.provider == "simulator" and not settings.payments.gateway_url:
        raise NotReady("No payment provider is named: set FLASHSALE_PAYMENTS__GATEWAY_URL.")
    database = Database(settings.postgres, name="flashsale-settlement")
    await database.open()
    try:
        async with open_gateway(settings, connections_max=1) as gateway:
            yield Settle(PostgresSettledOrders(database), gateway)
    finally:
        await database.close()
