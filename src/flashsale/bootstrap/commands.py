"""What commands open."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import SecretStr

from flashsale.adapters.archive_files import MANIFEST, FolderOfArchive
from flashsale.adapters.passwords import Argon2Passwords
from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.copied_accounts import users_of
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.figures import PostgresFigures
from flashsale.adapters.postgres.gate_books import PostgresGateBooks
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.adapters.postgres.sale import PostgresSale, open_sale_pool
from flashsale.adapters.postgres.sale_rows import PostgresSaleRows
from flashsale.adapters.postgres.settlement import PostgresFees, PostgresSettledOrders
from flashsale.adapters.postgres.users import PostgresUsers
from flashsale.bootstrap.servers import open_gateway, open_servers, provider_away
from flashsale.domain.errors import NotReady
from flashsale.usecases.accounts import Accounts
from flashsale.usecases.archive_check import CheckArchive
from flashsale.usecases.archive_sale import ArchiveSale
from flashsale.usecases.audit import Audit
from flashsale.usecases.gate_audit import GateAudit
from flashsale.usecases.settle import Settle
from flashsale.usecases.status import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from flashsale.domain.trail import Author
    from flashsale.settings import Settings

SaleFigures = PostgresSale

FOLDER_OF_SALE = "product-{}"
"""Folder of an archived sale, by the product's id."""


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
        users = users_of(database, settings.cell.number)
        yield Accounts(users, passwords, None), users


@asynccontextmanager
async def open_outbox(settings: Settings) -> AsyncIterator[PostgresOutbox]:
    """Wire what the commands about webhooks need."""
    database = Database(settings.postgres, name="flashsale-webhooks")
    await database.open()
    try:
        yield PostgresOutbox(database)
    finally:
        await database.close()


@asynccontextmanager
async def open_status(settings: Settings) -> AsyncIterator[Status]:
    """Wire the status of the sale: Postgres and the gate."""
    async with AsyncExitStack() as opened:
        database, gate = await open_servers(opened, settings, "flashsale-status")
        acceptance = PostgresAcceptance(database, order_due_s=settings.orders.order_due_s)
        away = provider_away(settings, database)
        yield Status(PostgresFigures(database), PostgresProducts(database), gate, acceptance, away)


@asynccontextmanager
async def open_audit(settings: Settings, *, bypass_allowed: bool = False) -> AsyncIterator[Audit]:
    """Wire the audit; the gateway's books are read if one is named.

    `bypass_allowed`: a product on sale whose gate is not loaded is no violation.
    """
    from flashsale.adapters.redis.gate import RedisGate

    postgres = settings.postgres
    # To the server itself: behind a pooler the time limits and plans are the role's, and those do not suit an audit.
    patient = postgres.model_copy(
        update={
            "statement_timeout_s": settings.audit.timeout_s,
            "url": postgres.direct_url if postgres.direct_url.get_secret_value() else postgres.url,
            "direct_url": SecretStr(""),
        }
    )
    database = Database(patient, name="flashsale-audit", by_index=False)
    await database.open()
    gate = RedisGate(settings.redis, settings.gate)
    has_books = bool(settings.payments.gateway_url) or settings.payments.provider != "simulator"
    try:
        async with open_gateway(settings, database, connections_max=1) as gateway:
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
async def open_archive(
    settings: Settings, to: Path, *, place: str | None, quiet_days: float, disputes_over: bool, author: Author
) -> AsyncIterator[tuple[Callable[[int], ArchiveSale], PostgresSaleRows]]:
    """Wire the archive: what makes the use case for a product, and the sales. The database user owns the tables."""
    # It reads a whole sale.
    patient = settings.postgres.model_copy(update={"statement_timeout_s": settings.audit.timeout_s})
    database = Database(patient, name="flashsale-archive")
    await database.open()
    rows = PostgresSaleRows(database, disputes_over=disputes_over)

    def of(product_id: int) -> ArchiveSale:
        files = FolderOfArchive(to / FOLDER_OF_SALE.format(product_id), parent=place)
        return ArchiveSale(rows, files, quiet=timedelta(days=quiet_days), author=author)

    try:
        yield of, rows
    finally:
        await database.close()


def open_archives(folder: Path) -> list[CheckArchive]:
    """Wire the check of the archive in a folder, or of all archives in its folders."""
    folders = [folder] if (folder / MANIFEST).exists() else sorted(folder.glob(FOLDER_OF_SALE.format("*")))
    return [CheckArchive(FolderOfArchive(one)) for one in folders or [folder]]


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
        async with open_gateway(settings, database, connections_max=1) as gateway:
            yield Settle(PostgresSettledOrders(database), gateway, PostgresFees(database))
    finally:
        await database.close()


@asynccontextmanager
async def open_sale_figures(url: str) -> AsyncIterator[PostgresSale]:
    """Wire what the demo reads of its sale, over at most two connections."""
    async with open_sale_pool(url) as pool:
        yield PostgresSale(pool)
