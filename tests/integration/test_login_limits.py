"""Wrong logins are stopped, and keep nobody else out: by the answers of the API, over several processes, with Redis and without."""

import asyncio
import random
import unicodedata
import uuid
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from flashsale.adapters import passwords
from flashsale.adapters.redis.connection import ScriptFailed
from flashsale.adapters.redis.logins import RedisLoginLimits
from flashsale.bootstrap.api import open_services
from flashsale.domain.users import Role
from flashsale.http.app import build_app
from flashsale.http.streams.hub import LiveHub
from flashsale.local.valkey_server import LocalValkey
from flashsale.settings.edge import LoginSettings
from flashsale.settings.groups import RedisSettings
from flashsale.usecases import accounts
from flashsale.usecases.login_limits import LocalLoginLimits, Source, backoff_s

PASSWORD = "correct horse"
LOGIN = "/api/auth/login"


@pytest.fixture
def quick(monkeypatch):
    """Compare passwords at once: what is tested is who may try, not argon2."""

    async def answer(process, question):
        password, hashed = question
        return f"$hashed${password}" if hashed is None else hashed == f"$hashed${password}"

    monkeypatch.setattr(passwords, "_answer", answer)


@asynccontextmanager
async def api(services):
    """Return a function that makes a client at an address."""
    app = build_app(services, LiveHub(services))
    clients = []

    def at(address):
        transport = httpx.ASGITransport(app, client=(address, 1))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://test"))
        return clients[-1]

    yield at
    for client in clients:
        await client.aclose()


async def register(services, role=Role.BUYER, password=PASSWORD):
    email = f"{uuid.uuid4().hex[:12]}@example.com"
    await services.accounts.register(name="Ada", email=email, password=password, role=role)
    return email


async def log_in(client, email, password=PASSWORD, **headers):
    return await client.post(LOGIN, json={"email": email, "password": password}, headers=headers)


def assert_told_to_wait(answer, least_s=1):
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "too_many_logins"
    assert int(answer.headers["retry-after"]) >= least_s


@pytest.mark.parametrize("redis_there", [True, False])
async def test_wrong_logins_are_stopped_and_the_owner_elsewhere_is_not(settings, quick, redis_there):
    """120 wrong logins at once and then the right one, as an attacker tries."""
    # Both longer than the test takes on the busiest machine: no wait ends, and Redis is never taken for away.
    settings = settings.model_copy(
        update={"logins": LoginSettings(first_wait_s=60), "redis": settings.redis.model_copy(update={"timeout_s": 60})}
    )
    if not redis_there:
        url = "redis://127.0.0.1:1/0"
        settings = settings.model_copy(
            update={"redis": settings.redis.model_copy(update={"url": type(settings.redis.url)(url)})}
        )
    async with open_services(settings) as services, api(services) as at:
        email = await register(services)
        wrong = await asyncio.gather(*(log_in(at("198.51.100.7"), email, f"wrong {n}") for n in range(120)))
        statuses = [answer.status_code for answer in wrong]
        assert statuses.count(401) == 5
        assert statuses.count(429) == 115
        right = await log_in(at("198.51.100.7"), email)
        assert_told_to_wait(right)
        assert (await log_in(at("203.0.113.9"), email)).status_code == 200
        # The address is known to the account by now, and the attack goes on.
        assert_told_to_wait(await log_in(at("198.51.100.7"), email, "wrong"))
        assert (await log_in(at("203.0.113.9"), email)).status_code == 200


async def test_the_wait_doubles_up_to_its_longest_and_counts_over_all_processes(settings, quick):
    settings = settings.model_copy(update={"logins": LoginSettings(first_wait_s=0.05, longest_wait_s=0.4)})
    async with (
        open_services(settings) as one,
        open_services(settings) as other,
        api(one) as first,
        api(other) as second,
    ):
        email = await register(one)
        waits = []
        for number in range(9):
            client = (first if number % 2 else second)("198.51.100.7")
            while (answer := await log_in(client, email, "wrong")).status_code == 429:
                await asyncio.sleep(0.01)
            assert answer.status_code == 401
            waits.append(
                await _limits(one)._servers.connection.call(lambda _: [("HGET", _pair(email, "198.51.100.7"), "next")])
            )
        assert [backoff_s(settings.logins, tries) for tries in range(1, 10)] == [0, 0, 0, 0, 0.05, 0.1, 0.2, 0.4, 0.4]
        assert len({str(wait) for wait in waits[4:]}) == 5


def _limits(services) -> Any:
    return services.accounts._limits


def _passwords(services) -> Any:
    return services.accounts._passwords


