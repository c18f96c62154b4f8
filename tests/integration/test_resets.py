"""A buyer who forgot the password gets a code by e-mail: it works once, for a while, and nobody learns who has an account."""

import asyncio
import hashlib
import re
import time
from contextlib import asynccontextmanager

import httpx
import pytest

from flashsale.adapters.postgres.resets import PostgresResets
from flashsale.domain.errors import BadCredentials, InvalidInput, TooManyLogins, Unauthenticated, Unavailable
from flashsale.domain.users import Role
from flashsale.http.routes.accounts import ANSWER_S
from flashsale.usecases import send_resets
from flashsale.usecases.send_resets import SendResets
from tests.api.test_documented_answers import serving
from tests.conftest import make_settings
from tests.integration.test_mails import mailbox, mails_in, smtp

OLD, NEW, NEWER = "unlikely 4711 horse", "unlikely 4712 horse", "unlikely 4713 horse"
ADDRESS = "ada@example.com"
CODE = re.compile(r"^([A-Za-z0-9_-]{43})\s*$", re.MULTILINE)


async def register(services, email=ADDRESS, role=Role.BUYER):
    return await services.accounts.register(name="Ada", email=email, password=OLD, role=role)


async def log_in(services, password, email=ADDRESS):
    return await services.accounts.log_in(email=email, password=password, address="192.0.2.1")


@asynccontextmanager
async def codes(services, folder, *, ttl_s=3600):
    """Send what is due to a real mail server; gives a function that returns each code that was sent."""
    async with mailbox(folder) as url:
        send = SendResets(PostgresResets(services.database), smtp(url), ttl_s=ttl_s)

        async def sent():
            await send()
            return [CODE.findall(mail.get_body(("plain",)).get_content())[0] for mail in mails_in(folder)]

        yield sent


async def ask(services, email=ADDRESS, address="192.0.2.1"):
    await services.sessions.request_reset(email=email, address=address)


async def test_a_code_sets_the_password_once_and_ends_every_token(services, db, tmp_path):
    user = await register(services)
    await ask(services, "ADA@Example.com")
    async with codes(services, tmp_path) as sent:
        [code] = await sent()
        assert await sent() == [code], "one request, one e-mail"
    [mail] = mails_in(tmp_path)
    assert (mail["To"], mail["Auto-Submitted"]) == (ADDRESS, "auto-generated")
    with pytest.raises(InvalidInput) as weak:
        await services.sessions.reset_by_code(code, password="password")
    assert weak.value.field == "password"
    await services.sessions.reset_by_code(code, password=NEW)
    assert (await log_in(services, NEW)).generation == user.generation + 1
    with pytest.raises(BadCredentials):
        await log_in(services, OLD)
    with pytest.raises(Unauthenticated):
        await services.sessions.reset_by_code(code, password=NEWER)


async def test_the_database_never_has_the_code(services, db, tmp_path):
    await register(services)
    await ask(services)
    async with codes(services, tmp_path) as sent:
        [code] = await sent()
    row = await db.fetchrow("SELECT * FROM password_resets")
    assert row["digest"] == hashlib.sha256(code.encode()).digest()
    assert code not in str(dict(row))
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0


async def test_of_uses_at_the_same_time_one_counts(services, tmp_path):
    await register(services)
    await ask(services)
    async with codes(services, tmp_path) as sent:
        [code] = await sent()
    results = await asyncio.gather(
        *(services.sessions.reset_by_code(code, password=f"unlikely {n} horses") for n in range(4)),
        return_exceptions=True,
    )
    assert results.count(None) == 1
    assert all(one is None or isinstance(one, Unauthenticated | Unavailable) for one in results), results


@pytest.mark.parametrize("ends", ["expired", "changed", "newer"])
async def test_a_code_ends(services, db, tmp_path, ends):
    user = await register(services)
    await ask(services)
    async with codes(services, tmp_path) as sent:
        [code] = await sent()
        if ends == "expired":
            await db.execute("UPDATE password_resets SET expires_at = clock_timestamp()")
        elif ends == "changed":
            await services.sessions.change_password(user.principal, old=OLD, new=NEW)
        else:
            await db.execute("UPDATE password_resets SET requested_at = requested_at - interval '61 s'")
            await ask(services)
            newest = next(one for one in await sent() if one != code)
            await services.sessions.reset_by_code(newest, password=NEW)
    with pytest.raises(Unauthenticated):
        await services.sessions.reset_by_code(code, password=NEWER)


