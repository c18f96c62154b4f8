"""What `flashsale doctor` asks: this machine, the servers, the payment provider, the receivers of messages."""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

import flashsale
from flashsale.adapters.mail.sender import SmtpSender
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.inspection import automatic_products, inspect_postgres
from flashsale.adapters.redis.inspection import inspect_redis
from flashsale.adapters.webhooks.sender import WebhookSender
from flashsale.bootstrap.commands import open_outbox
from flashsale.bootstrap.servers import open_gateway
from flashsale.domain.checkups import Unreached
from flashsale.domain.errors import FlashSaleError
from flashsale.settings import check_settings, unknown_variables
from flashsale.usecases import doctor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from flashsale.domain.checkups import Finding
    from flashsale.settings import Settings


async def examine() -> AsyncIterator[Finding]:
    """Yield every finding. If a setting is wrong, only this machine is examined."""
    settings, lines = check_settings("doctor")
    for finding in _this_machine(settings, lines):
        yield finding
    if lines:
        return
    database = Database(settings.postgres, name="flashsale-doctor")
    postgres = await inspect_postgres(database)
    for finding in doctor.judge_postgres(postgres, settings):
        yield finding
    for server, facts in (await inspect_redis(settings.redis)).items():
        for finding in doctor.judge_redis(facts):
            yield replace(finding, check=f"{finding.check} {server}") if server else finding
    yield await _provider(settings)
    yield await _mail(settings)
    if not isinstance(postgres, Unreached):
        for finding in await _outbox(settings):
            yield finding


def _this_machine(settings: Settings, lines: Sequence[str]) -> Iterator[Finding]:
    yield doctor.ok("flashsale", f"version {flashsale.__version__}")
    required = metadata.requires("flashsale") or []
    installed: dict[str, str | None] = {}
    for name in map(doctor.package_of, required):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name.lower()] = metadata.version(name)
    yield from doctor.judge_packages(sys.version_info[:2], required, installed)
    sources = sorted(Path(flashsale.__file__).parent.rglob("*.py"))
    compiled = sum(map(_is_compiled, sources))
    yield doctor.judge_compilation(len(sources), compiled, kept=not sys.dont_write_bytecode)
    yield from doctor.judge_settings(lines, unknown_variables())
    if not lines:
        yield from doctor.judge_files(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _is_compiled(source: Path) -> bool:
    """Say whether a file's compiled form is there and not older."""
    try:
        return Path(cache_from_source(str(source))).stat().st_mtime >= source.stat().st_mtime
    except OSError:
        return False


async def _provider(settings: Settings) -> Finding:
    """Read the first line of the provider's list, with the key that the workers use."""
    check, payments = "payment provider", settings.payments
    if payments.provider == "simulator" and not payments.gateway_url:
        return doctor.warn(check, "none is named", "Set FLASHSALE_PAYMENTS__GATEWAY_URL for the payment workers.")
    if payments.provider == "manual":
        return await _manual(check, settings)
    key = "FLASHSALE_STRIPE__SECRET_KEY" if payments.provider == "stripe" else "FLASHSALE_PAYMENTS__GATEWAY_SECRET"
    problem = None
    try:
        database = Database(settings.postgres, name="flashsale-doctor")
        async with open_gateway(settings, database, connections_max=1) as gateway:
            rows = gateway.intents(since=datetime.now(UTC)) if payments.provider == "stripe" else gateway.ledger()
            async with contextlib.aclosing(rows):  # type: ignore[type-var]
                async for _ in rows:
                    break
    except FlashSaleError as error:
        problem = error.detail
    return doctor.judge_answer(check, payments.provider, problem, f"Check the address, the network and {key}.")


async def _manual(check: str, settings: Settings) -> Finding:
    database = Database(settings.postgres, name="flashsale-doctor")
    await database.open()
    try:
        return doctor.judge_manual(check, await automatic_products(database))
    except FlashSaleError as error:
        return doctor.wrong(check, error.detail, "See the findings about Postgres.")
    finally:
        await database.close()


async def _mail(settings: Settings) -> Finding:
    url = settings.mail.url.get_secret_value()
    if not url:
        return doctor.ok("mail", "no e-mail is sent")
    problem = await SmtpSender(url, sender=settings.mail.sender, timeout_s=settings.outbox.timeout_s).check()
    return doctor.judge_answer("mail", "mail server", problem, "Check FLASHSALE_MAIL__URL and the server.")


async def _outbox(settings: Settings) -> list[Finding]:
    findings = []
    try:
        async with open_outbox(settings) as outbox:
            targets = await outbox.targets()
    except FlashSaleError as error:
        return [doctor.wrong("outbox", error.detail, "See the findings about Postgres.")]
    sender = WebhookSender(connections_max=1, loopback=settings.outbox.loopback_allowed)
    async with sender:
        for one in targets:
            if one.url is not None:
                problem = await sender.check(one.url, timeout_s=settings.outbox.timeout_s)
                todo = "Repair the endpoint, or `flashsale webhooks remove`."
                findings.append(doctor.judge_answer("outbox", f"{one.target_id} {one.url}", problem, todo))
            if (late := doctor.judge_messages(one.target_id, one.waiting, one.dead, one.problem)) is not None:
                findings.append(late)
    return findings or [doctor.ok("outbox", "no target")]