def _pair(email, address):
    source = Source.of(email, address)
    return f"flashsale:{{logins}}:pair:{source.account}:{source.origin}"


async def test_an_account_under_attack_from_everywhere_delays_strangers_and_locks_nobody_out(settings, quick):
    settings = settings.model_copy(update={"logins": LoginSettings(stranger_wait_s=0.3)})
    async with open_services(settings) as services, api(services) as at:
        email = await register(services)
        assert (await log_in(at("203.0.113.1"), email)).status_code == 200
        for number in range(20):
            assert (await log_in(at(f"198.51.100.{number}"), email, "wrong")).status_code == 401
        # The address that logged in before has a lane, whatever others do.
        assert (await log_in(at("203.0.113.1"), email)).status_code == 200
        # The owner at a new address waits once, for that address, however many others try meanwhile.
        assert_told_to_wait(await log_in(at("203.0.113.2"), email))
        for number in range(100, 120):
            assert_told_to_wait(await log_in(at(f"198.51.100.{number}"), email, "wrong"))
        await asyncio.sleep(0.3)
        assert (await log_in(at("203.0.113.2"), email)).status_code == 200


async def test_one_address_that_tries_many_accounts_is_stopped_and_its_known_accounts_are_not(settings, quick):
    settings = settings.model_copy(update={"logins": LoginSettings(origin_failures=10)})
    async with open_services(settings) as services, api(services) as at:
        office, elsewhere = at("198.51.100.7"), at("203.0.113.9")
        known, new = await register(services), await register(services)
        administrator = await register(services, Role.ADMIN)
        assert (await log_in(office, known)).status_code == 200
        tried = [await log_in(office, f"{number}@example.com", "wrong") for number in range(20)]
        assert [answer.status_code for answer in tried] == [401] * 10 + [429] * 10
        assert_told_to_wait(await log_in(office, new))
        assert (await log_in(office, known)).status_code == 200
        assert (await log_in(elsewhere, new)).status_code == 200
        # An administrator gets in with the right password; a wrong one is answered like anybody's.
        services.accounts._administrators_read_s = float("-inf")
        assert_told_to_wait(await log_in(office, administrator, "wrong"), 2)
        assert (await log_in(office, administrator)).status_code == 200


async def test_honest_logins_of_many_buyers_behind_one_address_are_not_counted(settings, quick):
    async with open_services(settings) as services, api(services) as at:
        emails = [await register(services) for _ in range(200)]
        answers = []
        # As many at once as the queue of hashes takes.
        for some in range(0, 200, 50):
            answers += await asyncio.gather(*(log_in(at("198.51.100.7"), email) for email in emails[some : some + 50]))
        assert [answer.status_code for answer in answers] == [200] * 200


async def test_a_token_of_the_account_is_a_lane_and_one_of_another_is_none(settings, quick):
    async with open_services(settings) as services, api(services) as at:
        email, attacker = await register(services), await register(services)
        nat = at("198.51.100.7")
        token = (await log_in(nat, email)).json()["token"]
        theirs = (await log_in(nat, attacker)).json()["token"]
        for _ in range(10):
            await log_in(nat, email, "wrong", Authorization=f"Bearer {theirs}")
        # An attacker behind the same address made the address wait; the device that was logged in does not.
        assert_told_to_wait(await log_in(nat, email))
        assert_told_to_wait(await log_in(nat, email, Authorization=f"Bearer {theirs}"))
        assert (await log_in(nat, email, Authorization=f"Bearer {token}")).status_code == 200


@pytest.mark.parametrize("lanes", [True, False])
async def test_a_flood_of_logins_does_not_keep_the_administrator_out(settings, monkeypatch, lanes):
    """200 logins at once, from as many addresses, all the time; the control has one lane for all.

    The process that serves the flood also makes it, so no limit of time ends what is only slow: a full lane refuses.
    """
    patient = {
        "auth": settings.auth.model_copy(update={"hash_wait_s": 60}),
        "postgres": settings.postgres.model_copy(update={"acquire_timeout_s": 60}),
        "redis": settings.redis.model_copy(update={"timeout_s": 60}),
    }
    settings = settings.model_copy(update=patient)
    if not lanes:
        monkeypatch.setattr(
            accounts, "Lane", type("One", (), dict.fromkeys(("KNOWN", "ADMINISTRATOR", "OTHERS"), accounts.Lane.OTHERS))
        )
    async with open_services(settings) as services, api(services) as at:
        email = await register(services, Role.ADMIN)
        stopped = False

        async def flood(number):
            client, statuses = at(f"198.51.{number // 250}.{number % 250}"), []
            while not stopped:
                statuses.append((await log_in(client, f"{uuid.uuid4().hex}@example.com", "wrong")).status_code)
            return statuses

        flooding = [asyncio.create_task(flood(number)) for number in range(200)]
        while len(_passwords(services)._waiting[accounts.Lane.OTHERS]) < settings.auth.hash_queue_max:
            await asyncio.sleep(0.01)
        if lanes:
            answers = [await log_in(at("203.0.113.9"), email) for _ in range(3)]
        else:
            answers = await asyncio.gather(*(log_in(at("203.0.113.9"), email) for _ in range(10)))
        stopped = True
        seen = {status for statuses in await asyncio.gather(*flooding) for status in statuses}
    assert seen <= {401, 503, 429}
    if lanes:
        assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    else:
        kept_out = [answer for answer in answers if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE]
        assert kept_out
        assert kept_out[0].headers["retry-after"]


