"""Servers and provider, opened; and the check at a process' start."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from flashsale.adapters.payments.manual import ManualGateway
from flashsale.adapters.payments.observed import ObservedGateway
from flashsale.adapters.postgres.cells import check_cell
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.failures import Misconfigured
from flashsale.adapters.postgres.manual import PostgresManualBook
from flashsale.adapters.postgres.schema import check_schema, expected, fingerprint
from flashsale.adapters.postgres.turns import PostgresTurns
from flashsale.domain.errors import NotReady
from flashsale.usecases.record_money import MANUAL
from flashsale.usecases.turns import Breaker, Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from flashsale.adapters.redis.gate import RedisGate
    from flashsale.settings import Settings
    from flashsale.usecases.payment_ports import PaymentGateway

schema_fingerprint = fingerprint


def require_servers(settings: Settings) -> None:
    """End the process with one line if Postgres refuses it permanently. Call it before an event loop exists.

    Or if the schema is not this release's. A server that is away may come: readiness, and the workers before their
    first job, look again. A gate that refuses is only bypassed, and the log says so.
    """
    database = Database(settings.postgres, name="flashsale-start")

    async def check() -> None:
        await database.check()
        await check_schema(database)
        await check_cell(database, settings.cell.number)

    try:
        asyncio.run(check())
    except Misconfigured as error:
        sys.exit(f"{error.setting}: {error}")
    except NotReady as error:
        sys.exit(f"flashsale: {error.detail}")


def schema_revision() -> str:
    """Return the newest migration of this release."""
    return expected().revision


async def open_servers(opened: AsyncExitStack, settings: Settings, name: str) -> tuple[Database, RedisGate]:
    """Open the database's pool and the gate; leaving `opened` closes both, the gate first."""
    # Its client takes a third of the time in which a command starts, and most commands need no gate.
    from flashsale.adapters.redis.gate import RedisGate

    database = Database(settings.postgres, name=name)
    opened.push_async_callback(database.close)
    await database.open()
    gate = RedisGate(settings.redis, settings.gate)
    opened.push_async_callback(gate.close)
    return database, gate


def as_owner(settings: Settings) -> Settings:
    """Return the same settings with the database user who owns the tables, if one is named, without a pooler."""
    postgres = settings.postgres
    named = (postgres.owner_url, postgres.direct_url, postgres.url)
    url = next((one for one in named if one.get_secret_value()), postgres.url)
    return settings.model_copy(
        update={"postgres": postgres.model_copy(update={"url": url, "direct_url": type(url)("")})}
    )


def turns_of(settings: Settings, database: Database) -> Turns | None:
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


def provider_away(settings: Settings, database: Database) -> Callable[[], Awaitable[bool]] | None:
    """Return the question whether a process found the payment provider away; None for one without a breaker."""
    provider = settings.payments.provider
    return partial(PostgresTurns(database).away, provider) if provider == "stripe" else None


@asynccontextmanager
async def open_gateway(
    settings: Settings, database: Database, *, connections_max: int, turns: Turns | None = None
) -> AsyncIterator[PaymentGateway]:
    """Open the payment provider that the settings name, over at most `connections_max` connections.

    Each provider's libraries are imported here, so that a process loads only its own (Stripe's take 1 s and 40 MB).
    """
    if settings.payments.provider == "stripe":
        from flashsale.adapters.payments.stripe import StripeGateway
        from flashsale.adapters.payments.stripe_pages import StripePages

        async with StripeGateway(settings.stripe, connections_max=connections_max, turns=turns) as stripe:
            yield ObservedGateway(StripePages(stripe, settings.stripe))
    elif settings.payments.provider == MANUAL:
        yield ObservedGateway(ManualGateway(PostgresManualBook(database)))
    else:
        from flashsale.adapters.payments.simulator import SimulatorGateway

        url, secret = settings.payments.gateway_url, settings.payments.gateway_secret.get_secret_value()
        async with SimulatorGateway(url, secret, connections_max=connections_max) as simulator:
            yield ObservedGateway(simulator)
