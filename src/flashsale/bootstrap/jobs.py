"""What a worker process runs."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.adapters.mail.sender import SmtpSender
from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.figures import PostgresFigures
from flashsale.adapters.postgres.gate_books import PostgresGateBooks
from flashsale.adapters.postgres.intents import PostgresIntents
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.job_queue import JobQueue
from flashsale.adapters.postgres.orders import PostgresOrders
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.payments import PostgresPayments
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.adapters.postgres.refunds import PostgresRefunds
from flashsale.adapters.postgres.resets import PostgresResets
from flashsale.adapters.postgres.schema import check_schema
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.adapters.redis.gate import RedisGate
from flashsale.adapters.webhooks.sender import WebhookSender
from flashsale.bootstrap.servers import open_gateway, open_servers, turns_of
from flashsale.bootstrap.tracing import open_tracer
from flashsale.domain.traces import NO_ORIGIN, SpanKind
from flashsale.runtime.logs import bind_origin
from flashsale.usecases.charge import Charge
from flashsale.usecases.deliver import Deliver
from flashsale.usecases.halving import Postpone
from flashsale.usecases.load_gate import LoadGate
from flashsale.usecases.maintain import Sweep
from flashsale.usecases.process_orders import ProcessOrders
from flashsale.usecases.reconcile import Reconcile
from flashsale.usecases.refund import MakeRefund
from flashsale.usecases.return_units import ReturnUnits
from flashsale.usecases.send_resets import SendResets
from flashsale.usecases.settle_intent import SettleIntent
from flashsale.usecases.tend_units import TendUnits
from flashsale.usecases.tidy import Tidy
from flashsale.usecases.tracing import OrderTraces
from flashsale.usecases.wake_payments import WakePayments
from flashsale.usecases.webhooks import TakeEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from uuid import UUID

    from flashsale.runtime.tracing import Tracer
    from flashsale.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Everything that the tasks of the workers call."""

    settings: Settings
    database: Database
    figures: PostgresFigures
    gate: RedisGate
    acceptance: PostgresAcceptance
    invariants: PostgresInvariants
    orders: PostgresOrders
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
    send_resets: SendResets
    tracer: Tracer | None = None

    async def check_schema(self) -> None:
        """Look whether the database has this release's schema; `NotReady` if not."""
        await check_schema(self.database)

    async def name_request(self, order_id: UUID) -> None:
        """Let the log lines of this job carry the id of the request that made its order, and join its trace."""
        bind_origin((await self.orders.origins([order_id])).get(order_id, NO_ORIGIN))

    def span(self, name: str) -> AbstractContextManager[object]:
        """Run a job in a span, if this process traces; the job joins the trace of its order once it has read that."""
        return nullcontext() if self.tracer is None else self.tracer.running(f"{name} job", SpanKind.CONSUMER)


def job_queue(settings: Settings, *, name: str, slots: int) -> JobQueue:
    """Make the queue of one worker that runs `slots` jobs at once; it connects when it is opened."""
    return JobQueue(settings.postgres, name=name, slots=slots)


def _mails(settings: Settings) -> SmtpSender | None:
    url = settings.mail.url.get_secret_value()
    return SmtpSender(url, sender=settings.mail.sender, timeout_s=settings.outbox.timeout_s) if url else None


async def _open_deliver(
    opened: AsyncExitStack,
    settings: Settings,
    database: Database,
    mails: SmtpSender | None,
    traces: OrderTraces | None,
) -> Deliver:
    """Wire the delivery of the outbox; leaving `opened` breaks deliveries off."""
    outbox = settings.outbox
    sender = WebhookSender(connections_max=outbox.concurrency * outbox.targets_max, loopback=outbox.loopback_allowed)
    await opened.enter_async_context(sender)
    deliver = Deliver(PostgresOutbox(database), sender, mails, outbox, traces)
    opened.push_async_callback(deliver.close)
    return deliver


@asynccontextmanager
async def open_jobs(settings: Settings, *, name: str) -> AsyncIterator[Jobs]:
    """Wire what a worker process runs; the collector of traces shows `name`."""
    async with AsyncExitStack() as opened:
        tracer = open_tracer(opened, settings, role=name)
        database, gate = await open_servers(opened, settings, f"flashsale-{name}")
        gateway = await opened.enter_async_context(
            open_gateway(
                settings,
                database,
                connections_max=settings.workers.payment_concurrency,
                turns=(turns := turns_of(settings, database)),
            )
        )
        mails = _mails(settings)
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
            orders=orders,
            process_orders=ProcessOrders(orders, postpone, payment_due_s=settings.orders.payment_due_s, tracer=tracer),
            charge=Charge(
                PostgresPayments(database),
                gateway,
                settings.payments,
                return_units,
                postpone,
                payment_due_s=settings.payments.timeout_s + settings.orders.payment_due_s,
                turns=turns,
                intents=intents,
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
            deliver=await _open_deliver(
                opened, settings, database, mails, None if tracer is None else OrderTraces(tracer, orders)
            ),
            send_resets=SendResets(PostgresResets(database), mails, ttl_s=settings.auth.reset_token_ttl_s),
            tracer=tracer,
        )