async def test_a_hash_is_waited_for_only_so_long(settings, monkeypatch):
    hanging = asyncio.Event()

    async def answer(process, question):
        await hanging.wait()
        return False

    monkeypatch.setattr(passwords, "_answer", answer)
    auth = settings.auth.model_copy(update={"hash_wait_s": 0.2})
    async with open_services(settings.model_copy(update={"auth": auth})) as services, api(services) as at:
        first = asyncio.create_task(log_in(at("198.51.100.1"), "a@example.com"))
        while _passwords(services)._free:
            await asyncio.sleep(0)
        answer_ = await log_in(at("198.51.100.2"), "b@example.com")
        assert answer_.status_code == 503
        assert answer_.headers["retry-after"]
        hanging.set()
        assert (await first).status_code == 401
        assert _passwords(services)._free == 1
        assert (await log_in(at("198.51.100.2"), "b@example.com")).status_code == 401


@pytest.mark.parametrize("form", ["NFC", "NFD"])
async def test_forms_of_one_password_log_in(services, quick, form):
    typed = "schönes Passwörtchen"
    email = await register(services, password=unicodedata.normalize(form, typed))
    for other in ("NFC", "NFD", "NFKC", "NFKD"):
        await services.accounts.log_in(email=email, password=unicodedata.normalize(other, typed), address="a")


async def test_a_hash_of_before_passwords_were_normalised_still_logs_in(services, db, quick):
    typed = unicodedata.normalize("NFD", "schönes Passwörtchen")
    email = await register(services)
    old = await services.accounts._passwords.hash(typed)
    await db.execute("UPDATE users SET password_hash = $2 WHERE email = $1", email, old)
    await services.accounts.log_in(email=email, password=typed, address="a")


