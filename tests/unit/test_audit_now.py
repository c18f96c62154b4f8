"""The audit that somebody asks for."""

from __future__ import annotations

import asyncio

import pytest

from flashsale.domain.errors import NotReady
from flashsale.settings.groups import AuditSettings
from flashsale.usecases.audit_now import AuditNow
from flashsale.usecases.ports import PoisonBatch


class Truth:
    def __init__(self):
        self.answer = asyncio.Event()
        self.running = self.most = self.begun = 0
        self.error = None

    async def check_recent(self, **_):
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.answer.wait()
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return [self.begun]


async def test_who_asks_while_an_audit_runs_shares_it_and_who_leaves_does_not_end_it():
    truth = Truth()
    audit = AuditNow(truth, AuditSettings())
    asked = [asyncio.create_task(audit()) for _ in range(20)]
    await asyncio.sleep(0)
    for left in asked[:10]:
        left.cancel()
    truth.answer.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in answers[:10]] == [asyncio.CancelledError] * 10
    assert answers[10:] == [[1]] * 10
    assert (truth.begun, truth.most) == (1, 1)
    assert await audit() == [2], "the next one reads again"


async def test_each_who_shares_an_audit_is_told_that_it_failed():
    truth = Truth()
    truth.error = PoisonBatch("no", unknown_user=False)
    audit = AuditNow(truth, AuditSettings())
    truth.answer.set()
    for answer in await asyncio.gather(audit(), audit(), return_exceptions=True):
        assert isinstance(answer, NotReady)
    with pytest.raises(NotReady):
        await audit()
