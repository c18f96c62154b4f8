"""A process that stops in the middle of a transaction holds its locks for a bounded time."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from flashsale.domain.requests import AcceptOutcome
from tests.conftest import ROOT, add_buyers, add_product
from tests.support.accepting import accept, propose

CHANGE = """
import asyncio, os, signal, sys
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.products import PostgresProducts
from flashsale.domain.errors import Unavailable
from flashsale.settings import read_settings
from flashsale.domain.products import ProductChange

class Stopping(dict):
    "Fields that stop the process when they are read: the product is locked then, and not yet changed."
    def __iter__(self):
        return iter(self.keys())
    def keys(self):
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().keys()

async def main(product_id):
    database = Database(read_settings("api").postgres, name="stopped")
    await database.open()
    products = PostgresProducts(database)
    try:
        await products.change(product_id, ProductChange(fields=Stopping(paused=True)))
    except Unavailable:
        print("unavailable")
    print(await products.change(product_id, ProductChange(fields={"name": "Then"})))
    await database.close()

asyncio.run(main(int(sys.argv[1])))
"""

LIMIT_S = 3.0


@pytest.fixture
def stopped(settings):
    """Start a process that changes a product and stops inside the transaction."""
    started = []

    def start(product_id):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "FLASHSALE_POSTGRES__URL": settings.postgres.url.get_secret_value(),
            "FLASHSALE_POSTGRES__IDLE_TRANSACTION_TIMEOUT_S": str(LIMIT_S),
            "FLASHSALE_REDIS__URL": settings.redis.url.get_secret_value(),
            "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
        }
        command = [sys.executable, "-c", CHANGE, str(product_id)]
        child = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


async def test_a_process_that_stops_inside_a_change_gives_its_lock_back(services, db, stopped):
    product = await add_product(services)
    user = (await add_buyers(services, 1))[0]
    child = stopped(product.product_id)
    _, status = await asyncio.to_thread(os.waitpid, child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert not await db.fetchval("SELECT pg_try_advisory_lock_shared(7000, $1)", product.product_id)
    async with asyncio.timeout(LIMIT_S + 20):
        await db.execute("SELECT pg_advisory_lock_shared(7000, $1)", product.product_id)
    await db.execute("SELECT pg_advisory_unlock_shared(7000, $1)", product.product_id)
    assert await accept(services, propose(product, user)) == [AcceptOutcome.ACCEPTED]
    child.send_signal(signal.SIGCONT)
    said, _ = await asyncio.to_thread(child.communicate)
    answers = [line for line in said.splitlines() if line in ("unavailable", "True", "False")]
    assert answers == ["unavailable", "True"], "its own caller is told, and the next change goes through"
    assert await db.fetchrow("SELECT name, paused FROM products") == ("Then", False)
