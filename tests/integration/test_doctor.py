"""The doctor against real servers: one real fault per check, and nothing wrong without a fault."""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import flashsale
from flashsale.bootstrap.doctor import examine
from tests.conftest import execute, of_this_checkout, synced
from tests.support import gateway
from tests.support.receiver import receiving

CLOSED = "127.0.0.1:9"


@pytest.fixture(autouse=True)
async def durable(postgres, postgres_url):
    """The server syncs during the test, as the doctor demands; a database is made and dropped without."""
    await synced(postgres.url, on=True)
    yield
    await synced(postgres.url, on=False)


@pytest.fixture
async def healthy(postgres_url, valkey, redis, monkeypatch):
    """An environment with which all is well: an API, a provider and an endpoint that answer."""
    async with AsyncExitStack() as opened:
        service = await opened.enter_async_context(gateway.running())
        receiver = await opened.enter_async_context(receiving())
        await execute(postgres_url, add_endpoint("wh_1", receiver.url))
        values = {
            "FLASHSALE_POSTGRES__URL": postgres_url,
            "FLASHSALE_REDIS__URL": valkey.url,
            "FLASHSALE_PAYMENTS__GATEWAY_URL": service.url,
            "FLASHSALE_PAYMENTS__GATEWAY_SECRET": gateway.SECRET,
            "FLASHSALE_HTTP__CONNECTIONS_MAX": "100",
            "FLASHSALE_OUTBOX__LOOPBACK_ALLOWED": "true",
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        yield values


def add_endpoint(target_id, url):
    return f"INSERT INTO outbox_targets (target_id, url, secret, events) VALUES ('{target_id}', '{url}', 'whsec_AAAA', '{{order.confirmed}}')"


async def not_ok():
    return {(one.check, str(one.verdict), one.what) for one in [one async for one in examine()] if one.verdict != "OK"}


async def test_nothing_is_wrong_where_nothing_is(healthy):
    assert await not_ok() == set()


async def test_a_server_that_does_not_sync_is_found(healthy, postgres):
    await synced(postgres.url, on=False)
    assert await not_ok() == {("durability", "WRONG", "fsync is off")}


VARIABLES = [
    ({"FLASHSALE_GATE__BATCH_MAX": "0"}, "settings", "WRONG", "FLASHSALE_GATE__BATCH_MAX"),
    ({"FLASHSALE_POSTGRES__URL": "mysql://a"}, "settings", "WRONG", "FLASHSALE_POSTGRES__URL"),
    ({"FLASHSALE_AUTH__JWT_SECRET": "short"}, "settings", "WRONG", "FLASHSALE_AUTH__JWT_SECRET"),
    ({"FLASHSALE_GAET__RATE_LIMIT": "3"}, "settings", "WARN", "FLASHSALE_GAET__RATE_LIMIT is no setting"),
    ({"FLASHSALE_POSTGRES__URL": f"postgresql://a:b@{CLOSED}/c"}, "postgres", "WRONG", "Connect call failed"),
    ({"FLASHSALE_POSTGRES__POOL_MAX": "200"}, "connections", "WARN", "opens up to"),
    ({"FLASHSALE_HTTP__CONNECTIONS_MAX": "100000000"}, "open files", "WARN", "100,000,206"),
    ({"FLASHSALE_REDIS__URL": f"redis://{CLOSED}/0"}, "redis", "WRONG", "Connect call failed"),
    ({"FLASHSALE_PAYMENTS__GATEWAY_SECRET": "other"}, "payment provider", "WRONG", "simulator"),
    ({"FLASHSALE_PAYMENTS__GATEWAY_URL": f"http://{CLOSED}"}, "payment provider", "WRONG", "simulator"),
    ({"FLASHSALE_MAIL__URL": f"smtp://{CLOSED}"}, "mail", "WRONG", "cannot be reached"),
    ({"FLASHSALE_OUTBOX__LOOPBACK_ALLOWED": "false"}, "outbox", "WRONG", "not public"),
]


async def test_each_wrong_variable_is_found_by_its_check(healthy, monkeypatch):
    for changed, check, verdict, told in VARIABLES:
        with monkeypatch.context() as patch:
            for name, value in changed.items():
                patch.setenv(name, value)
            found = await not_ok()
        assert {(one[0], one[1]) for one in found} == {(check, verdict)}, changed
        assert all(told in what for _, _, what in found), found


async def test_modules_that_nobody_keeps_compiled_are_found(healthy, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    ((check, verdict, what),) = await not_ok()
    assert (check, verdict) == ("compiled modules", "WARN")
    folder = Path(flashsale.__file__).parent
    assert what.startswith(f"{len(list(folder.rglob('*.py')))} of ")
    assert compileall.compile_dir(folder, quiet=2)
    assert await not_ok() == set()
    cached = Path(cache_from_source(flashsale.__file__))
    os.utime(cached, (0, 0))
    ((check, verdict, what),) = await not_ok()
    assert what.startswith("1 of ")


STATEMENTS = [
    ("DROP INDEX users_email_key", "schema", "WRONG", "users_email_key"),
    ("DROP TABLE alembic_version, orders CASCADE", "schema", "WRONG", "not migrated"),
    ("REVOKE SELECT ON orders FROM flashsale_api", "grants", "WRONG", "flashsale_api may not SELECT orders"),
    ("GRANT DELETE ON orders TO PUBLIC", "grants", "WARN", "flashsale_api may DELETE orders"),
    ("ALTER TABLE orders OWNER TO flashsale_worker", "roles", "WRONG", "flashsale_worker"),
    ("ALTER DATABASE {name} SET synchronous_commit = off", "durability", "WRONG", "synchronous_commit"),
    ("ALTER DATABASE {name} SET default_transaction_read_only = on", "writes", "WRONG", "read-only"),
    (add_endpoint("wh_2", f"http://{CLOSED}/"), "outbox", "WRONG", "wh_2"),
]


@pytest.mark.parametrize(("statement", "check", "verdict", "told"), STATEMENTS)
async def test_each_fault_in_the_database_is_found_by_its_check(healthy, postgres_url, statement, check, verdict, told):
    await execute(postgres_url, statement.replace("{name}", postgres_url.rpartition("/")[2]))
    found = [one for one in await not_ok() if one[0] == check]
    assert [one[1] for one in found] == [verdict]
    assert told in found[0][2]


PRODUCT = "SELECT create_product_v6('Phone', 1, 'USD', 1, '{mode}', 300, NULL, 'account', 0, false, NULL, NULL)"
SOLD = {
    "name = 'Phone'": {"WRONG"},
    "starts_at = now() + interval '1 hour'": {"WRONG"},
    "ends_at = now() - interval '1 hour'": set(),
    "paused = true": set(),
}
"""States of an automatic product, and the verdict on the provider `manual`."""


async def test_an_automatic_product_is_wrong_under_manual_unless_its_orders_are_refused(
    healthy, postgres_url, monkeypatch
):
    await execute(postgres_url, PRODUCT.format(mode="automatic"))
    assert await not_ok() == set(), "another provider can charge"
    monkeypatch.setenv("FLASHSALE_PAYMENTS__PROVIDER", "manual")
    await execute(postgres_url, PRODUCT.format(mode="by_buyer"))
    for state, verdicts in SOLD.items():
        reset = "UPDATE products SET paused = false, starts_at = NULL, ends_at = NULL"
        await execute(postgres_url, reset, f"UPDATE products SET {state} WHERE product_id = 1")
        found = await not_ok()
        assert {(one[0], one[1]) for one in found} == {("payment provider", verdict) for verdict in verdicts}, state
        assert all(what.endswith("not paused: 1") for _, _, what in found), found


async def test_each_fault_of_the_gates_server_is_found_by_its_check(healthy, redis):
    for name, value, check in (
        ("maxmemory-policy", "allkeys-lru", "eviction"),
        ("maxmemory", "1mb", "eviction"),
        ("save", "60 1", "persistence"),
        ("appendonly", "yes", "persistence"),
    ):
        was = (await redis.config_get(name))[name]
        await redis.config_set(name, value)
        try:
            found = await not_ok()
        finally:
            await redis.config_set(name, was)
        assert {one[0] for one in found} == {check}, name


def test_the_command_exits_by_the_verdict_and_prints_json(postgres_url, valkey):
    environment = {
        **of_this_checkout(),
        "FLASHSALE_POSTGRES__URL": postgres_url,
        "FLASHSALE_REDIS__URL": valkey.url,
        "FLASHSALE_PAYMENTS__PROVIDER": "manual",
        "FLASHSALE_HTTP__CONNECTIONS_MAX": "100",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    command = [sys.executable, "-m", "flashsale.cli", "doctor"]
    right = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=False)
    assert right.returncode == 0, right.stdout + right.stderr
    findings = [json.loads(line) for line in right.stdout.splitlines()]
    assert {one["verdict"] for one in findings} == {"OK"}
    environment["FLASHSALE_REDIS__URL"] = f"redis://:hunter2@{CLOSED}/0"
    wrong = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "WRONG" in wrong.stdout
    assert "hunter2" not in wrong.stdout + wrong.stderr
