"""The gate's servers as shops have them: with rights, TLS, a socket file, Sentinels, a cluster. Real servers each."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from flashsale.adapters.redis import inspection
from flashsale.adapters.redis.addresses import Host, read_address
from flashsale.adapters.redis.cluster import slot_of
from flashsale.adapters.redis.connection import SCRIPTS, GateAway, GateRefuses
from flashsale.adapters.redis.gate import RedisGate
from flashsale.adapters.redis.inspection import inspect_redis
from flashsale.adapters.redis.sentinels import Sentinels
from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.commands import open_audit
from flashsale.domain.checkups import RedisFacts, Unreached
from flashsale.domain.errors import SoldOut
from flashsale.domain.gate import Admission
from flashsale.domain.products import PaymentMode
from flashsale.settings.groups import GateSettings, PaymentSettings, RedisSettings
from flashsale.usecases.login_limits import Source
from tests.conftest import add_buyers, add_product, assert_invariants, make_settings, sweep
from tests.support import gate_servers as forms
from tests.support.accepting import new_id
from tests.support.gates import ask
from tests.support.orders import due

NO_SERVER = "127.0.0.1:1"
SILENCE = "silence"


@asynccontextmanager
async def serving(postgres_url, redis_url):
    settings = make_settings(postgres_url, redis_url, redis={"url": redis_url, "reconnect_s": 0.05, "timeout_s": 1.0})
    async with open_services(settings, name="forms") as services:
        yield services
        await assert_invariants(services.database)


async def loaded(services, *products):
    """Wait until the gate is loaded with the products."""
    async with asyncio.timeout(60):
        while await services.gate.unloaded([await services.catalog.get(one.product_id) for one in products]):
            for one in products:
                services.load_gate.soon(one.product_id)
            await asyncio.sleep(0.02)


async def sell(services, *products, units=3):
    """Sell the units of products to more buyers than units; every buyer gets a true answer."""
    users = await add_buyers(services, units + 2)
    asked = [services.buy(ask(product, user)) for product in products for user in users]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    accepted = [answer for answer in answers if not isinstance(answer, BaseException)]
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(accepted) == units * len(products), refused
    assert {type(one) for one in refused} == {SoldOut}
    return accepted


@pytest.mark.parametrize(
    "form", [forms.with_rights, forms.over_tls, forms.on_a_socket_file], ids=lambda one: one.__name__
)
async def test_a_sale_over_a_server_in_each_form_uses_every_script_and_the_audit_holds(
    form, tmp_path, postgres_url, db
):
    with capture_logs() as lines:
        async with form(tmp_path) as url, serving(postgres_url, url) as services:
            product = await add_product(services, allotment=3, payment_mode=PaymentMode.BY_BUYER, limit_per_buyer=2)
            await loaded(services, product)
            accepted = await sell(services, product)
            assert services.gate.answers[Admission.BYPASS] == 0
            # An order that nobody pays returns its unit, and the gate counts it again.
            await services.order_rows.process([one.order_id for one in accepted], payment_due_s=30)
            await due(db, [accepted[0].order_id])
            await sweep(services)
            await services.orders._return_units()
            assert (await services.gate.state(product.product_id, product.epoch)).stock == 1
            limits, source = services.accounts._limits, Source("account", "192.0.2.1")
            await limits.begin(source, exempt=False)
            for done in (limits.failed(source, counted=True), limits.undone(source), limits.passed(source)):
                await done
            assert limits._servers.connection._run_id, "the limits of logins are on the same server"
            assert [type(facts) for facts in (await inspect_redis(services.settings.redis)).values()] == [RedisFacts]
            settings = services.settings.model_copy(update={"payments": PaymentSettings()})
            async with open_audit(settings) as audit:
                found = await audit(history=None, overdue_s=3600, stuck_s=3600)
            assert not [one for one in found if one.violations]
    assert not [line for line in lines if line["event"] in {"gate.refused", "gate.away"}]


def test_the_documented_rights_are_the_commands_that_are_sent_and_no_others():
    rules = forms.documented_rights("## Rights")
    given = {rule[1:] for rule in rules if rule.startswith("+")}
    in_scripts = {
        name.lower()
        for path in SCRIPTS.glob("*.lua")
        for name in re.findall(r"redis\.call\('([A-Z]+)'", path.read_text())
    }
    assert given == in_scripts | {"info", "select", "client|setinfo", "script|load", "evalsha", "mget", "cluster|slots"}
    assert [rule for rule in rules if rule[0] in "~&" or "@" in rule] == ["~flashsale:*", "-@all"]


WRONG = {
    "another authority": lambda folder: forms.tls_parameters(folder, ca="other"),
    "no certificate of the client": lambda folder: forms.tls_parameters(folder, client=None),
    "a public authority": lambda _: "",
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_tls_that_one_side_does_not_take_is_one_line_and_a_bypass(wrong, tmp_path, redis_server_port):
    async with forms.in_front(forms.authority(tmp_path), redis_server_port) as port:
        settings = RedisSettings(
            url=f"rediss://127.0.0.1:{port}/0{WRONG[wrong](tmp_path)}", timeout_s=10, reconnect_s=0.001
        )
        gate = RedisGate(settings, GateSettings())
        with capture_logs() as lines:
            for _ in range(3):
                assert not await gate.load(1, epoch=1, stock=1)
                await asyncio.sleep(0.002)
        await gate.close()
    (line,) = lines
    assert line["event"] == "gate.refused"
    assert "certificate" in line["problem"].lower()


@pytest.fixture
def redis_server_port(valkey):
    return int(valkey.url.rpartition(":")[2].partition("/")[0])


# --- Sentinels ------------------------------------------------------------------------------------------------------


async def naming(*answers, live=None):
    """Make stand-ins of Sentinels, which answer one after the other: None knows no such primary.

    `live`: their answers from now on, which the caller may change.
    """
    answered = [asyncio.Event() for _ in answers]

    def serve(place, answer):
        async def one(reader, writer):
            nonlocal answer
            while await reader.read(1000):
                if place:
                    await answered[place - 1].wait()
                answer = answer if live is None else live[place]
                if answer is None:
                    writer.write(b"*-1\r\n")
                elif answer != SILENCE:
                    host, _, port = answer.partition(":")
                    writer.write(f"*2\r\n${len(host)}\r\n{host}\r\n${len(port)}\r\n{port}\r\n".encode())
                answered[place].set()
            writer.close()

        return one

    return [await asyncio.start_server(serve(*one), "127.0.0.1", 0) for one in enumerate(answers)]


VOTES: dict[str, tuple[list[str | None], Any]] = {
    "all name it": (["a:1", "a:1", "a:1"], Host("a", 1)),
    "one on the side of the old primary": (["old:1", "new:1", "new:1"], Host("new", 1)),
    "one is down": ([SILENCE, "new:1", "new:1"], Host("new", 1)),
    "one knows it": ([SILENCE, SILENCE, "a:1"], Host("a", 1)),
    "one knows it and one has never heard of it": ([None, None, "a:1"], Host("a", 1)),
    "one is no Sentinel": (["old:none", "new:1", "new:1"], Host("new", 1)),
    "only one is a Sentinel": (["old:none", ":", "a:1"], Host("a", 1)),
    "none knows it": ([None, None, None], GateRefuses),
    "none answers": ([SILENCE, SILENCE, SILENCE], GateAway),
}


@pytest.mark.parametrize("vote", VOTES)
async def test_the_primary_is_the_one_that_most_sentinels_name(vote):
    answers, expected = VOTES[vote]
    listeners = await naming(*answers)
    hosts = ",".join(f"127.0.0.1:{one.sockets[0].getsockname()[1]}" for one in listeners)
    sentinels = Sentinels(read_address(f"redis+sentinel://{hosts}/shop"), timeout_s=1.0)
    if isinstance(expected, Host):
        assert await sentinels.primary() == expected
    else:
        with pytest.raises(expected):
            await sentinels.primary()
    for one in listeners:
        one.close()


async def test_a_sale_over_a_primary_that_a_sentinel_names(tmp_path, postgres_url):
    primary = forms.Server(tmp_path)
    sentinel = forms.sentinel(tmp_path, primary)
    async with forms.running(primary, sentinel):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port},{NO_SERVER}/shop/0"
        async with serving(postgres_url, url) as services:
            product = await add_product(services, allotment=3)
            await loaded(services, product)
            await sell(services, product)
            assert services.gate.answers[Admission.BYPASS] == 0


async def test_an_old_primary_that_still_answers_is_left_and_the_gate_is_loaded_on_the_new_one(tmp_path, postgres_url):
    """As on the side of a split network that lost: nobody tells the old primary, and it never closes a connection."""
    old, new = forms.Server(tmp_path), forms.Server(tmp_path)
    answers = [f"127.0.0.1:{old.port}"] * 3
    async with forms.running(old, new):
        listeners = await naming(*answers, live=answers)
        hosts = ",".join(f"127.0.0.1:{one.sockets[0].getsockname()[1]}" for one in listeners)
        async with serving(postgres_url, f"redis+sentinel://{hosts}/shop") as services:
            product = await add_product(services, allotment=6)
            await loaded(services, product)
            await sell_some(services, product, 2)
            answers[1:] = [f"127.0.0.1:{new.port}"] * 2

            async def left():
                await services.gate.unloaded([product])
                return services.gate._servers.connection._connection.port == new.port

            await forms.until(left, 5)
            await loaded(services, product)
            assert (await services.gate.state(product.product_id, (await services.catalog.get(1)).epoch)).loaded
            assert await old.ask("PING"), "it still answers"
        for one in listeners:
            one.close()


async def sell_some(services, product, count):
    users = await add_buyers(services, count)
    await asyncio.gather(*(services.buy(ask(product, user)) for user in users))


# --- cluster --------------------------------------------------------------------------------------------------------


async def test_a_sale_over_a_cluster_whose_slot_moves_and_whose_node_dies(tmp_path, postgres_url):
    async with forms.cluster(tmp_path) as nodes, serving(postgres_url, nodes.url) as services:
        products = [await add_product(services, allotment=6) for _ in range(5)]
        homes = {one.product_id: nodes.of_slot(slot_of(str(one.product_id))) for one in products}
        assert len(set(homes.values())) == 3, "products on every node"
        await loaded(services, *products)
        await asyncio.gather(*(sell_some(services, product, 2) for product in products))
        assert services.gate.answers[Admission.BYPASS] == 0
        first, source = products[0], homes[products[0].product_id]
        target = next(one for one in nodes.primaries if one is not source)
        await asyncio.gather(nodes.move(slot_of(str(first.product_id)), source, target), sell_some(services, first, 2))
        await loaded(services, first)
        assert await target.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(str(first.product_id))) > 0
        homes[first.product_id] = target
        await sell(services, first, units=2)
        lost = homes[products[1].product_id]
        await lost.kill()
        away = {one.product_id for one in products if homes[one.product_id] is lost}
        known = [await services.catalog.get(one.product_id) for one in products]
        assert {*await services.gate.unloaded(known)} == away
        await sell(services, *products[1:], units=4)


async def test_a_node_named_as_the_only_server_is_one_line_that_says_what_to_write(tmp_path, monkeypatch):
    async with forms.cluster(tmp_path, primaries=1) as nodes:
        (one,) = nodes.primaries
        gate = RedisGate(
            RedisSettings(url=f"redis://127.0.0.1:{one.port}/0", timeout_s=10, reconnect_s=0.001), GateSettings()
        )
        with capture_logs() as lines:
            for _ in range(3):
                assert (await gate.state(1, 1)).loaded is False
                await asyncio.sleep(0.002)
        assert ["redis+cluster://" in line["problem"] for line in lines] == [True]
        await gate.close()
        (facts,) = (await inspect_redis(RedisSettings(url=nodes.url))).values()
        assert isinstance(facts, RedisFacts)
        assert not facts.is_foreign_node
        # A node that says nothing leaves the inspection time for the next.
        monkeypatch.setattr(inspection, "TIMEOUT_S", 2.0)
        (silent,) = await naming(SILENCE)
        hosts = f"127.0.0.1:{silent.sockets[0].getsockname()[1]},127.0.0.1:{one.port}"
        (facts,) = (await inspect_redis(RedisSettings(url=f"redis+cluster://{hosts}"))).values()
        assert isinstance(facts, RedisFacts)
        silent.close()


async def test_a_slot_that_the_map_does_not_name_is_bypassed_and_a_gate_with_decisions_for_it_closes(tmp_path):
    async with forms.cluster(tmp_path, primaries=1) as nodes:
        await nodes.primaries[0].ask("CLUSTER", "DELSLOTS", slot_of("1"))
        gate = RedisGate(RedisSettings(url=nodes.url, reconnect_s=30, timeout_s=1.0), GateSettings())
        assert (await gate.state(1, 1)).loaded is False
        assert gate.away(1), "else each reconciliation begins a new epoch"
        gate.settle(1, new_id())
        await asyncio.wait_for(gate.close(), 60)
        never = RedisGate(RedisSettings(url=nodes.url, reconnect_s=0.001, timeout_s=1.0), GateSettings())
        never.settle(1, new_id())
        await asyncio.wait_for(never.close(), 60)


@pytest.mark.parametrize(
    "url", [f"redis+cluster://{NO_SERVER}", f"redis+sentinel://{NO_SERVER}/shop", f"redis://{NO_SERVER}"]
)
async def test_without_any_server_the_sale_is_decided_by_postgres_and_one_line_says_so(url, postgres_url):
    with capture_logs() as lines:
        async with serving(postgres_url, url) as services:
            product = await add_product(services, allotment=3)
            await sell(services, product)
            admitted = await services.gate.admit(product, new_id(), ask(product, (await add_buyers(services, 1))[0]))
            assert admitted.admission is Admission.BYPASS
            (facts,) = (await inspect_redis(services.settings.redis)).values()
            assert isinstance(facts, Unreached)
    said = [line for line in lines if line["event"] in {"gate.away", "gate.refused"}]
    # One of the gate, and one of the limits of logins once somebody logs in.
    assert len(said) == 1, said