async def test_only_a_buyer_who_has_not_just_asked_gets_an_e_mail(services, db, tmp_path):
    await register(services)
    await register(services, "grace@example.com", Role.ADMIN)
    async with codes(services, tmp_path) as sent:
        for email in (ADDRESS, ADDRESS, "grace@example.com", "nobody@example.com", "no address", "a\x00b@example.com"):
            await ask(services, email)
        assert len(await sent()) == 1
        await ask(services)
        assert len(await sent()) == 1, "within a minute there is no second e-mail"


async def test_a_mail_server_that_is_away_delays_the_code(services, db, tmp_path):
    await register(services)
    await ask(services)
    send = SendResets(PostgresResets(services.database), smtp("smtp://127.0.0.1:9"), ttl_s=3600)
    await send()
    lost = await db.fetchval("SELECT digest FROM password_resets")
    assert await db.fetchval("SELECT due_at > clock_timestamp() FROM password_resets")
    await db.execute("UPDATE password_resets SET due_at = clock_timestamp()")
    async with codes(services, tmp_path) as sent:
        [code] = await sent()
    assert hashlib.sha256(code.encode()).digest() != lost
    await services.sessions.reset_by_code(code, password=NEW)
    await db.execute("UPDATE password_resets SET requested_at = now() - interval '25 h'")
    await send()
    assert await db.fetchval("SELECT count(*) FROM password_resets") == 0


async def test_requests_are_limited_whether_or_not_there_is_an_account_and_keep_no_login_away(services):
    await register(services)
    told = {}
    for email in (ADDRESS, "nobody@example.com"):
        told[email] = []
        for _ in range(20):
            try:
                await ask(services, email)
            except TooManyLogins:
                told[email].append("wait")
            else:
                told[email].append("asked")
    assert told[ADDRESS] == told["nobody@example.com"]
    assert "wait" in told[ADDRESS]
    await log_in(services, OLD)


async def test_the_answer_and_its_duration_tell_nothing(postgres_url, valkey, redis, db):
    async with serving(make_settings(postgres_url, valkey.url)) as (client, services):
        await register(services)
        seen = set()
        for email in (ADDRESS, "nobody@example.com"):
            began_s = time.monotonic()
            answer = await client.post("/api/auth/forgot", json={"email": email})
            assert time.monotonic() - began_s >= ANSWER_S
            differs = {"date", "x-request-id"}
            seen.add(
                (answer.status_code, answer.content, *(one for one in answer.headers.items() if one[0] not in differs))
            )
        assert len(seen) == 1
        assert answer.status_code == httpx.codes.ACCEPTED
        assert await db.fetchval("SELECT count(*) FROM password_resets") == 1
        answer = await client.post("/api/auth/reset", json={"token": "x" * 43, "password": NEW})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


class Picky:
    """A mail server's client to which one address does something; the others get their e-mail."""

    def __init__(self, address, happens):
        self.address, self.happens, self.sent = address, happens, []

    async def send_code(self, address, code, *, ttl_s):
        if address == self.address:
            return await self.happens()
        self.sent.append(address)
        return None


async def breaks():
    raise AttributeError("no such header")


async def hangs():
    await asyncio.Event().wait()


@pytest.mark.parametrize("happens", [breaks, hangs])
async def test_one_e_mail_that_goes_wrong_delays_no_other(services, db, monkeypatch, happens):
    monkeypatch.setattr(send_resets, "RETRY_S", 0.5)
    addresses = [f"{name}@example.com" for name in ("ada", "grace", "edsger")]
    for number, address in enumerate(addresses):
        await services.users.create(name="A", email=address, password_hash="x", role=Role.BUYER)
        await ask(services, address, address=f"192.0.2.{number}")
    mails = Picky(addresses[0], happens)
    await SendResets(PostgresResets(services.database), mails, ttl_s=60)()
    assert sorted(mails.sent) == sorted(addresses[1:])
    due = "SELECT u.email FROM password_resets AS r INNER JOIN users AS u USING (user_id) WHERE r.due_at IS NOT NULL"
    assert [row["email"] for row in await db.fetch(due)] == addresses[:1], "it is sent again"
