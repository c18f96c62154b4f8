"""No product in an unknown currency is stored; a database that holds one is upgraded, and the product is paused."""

from __future__ import annotations

import itertools

import asyncpg
import pytest

from flashsale.bootstrap.api import open_services
from flashsale.domain.errors import InvalidInput
from flashsale.domain.money import EXPONENTS
from flashsale.domain.products import ProductChange
from tests.conftest import alembic, make_settings

CREATE = "SELECT create_product_v3('Phone', 1050, $1, 10, 'automatic', 300, NULL, 'account', NULL, NULL)"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


async def test_postgres_knows_the_currencies_that_the_program_knows(db):
    codes = ["".join(letters) for letters in itertools.product(LETTERS, repeat=3)]
    rows = await db.fetch("SELECT c FROM unnest($1::text[]) AS c WHERE currency_known_v1(c)", codes)
    assert {row["c"] for row in rows} == set(EXPONENTS)


async def test_a_product_in_an_unknown_currency_is_not_stored(db):
    for code in ("QQQ", "XAU", "XXX"):
        with pytest.raises(asyncpg.CheckViolationError):
            await db.execute(CREATE.replace("$1", f"'{code}'"))
        product_id = await db.fetchval(CREATE, "JPY")
        with pytest.raises(asyncpg.CheckViolationError):
            await db.execute("UPDATE products SET currency = $1 WHERE product_id = $2", code, product_id)


async def test_products_whose_price_cannot_be_trusted_are_paused_by_the_upgrade(empty_url, valkey, redis):
    assert alembic(empty_url, "upgrade", "0015").returncode == 0
    connection = await asyncpg.connect(empty_url)
    try:
        made = {code: await connection.fetchval(CREATE, code) for code in ("QQQ", "XAU", *EXPONENTS)}
        done = alembic(empty_url, "upgrade", "head")
        assert done.returncode == 0, done.stderr
        rows = await connection.fetch("SELECT currency, price_minor, paused FROM products")
        assert {row["price_minor"] for row in rows} == {1050}
        paused = {row["currency"] for row in rows if row["paused"]}
        assert paused == {"QQQ", "XAU"} | {code for code, exponent in EXPONENTS.items() if exponent != 2}
        async with open_services(make_settings(empty_url, valkey.url), name="test") as services:
            change = services.administer.change
            with pytest.raises(InvalidInput, match="currency"):
                await change(made["QQQ"], ProductChange(fields={"paused": False}))
            renamed = await change(made["QQQ"], ProductChange(fields={"name": "Old phone"}))
            assert (renamed.name, str(renamed.price), renamed.paused) == ("Old phone", "10.50", True)
            resumed = await change(made["JPY"], ProductChange(fields={"paused": False}))
            assert (str(resumed.price), resumed.paused) == ("1050", False)
    finally:
        await connection.close()
