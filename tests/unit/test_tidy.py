"""Tables are tidied one after the other, and one that fails lets no other grow."""

import pytest

from flashsale.domain.errors import Unavailable
from flashsale.settings.outbox import OutboxSettings
from flashsale.usecases.ports import PoisonBatch
from flashsale.usecases.tidy import Tidy, Upkeep

WORKS = [name for name in vars(Upkeep) if not name.startswith("_")]


class Tables:
    """Notes what is tidied; `wrong` fails."""

    def __init__(self, wrong=None, error=None):
        self.wrong, self.error, self.done = wrong, error, []

    def __getattr__(self, name):
        async def work(*given, **_):
            self.done.append((name, *given))
            if name == self.wrong:
                raise self.error
            return 0

        return work


async def everything():
    tables = Tables()
    await Tidy(tables, OutboxSettings())()
    return tables.done


async def test_every_table_is_tidied():
    assert {name for name, *_ in await everything()} == set(WORKS)


@pytest.mark.parametrize("error", [PoisonBatch("a row that cannot be", unknown_user=False), Unavailable("too slow")])
@pytest.mark.parametrize("wrong", WORKS)
async def test_a_table_that_fails_keeps_no_other_from_being_tidied(wrong, error):
    tables = Tables(wrong, error)
    with pytest.raises(type(error)) as failed:
        await Tidy(tables, OutboxSettings())()
    assert failed.value is error, "the job counts as failed"
    assert tables.done == await everything()
