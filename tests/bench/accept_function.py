"""What an order costs in Postgres: the accept function and its COMMIT, each alternative in turn with what processes call."""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.sessions import BY_INDEX, session_settings
from flashsale.domain.requests import order_id_at
from flashsale.local.postgres_server import LocalPostgres
from flashsale.settings.groups import PostgresSettings
from tests.bench.figures import Figure
from tests.conftest import alembic, execute, with_database

if TYPE_CHECKING:
    from tests.bench.bench import Bench

BATCH = 50
"""Orders of a transaction: about as many as gather in a full process."""
BATCHES = 100
"""Transactions of each alternative in a round."""
BUYERS = 20_000
PRICE_MINOR = 100
OWN = 8
"""Arguments that every version of the function has."""
INDEX = "orders_of_buyer"
TEMPLATE = "shop"


class Alternative:
    """A way to accept orders, in a database of its own, so that no alternative fills the tables of another."""

    def __init__(self, name: str, version: int, wanted: int, *, but: int | None = None, ddl: str = "") -> None:
        """Call a version of the function with its `wanted` arguments, NULL in place `but`, after some DDL."""
        self.name = name
        self._wanted = wanted
        self._but = but
        self._ddl = ddl
        places = ", ".join(f"${place}" for place in range(1, wanted + 1))
        self._text = f"SELECT outcome FROM accept_orders_v{version}({places})"
        self._batch = 0
        self.order_us: list[float] = []

    async def open(self, server_url: str, number: int, allotment: int) -> None:
        """Make its database from the template, with a product of so many units, and buyers."""
        await execute(server_url, f"CREATE DATABASE shop_{number} TEMPLATE {TEMPLATE}")
        self._settings = PostgresSettings(url=with_database(server_url, f"shop_{number}"))
        url = self._settings.url.get_secret_value()
        self._db = await asyncpg.connect(url, server_settings=session_settings(self._settings, BY_INDEX))
        if self._ddl:
            await self._db.execute(self._ddl)
        self._product_id = await self._db.fetchval(
            "SELECT create_product_v1('Phone', $1, 'USD', $2, 'automatic', 300, NULL, NULL, NULL)",
            PRICE_MINOR,
            allotment,
        )
        self._users = sorted(uuid.uuid4() for _ in range(BUYERS))
        buyers = "SELECT u, 'buyer', u || '@example.com' FROM unnest($1::uuid[]) AS u"
        await self._db.execute(f"INSERT INTO users (user_id, name, email) {buyers}", self._users)
        await self._db.execute("ANALYZE")

    async def accept(self) -> None:
        """Accept one batch of orders and note what each took."""
        start = self._batch * BATCH % BUYERS
        self._batch += 1
        users = self._users[start : start + BATCH]
        ids = [order_id_at(time.time_ns() // 10**6, os.urandom(10)) for _ in users]
        arguments: list[Any] = [
            ids,
            users,
            [self._product_id] * BATCH,
            [1] * BATCH,
            [str(one) for one in ids],
            [bytes(16)] * BATCH,
            [None] * BATCH,
            timedelta(seconds=5),
            [str(one) for one in ids],
            [PRICE_MINOR] * BATCH,
        ]
        arguments += [None] * (self._wanted - len(arguments))
        given = [None if place == self._but else one for place, one in enumerate(arguments[: self._wanted], 1)]
        began_s = time.perf_counter()
        rows = await self._db.fetch(self._text, *given)
        self.order_us.append((time.perf_counter() - began_s) / BATCH * 1e6)
        assert {row["outcome"] for row in rows} == {"accepted"}, rows

    async def verdict(self) -> str:
        """Check the invariants of its database."""
        await self._db.close()
        database = Database(self._settings, name="bench")
        await database.open()
        try:
            checked = await PostgresInvariants(database, timeout_s=120).check(overdue_s=3600, stuck_s=3600)
        finally:
            await database.close()
        violated = sum(bool(result.violations) for result in checked)
        return f"{len(checked) - violated} hold, {violated} violated"


async def accept_function(bench: Bench) -> None:
    """What a buy costs in Postgres with what its function is given, and under the function of the release before."""
    server = LocalPostgres(bench.folder / "accept-function")
    try:
        url = await server.start()
        alternatives = await _alternatives(url)
        for number, one in enumerate(alternatives):
            await one.open(url, number, BATCH * BATCHES * bench.rounds)
        for _ in range(bench.rounds):
            for _ in range(BATCHES):
                for one in alternatives:
                    await one.accept()
        called = alternatives[0]
        runs = _rounds(called.order_us)
        name = f"accept function and COMMIT, {BATCH} orders, each order"
        bench.figures.append(Figure(name=name, unit="us", runs=runs))
        for control in alternatives[1:]:
            bench.figures.append(
                Figure(
                    name="the same", unit="us", runs=runs, control=control.name, control_runs=_rounds(control.order_us)
                )
            )
        for one in alternatives:
            bench.audits[one.name] = await one.verdict()
    finally:
        await server.stop()


def _rounds(order_us: list[float]) -> list[float]:
    """Return the median of each round."""
    return [statistics.median(order_us[start : start + BATCHES]) for start in range(0, len(order_us), BATCHES)]


async def _alternatives(server_url: str) -> list[Alternative]:
    """Make the template, and see how many arguments the function has."""
    await execute(server_url, f"CREATE DATABASE {TEMPLATE}")
    url = with_database(server_url, TEMPLATE)
    done = await asyncio.to_thread(alembic, url, "upgrade", "head")
    if done.returncode:
        raise RuntimeError(done.stderr)
    called = re.search(r"\baccept_orders_v(\d+)\(", load("queries/acceptance.sql")["accept"].text)
    assert called is not None
    newest = int(called[1])
    db = await asyncpg.connect(url)
    try:
        count = "SELECT pronargs FROM pg_proc WHERE proname = 'accept_orders_v' || $1::integer"
        wanted, wanted_before = [await db.fetchval(count, version) for version in (newest, newest - 1)]
    finally:
        await db.close()
    return [
        Alternative("as processes call it", newest, wanted),
        Alternative("without request ids", newest, wanted, but=OWN + 1),
        Alternative("without expected prices", newest, wanted, but=OWN + 2),
        Alternative(f"version {newest - 1}", newest - 1, wanted_before),
        Alternative(f"without the index {INDEX}", newest, wanted, ddl=f"DROP INDEX {INDEX}"),
    ]
