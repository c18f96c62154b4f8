"""What an API process serves from."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from flashsale.adapters.passwords import Argon2Passwords
from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.administration import PostgresAdminAnswers
from flashsale.adapters.postgres.books import PostgresLedgerDays
from flashsale.adapters.postgres.buyers import PostgresBuyers
from flashsale.adapters.postgres.copied_accounts import resets_of, users_of
from flashsale.adapters.postgres.feed import PostgresFeed
from flashsale.adapters.postgres.figures import PostgresFigures
from flashsale.adapters.postgres.found_orders import PostgresFoundOrders
from flashsale.adapters.postgres.gate_books import PostgresGateBooks
from flashsale.adapters.postgres.health import PostgresHealth
from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.manual import PostgresManualBook
from flashsale.adapters.postgres.orders import PostgresOrders
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.adapters.postgres.story import PostgresStories
from flashsale.adapters.postgres.trail import PostgresTrail
from flashsale.adapters.postgres.users import PostgresUsers
from flashsale.adapters.redis.logins import RedisLoginLimits
from flashsale.bootstrap.servers import open_gateway, open_servers, provider_away, turns_of
from flashsale.domain.errors import FlashSaleError
from flashsale.usecases.accounts import Accounts
from flashsale.usecases.administer import Administer
from flashsale.usecases.audit_now import AuditNow
from flashsale.usecases.books import ReadBooks
from flashsale.usecases.buy import Buy
from flashsale.usecases.catalog import Catalog, CatalogFeed
from flashsale.usecases.find_orders import FindOrders
from flashsale.usecases.load_gate import LoadGate
from flashsale.usecases.open_intent import OpenIntent
from flashsale.usecases.orders import BuyerOrders
from flashsale.usecases.product_figures import ReadProducts
from flashsale.usecases.readiness import Readiness
from flashsale.usecases.record_money import MANUAL, RecordMoney
from flashsale.usecases.refund import RequestRefund
from flashsale.usecases.return_units import ReturnUnits
from flashsale.usecases.revocations import RevocationFeed, Revocations
from flashsale.usecases.services import Services
from flashsale.usecases.sessions import Sessions
from flashsale.usecases.status import Status
from flashsale.usecases.tracing import OrderTraces
from flashsale.usecases.webhooks import ReceiveWebhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flashsale.adapters.postgres.database import Database
    from flashsale.runtime.tracing import Tracer
    from flashsale.settings import Settings
    from flashsale.usecases.payment_ports import PaymentGateway


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


def _acceptance(settings: Settings, database: Database, tracer: Tracer | None) -> PostgresAcceptance:
    """Wire the accept transaction; only a process that traces loads the one with spans."""
    due_s = settings.orders.order_due_s
    if tracer is None:
        return PostgresAcceptance(database, order_due_s=due_s)
    from flashsale.adapters.postgres.traced_acceptance import TracedAcceptance

    return TracedAcceptance(database, order_due_s=due_s, tracer=tracer)


@asynccontextmanager
async def open_services(
    settings: Settings, *, name: str = "api", provider: PaymentGateway | None = None, tracer: Tracer | None = None
) -> AsyncIterator[Services]:
    """Wire the services; servers that are away are no error here. Leaving the block closes everything.

    `provider`: at which buyers pay and which sends webhooks, in place of the one that the settings name. `tracer`:
    makes the spans of a process that traces.
    """
    async with AsyncExitStack() as opened:
        database, gate = await open_servers(opened, settings, f"flashsale-{name}")
        products, books = PostgresProducts(database), PostgresGateBooks(database)
        users = users_of(database, settings.cell.number)
        order_rows = PostgresOrders(database)
        intents = PostgresIntents(database)
        if provider is None and settings.payments.provider == "stripe":
            provider = await opened.enter_async_context(
                open_gateway(
                    settings,
                    database,
                    connections_max=settings.payments.api_connections,
                    turns=turns_of(settings, database),
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
        acceptance = _acceptance(settings, database, tracer)
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
            cell=settings.cell.number,
        )
        opened.push_async_callback(buy.close)
        with suppress(FlashSaleError):
            await revocations.refresh()
        for polling in (asyncio.create_task(catalog.poll()), asyncio.create_task(revocations.poll())):
            opened.callback(polling.cancel)
        accounts = _accounts(opened, settings, users)
        by_hand = settings.payments.provider == MANUAL
        sessions = Sessions(
            users,
            accounts,
            revocations,
            resets_of(database, settings.cell.number),
            reset_pause_s=settings.auth.reset_pause_s,
        )
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
                sessions.require,
                payment_due_s=settings.orders.payment_due_s,
                open_intent=None if provider is None else OpenIntent(intents, provider, settings.payments),
                by_hand=by_hand,
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
                catalog,
                load_gate,
                PostgresAdminAnswers(database),
                chunk=settings.units.chunk,
                by_buyer_only=by_hand,
            ),
            read_products=ReadProducts(products, PostgresFigures(database)),
            refunds=RequestRefund(PostgresRefunds(database), order_rows, due_s=settings.orders.payment_due_s),
            record_money=RecordMoney(
                PostgresManualBook(database),
                provider=settings.payments.provider,
                due_s=settings.orders.payment_due_s,
            ),
            load_gate=load_gate,
            readiness=Readiness(
                PostgresHealth(database, cell=settings.cell.number),
                gate,
                catalog,
                feed,
                provider_away(settings, database),
            ),
            status=Status(PostgresFigures(database), products, gate, acceptance, provider_away(settings, database)),
            stories=PostgresStories(database),
            trail=PostgresTrail(database),
            find_orders=FindOrders(PostgresFoundOrders(database)),
            read_books=ReadBooks(PostgresLedgerDays(database)),
            buyers=PostgresBuyers(database),
            audit_now=AuditNow(PostgresInvariants(database, timeout_s=settings.audit.timeout_s), settings.audit),
            traces=None if tracer is None else OrderTraces(tracer, order_rows),
        )
