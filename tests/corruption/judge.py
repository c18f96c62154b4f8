"""What was tried, caught and excused."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import asyncpg
from redis.asyncio import Redis

from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from tests.corruption.excuses import EXCUSES
from tests.corruption.sale import auditing, sound_sale
from tests.corruption.wrongs import UNGUARDED, everything

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.settings import Settings
    from tests.corruption.excuses import Excuse
    from tests.corruption.wrongs import Wrong


async def judge(settings: Settings, *, victims_max: int) -> Table:
    """Make a sound sale, try every wrong value in at most so many rows each, and say what the audit made of it."""
    table = Table()
    redis = Redis.from_url(settings.redis.url.get_secret_value(), decode_responses=True)
    async with sound_sale(settings) as sale:
        await PostgresUpkeep(sale.services.database).carry(settled_s=0, limit=100)
        session = await asyncpg.connect(settings.postgres.url.get_secret_value())
        await session.execute(UNGUARDED)
        async with auditing(sale, session) as audit, session.transaction(isolation="repeatable_read"):
            assert await audit() == set(), "the sale is sound"
            async for wrong, found in everything(sale, session, redis, audit, victims_max=victims_max):
                table.add(wrong, found)
            assert await audit() == set(), "every wrong value was taken back"
        await session.close()
    await redis.aclose()
    return table


class Table:
    """Counts per field; a wrong value that is neither caught nor excused is missed."""

    def __init__(self, excuses: Sequence[Excuse] = EXCUSES) -> None:
        self.excuses = excuses
        self.tried: Counter[str] = Counter()
        self.caught: Counter[str] = Counter()
        self.by: dict[str, set[str]] = {}
        self.excused: Counter[str] = Counter()
        self.used: set[Excuse] = set()
        self.missed: list[str] = []

    def add(self, wrong: Wrong, found: set[str]) -> None:
        """Judge a wrong value."""
        self.tried[wrong.field] += 1
        broken = [one for one in found if one.startswith("broke")]
        if broken:
            self.missed.append(f"{wrong.field} {wrong.how}: {broken}")
        elif found:
            self.caught[wrong.field] += 1
            self.by.setdefault(wrong.field, set()).update(found)
        else:
            self._excuse(wrong)

    def _excuse(self, wrong: Wrong) -> None:
        excuse = next((one for one in self.excuses if one.covers(wrong)), None)
        if excuse is None:
            self.missed.append(f"{wrong.field} {wrong.how}: {wrong.row}")
        else:
            self.excused[wrong.field] += 1
            self.used.add(excuse)

    def summary(self) -> str:
        """Return one line per field and the totals."""
        lines = [f"{'field':<40} {'tried':>5} {'caught':>6} {'excused':>7}  by"]
        for field, tried in self.tried.items():
            by = ", ".join(sorted(self.by.get(field, ()), key=lambda name: (len(name), name)))
            lines.append(f"{field:<40} {tried:>5} {self.caught[field]:>6} {self.excused[field]:>7}  {by}")
        lines.append(
            f"tried {self.tried.total()}, caught {self.caught.total()}, excused {self.excused.total()},"
            f" missed {len(self.missed)}"
        )
        lines += [
            f"excused: {excuse.fields} {excuse.hows or ''}: {excuse.reason}"
            for excuse in self.excuses
            if excuse in self.used
        ]
        return "\n".join(lines)