def test_the_address_is_what_trusted_proxies_say_and_nobody_else():
    from flashsale.http.addresses import Addresses
    from flashsale.http.messages import Request

    def of(peer, *forwarded, trusted=("10.0.0.0/8", "fd00::/8", "192.0.2.1")):
        headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
        request = Request(method="GET", path="/", query=b"", headers=headers)
        request.peer = peer
        return Addresses(trusted).of(request)

    assert of("203.0.113.9", "198.51.100.7") == "203.0.113.9", "from anybody it is not believed"
    assert of("10.1.2.3", "198.51.100.7", trusted=()) == "10.1.2.3", "nor by default"
    assert of("10.1.2.3", "198.51.100.7") == "198.51.100.7"
    assert of("10.1.2.3", "1.1.1.1, 198.51.100.7") == "198.51.100.7", "a client's own part is not believed"
    assert of("10.1.2.3", "1.1.1.1", "198.51.100.7, 10.9.9.9") == "198.51.100.7", "two proxies, two fields"
    assert of("192.0.2.1", "198.51.100.7, nonsense") == "192.0.2.1"
    assert of("10.1.2.3") == "10.1.2.3"
    assert of("10.1.2.3", "10.5.5.5") == "10.5.5.5"
    assert of("::ffff:10.1.2.3", "::ffff:198.51.100.7") == "198.51.100.7"
    assert of("fd00::1", "2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert of("2001:db8:1:2:9::1") == "2001:db8:1:2::/64"
    assert of("") == ""


@pytest.mark.parametrize("seed", range(5))
async def test_one_process_counts_as_redis_does(settings, redis, seed):
    """The same random tries to both: the same answers. Waits are longer than the test, so that none is over."""
    chosen = random.Random(seed)
    rules = LoginSettings(free_tries=3, first_wait_s=600, account_failures=4, stranger_wait_s=500, origin_failures=6)
    over_all, local = RedisLoginLimits(settings.redis, rules), LocalLoginLimits(rules)
    permits = []
    try:
        for _ in range(300):
            source = Source.of(chosen.choice("abcd"), chosen.choice("wxyz"))
            what = chosen.choice(
                ["begin", "begin", "failed", "failed", "undone", "passed" if chosen.random() < 0.3 else "begin"]
            )
            flag = chosen.random() < 0.3
            answers = []
            for limits in (over_all, local):
                if what == "begin":
                    permit = await limits.begin(source, exempt=flag)
                    # A count's window runs in both, with some milliseconds between.
                    answers.append((round(permit.wait_s, -1), permit.known, round(permit.refused_s, -1)))
                elif what == "failed":
                    await limits.failed(source, counted=flag)
                else:
                    await getattr(limits, what)(source)
            assert answers[:1] == answers[1:]
            permits += answers[:1]
        assert len({wait_s for wait_s, _, _ in permits}) > 2, "some were let in, some had to wait for different reasons"
        assert all([await redis.pttl(key) > 0 for key in await redis.keys("flashsale:{logins}:*")])
    finally:
        await over_all.close()


async def test_what_is_remembered_is_bounded(settings, redis):
    rules = LoginSettings(known_max=10)
    over_all, local = RedisLoginLimits(settings.redis, rules), LocalLoginLimits(rules, most=20)
    for number in range(50):
        for limits in (over_all, local):
            await limits.begin(Source.of(str(number), str(number)), exempt=False)
            await limits.failed(Source.of(str(number), str(number)), counted=True)
            await limits.passed(Source.of(f"k{number}", str(number)))
    await over_all.close()
    assert await redis.zcard("flashsale:{logins}:known") == 10
    assert len(local._pairs.entries) == len(local._accounts.entries) == len(local._origins.entries) == 20
    assert len(local._known.entries) == 10


async def test_foreign_values_in_redis_let_the_right_password_in(settings, redis, quick):
    async with open_services(settings) as services, api(services) as at:
        email = await register(services)
        await log_in(at("198.51.100.7"), email, "wrong")
        keys = await redis.keys("flashsale:{logins}:*")
        assert len(keys) == 3
        for foreign in ("set", "text"):
            for key in [*keys, "flashsale:{logins}:known"]:
                await redis.delete(key)
                await (redis.sadd(key, "x") if foreign == "set" else redis.set(key, "x"))
            assert (await log_in(at("198.51.100.7"), email)).status_code == 200


async def test_an_outage_of_redis_does_not_give_the_free_tries_again(settings, tmp_path):
    """Each kind of count is used up before the outage, and is still used up in it."""
    rules = LoginSettings(free_tries=3, first_wait_s=600, account_failures=4, stranger_wait_s=500, origin_failures=6)
    server = LocalValkey(tmp_path)
    await server.start()
    limits = RedisLoginLimits(RedisSettings(url=SecretStr(server.url), timeout_s=10), rules)
    tried, known, undone = Source.of("tried", "here"), Source.of("known", "here"), Source.of("undone", "here")
    try:
        for _ in range(3):
            assert (await limits.begin(tried, exempt=False)).wait_s == 0
        await limits.begin(known, exempt=False)
        await limits.passed(known)
        for number in range(6):
            await limits.failed(Source.of("attacked", f"from {number}"), counted=True)
            await limits.failed(Source.of(f"attacked {number}", "attacker"), counted=True)
        for _ in range(3):
            await limits.begin(undone, exempt=False)
            await limits.undone(undone)
    finally:
        await server.stop()
    asked = (tried, Source.of("attacked", "new"), Source.of("new", "attacker"), known, undone)
    permits = [await limits.begin(source, exempt=False) for source in asked]
    await limits.close()
    assert [round(permit.wait_s, -1) for permit in permits] == [600, 500, 900, 0, 0]
    assert [permit.known for permit in permits] == [False, False, False, True, False]


class FailingServers:
    """As when the script fails on what is in its keys."""

    async def send(self, asks):
        return [ScriptFailed("user_script:1: a foreign value")] * len(asks)


async def test_a_script_that_fails_leaves_the_limits_of_the_process(settings):
    limits: Any = RedisLoginLimits(settings.redis, LoginSettings(free_tries=1))
    source = Source("account", "192.0.2.1")
    limits._servers = FailingServers()
    assert (await limits.begin(source, exempt=False)).wait_s == 0
    await limits.failed(source, counted=True)
    assert (await limits.begin(source, exempt=False)).wait_s > 0
    await limits.undone(source)
    await limits.passed(source)
