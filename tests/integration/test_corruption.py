"""The audit reports every wrong value, or the list of what it cannot know says why not."""

import sys

import asyncpg

from flashsale.adapters.postgres.invariants import PostgresInvariants
from tests.corruption.excuses import ONLY_WHOLE
from tests.corruption.judge import Table, judge
from tests.corruption.sale import OneSession, sound_sale
from tests.corruption.wrongs import UNGUARDED, wrong_rows


async def test_every_wrong_value_is_reported_or_excused(settings, redis, monkeypatch):
    # No wait: a wrong value does not correct itself.
    monkeypatch.setattr("flashsale.usecases.gate_audit.LAG_S", -1e9)
    monkeypatch.setattr("flashsale.usecases.gate_audit.RETURN_S", 1e9)
    table = await judge(settings, victims_max=1)
    sys.stdout.write(table.summary())
    assert not table.missed, "\n".join(table.missed)


async def test_the_minute_audit_reports_every_wrong_value_of_a_recent_order(settings):
    table = Table(ONLY_WHOLE)
    async with sound_sale(settings):
        session = await asyncpg.connect(settings.postgres.url.get_secret_value())
        await session.execute(UNGUARDED)
        minute_audit = PostgresInvariants(OneSession(settings, session), timeout_s=60)

        async def found():
            results = await minute_audit.check_recent(overdue_s=3600, stuck_s=3600)
            return {result.invariant for result in results if result.violations}

        async with session.transaction(isolation="repeatable_read"):
            assert await found() == set(), "the sale is sound"
            async for wrong, violated in wrong_rows(session, found, 1):
                table.add(wrong, violated)
        await session.close()
    sys.stdout.write(table.summary())
    assert not table.missed, "\n".join(table.missed)
