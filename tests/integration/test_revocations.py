"""Power ends when it is taken: an administrator's at once, a buyer's within a bound, in every process."""

import asyncio
import re
import subprocess
import sys
import time
import uuid
from contextlib import asynccontextmanager
from functools import cache

import argon2
import httpx
import pytest

from flashsale.bootstrap.api import open_services
from flashsale.domain.errors import Unauthenticated
from flashsale.domain.users import Role
from flashsale.http.app import build_app
from flashsale.http.auth import Tokens
from flashsale.http.streams.hub import LiveHub
from tests.conftest import add_product, make_settings, of_this_checkout

OLD, NEW = "correct horse battery", "an entirely other horse"
NEXT_KEY = "the next key for tests: 0123456789 abcdefgh"
SECRET = "only-for-tests: 0123456789 abcdefgh"
"""That of `make_settings`."""
REFUSED = 'Bearer realm="flashsale", error="invalid_token"'


@asynccontextmanager
async def process(settings, *, listens=False):
    """Run an API process without a socket; returns its client, its services and its tokens."""
    async with open_services(settings, name="test") as services:
        hub = LiveHub(services)
        edge = build_app(services, hub)
        listening = asyncio.create_task(hub.run()) if listens else None
        transport = httpx.ASGITransport(edge)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            try:
                yield client, services
            finally:
                if listening is not None:
                    listening.cancel()
                    await asyncio.wait([listening])


@cache
def hashed_old():
    return argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(OLD)


async def account(services, role=Role.BUYER):
    email = f"{uuid.uuid4().hex}@example.com"
    user = await services.users.create(name="Ada", email=email, password_hash=hashed_old(), role=role)
    return user, {"Authorization": f"Bearer {Tokens(services.settings.auth).issue(user.principal)}"}


# How power is taken: by a use case, over HTTP, and by hand in the database.


async def deleted(user, headers, client, services, db):
    await db.execute("DELETE FROM users WHERE user_id = $1", user.user_id)


async def demoted(user, headers, client, services, db):
    await services.accounts.set_role(user.email, Role.BUYER)


async def demoted_by_hand(user, headers, client, services, db):
    await db.execute("UPDATE users SET role = 'buyer' WHERE user_id = $1", user.user_id)


async def new_password(user, headers, client, services, db):
    await services.accounts.set_staff_password(email=user.email, password=NEW)


async def password_by_hand(user, headers, client, services, db):
    await db.execute("UPDATE users SET password_hash = 'other' WHERE user_id = $1", user.user_id)


async def signed_out(user, headers, client, services, db):
    assert (await client.post("/api/auth/logout", headers=headers)).status_code == 204


async def signed_out_by_an_operator(user, headers, client, services, db):
    await services.users.raise_generation(user.user_id)


async def changed_password(user, headers, client, services, db):
    wanted = {"oldPassword": OLD, "newPassword": NEW}
    answer = await client.post("/api/auth/password", json=wanted, headers=headers)
    assert answer.status_code == 200, answer.text
    # The answer holds a token that goes on.
    again = {"Authorization": f"Bearer {answer.json()['token']}"}
    assert (await client.get(f"/api/order/{uuid.uuid4()}/status", headers=again)).status_code == 404


async def reset(user, headers, client, services, db):
    token = Tokens(services.settings.auth).issue_reset(user.principal)
    answer = await client.post("/api/auth/reset", json={"token": token, "password": NEW})
    assert answer.status_code == 204, answer.text


OF_ADMINISTRATORS = [deleted, demoted, demoted_by_hand, new_password, password_by_hand, signed_out,
                     signed_out_by_an_operator, changed_password, reset]  # fmt: skip
OF_BUYERS = [deleted, password_by_hand, signed_out, signed_out_by_an_operator, changed_password, reset]


async def administrative_routes(client, product_id):
    """Return method, path and body of every route of the document that asks for an administrator."""
    document = (await client.get("/schema/openapi.json")).json()
    bodies = {
        "/api/admin/stock": {"productId": product_id, "stock": 5},
        "/api/admin/products": {"name": "x", "price": "1", "stock": 1},
        "/api/admin/products/{product_id}": {"name": "renamed"},
    }
    found = []
    for path, item in document["paths"].items():
        if path.startswith("/api/admin"):
            for method in item.keys() & {"get", "put", "post", "patch", "delete"}:
                filled = path.replace("{product_id}", str(product_id)).replace("{number}", "1")
                found.append((method.upper(), re.sub(r"\{\w+\}", str(uuid.uuid4()), filled), bodies.get(path)))
    return found


async def ask(client, routes, headers):
    return {
        f"{method} {path}": await client.request(
            method, path, json=body if method in {"POST", "PATCH", "PUT"} else None, headers=headers
        )
        for method, path, body in routes
    }


@pytest.mark.parametrize("take", OF_ADMINISTRATORS, ids=lambda take: take.__name__)
async def test_an_administrator_loses_every_route_at_once_in_every_process(settings, db, take):
    async with process(settings) as (here, services), process(settings) as (there, _):
        routes = await administrative_routes(here, (await add_product(services)).product_id)
        assert len(routes) >= 7
        user, headers = await account(services, Role.ADMIN)
        for client in (here, there):
            for route, answer in (await ask(client, routes, headers)).items():
                assert answer.status_code not in {401, 403}, (route, answer.text)
        await take(user, headers, here, services, db)
        # The other process listens to nothing and has not polled: it must look.
        for client in (there, here):
            for route, answer in (await ask(client, routes, headers)).items():
                assert answer.status_code == 401, (route, answer.text)
                assert answer.headers["www-authenticate"].startswith(REFUSED), route


async def test_a_key_that_was_removed_opens_no_route(settings, postgres_url, valkey, db):
    async with process(settings) as (_, services):
        _, headers = await account(services, Role.ADMIN)
        product = await add_product(services)
    rotated = make_settings(postgres_url, valkey.url, auth={"jwt_secret": NEXT_KEY})
    async with process(rotated) as (client, _):
        routes = await administrative_routes(client, product.product_id)
        answers = await ask(client, routes, headers)
        assert {answer.status_code for answer in answers.values()} == {401}
    between = {"jwt_secret": NEXT_KEY, "jwt_second_secret": settings.auth.jwt_secret.get_secret_value()}
    async with process(make_settings(postgres_url, valkey.url, auth=between)) as (client, _):
        answers = await ask(client, routes, headers)
        assert not {401, 403} & {answer.status_code for answer in answers.values()}, "while it is the second one"


async def test_an_order_of_somebody_else_is_no_administrators_any_more(settings, db):
    async with process(settings) as (here, services), process(settings) as (there, _):
        product = await add_product(services)
        _, buyer = await account(services)
        bought = await here.post("/api/order/buy-flash", json={"productId": product.product_id}, headers=buyer)
        path = f"/api/order/{bought.json()['orderId']}/status"
        user, headers = await account(services, Role.ADMIN)
        assert (await there.get(path, headers=headers)).status_code == 200
        await demoted(user, headers, here, services, db)
        assert (await there.get(path, headers=headers)).status_code == 401
        assert (await there.get(path, headers=buyer)).status_code == 200


async def refused_after(client, headers, *, within_s):
    """Wait until a buyer's token is refused; gives after how many seconds."""
    began_s = time.monotonic()
    async with asyncio.timeout(within_s):
        while True:
            answer = await client.get(f"/api/order/{uuid.uuid4()}/status", headers=headers)
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith(REFUSED)
                return time.monotonic() - began_s
            assert answer.status_code == 404
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("heard", ["notified", "polled"])
@pytest.mark.parametrize("take", OF_BUYERS, ids=lambda take: take.__name__)
async def test_a_buyers_tokens_end_in_every_process_within_the_bound(postgres_url, valkey, redis, db, take, heard):
    poll_s = 60 if heard == "notified" else 0.3
    settings = make_settings(postgres_url, valkey.url, live={"poll_s": poll_s})
    async with process(settings) as (here, services), process(settings, listens=heard == "notified") as (there, others):
        while heard == "notified" and not others.feed.connected:
            await asyncio.sleep(0.01)
        user, headers = await account(services)
        other, kept = await account(services)
        order = f"/api/order/{uuid.uuid4()}/status"
        for client in (here, there):
            assert (await client.get(order, headers=headers)).status_code == 404
        await take(user, headers, here, services, db)
        await refused_after(there, headers, within_s=2)
        if take in {signed_out, changed_password, reset}:
            assert (await here.get(order, headers=headers)).status_code == 401, "at once where it was asked for"
        for path in ("pay", "cancel", "stream-token"):
            assert (await there.post(f"/api/order/{uuid.uuid4()}/{path}", headers=headers)).status_code == 401
        buy = {"productId": 1}
        assert (await there.post("/api/order/buy-flash", json=buy, headers=headers)).status_code == 401
        assert (await there.get(f"/sse/orders/{uuid.uuid4()}", headers=headers)).status_code == 401
        assert (await there.get(order, headers=kept)).status_code == 404, "somebody else's go on"
        # The control: without the revocations the token holds for an hour.
        assert Tokens(settings.auth).verify(headers["Authorization"].removeprefix("Bearer ").encode()) == user.principal
        assert other.user_id != user.user_id


async def test_a_process_that_starts_later_knows_what_ended_before(settings, db):
    async with process(settings) as (here, services):
        user, headers = await account(services)
        gone, theirs = await account(services)
        await signed_out(user, headers, here, services, db)
        await deleted(gone, theirs, here, services, db)
    async with process(settings) as (later, _):
        for one in (headers, theirs):
            assert (await later.get(f"/api/order/{uuid.uuid4()}/status", headers=one)).status_code == 401


async def test_a_stream_token_ends_with_its_account(settings, db):
    async with process(settings) as (here, services):
        user, headers = await account(services)
        tokens = Tokens(settings.auth, services.revocations)
        order_id = uuid.uuid4()
        token, _ = tokens.issue_stream(user.principal, order_id)
        assert tokens.read_stream(token, order_id) == (user.principal, False)
        await signed_out(user, headers, here, services, db)
        with pytest.raises(Unauthenticated):
            tokens.read_stream(token, order_id)


async def test_a_sign_out_by_a_token_that_has_ended_ends_no_newer_one(settings, db):
    async with process(settings) as (here, services), process(settings) as (there, _):
        user, headers = await account(services)
        await signed_out(user, headers, here, services, db)
        again = (await here.post("/api/auth/login", json={"email": user.email, "password": OLD})).json()["token"]
        late = await there.post("/api/auth/logout", headers=headers)
        assert (late.status_code, late.json()["code"]) == (401, "unauthenticated")
        order = f"/api/order/{uuid.uuid4()}/status"
        assert (await here.get(order, headers={"Authorization": f"Bearer {again}"})).status_code == 404


async def test_a_password_changes_only_for_the_old_one_and_only_to_one_that_is_taken(settings, db):
    async with process(settings) as (client, services):
        user, headers = await account(services)
        for wanted, field in (
            ({"oldPassword": "wrong", "newPassword": NEW}, "oldPassword"),
            ({"oldPassword": OLD, "newPassword": "password"}, "newPassword"),
            ({"oldPassword": OLD, "newPassword": user.email.partition("@")[0]}, "newPassword"),
        ):
            answer = await client.post("/api/auth/password", json=wanted, headers=headers)
            assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
        assert (
            await client.post("/api/auth/password", json={"oldPassword": OLD, "newPassword": NEW})
        ).status_code == 401
        assert (await client.get(f"/api/order/{uuid.uuid4()}/status", headers=headers)).status_code == 404
        await changed_password(user, headers, client, services, db)
        for password, status in ((OLD, 401), (NEW, 200)):
            login = await client.post("/api/auth/login", json={"email": user.email, "password": password})
            assert login.status_code == status


async def test_of_two_changes_at_once_one_happens(settings, db):
    async with process(settings) as (here, services), process(settings) as (there, _):
        _, headers = await account(services)
        answers = await asyncio.gather(
            *(
                client.post(
                    "/api/auth/password", json={"oldPassword": OLD, "newPassword": f"{NEW} {number}"}, headers=headers
                )
                for number, client in enumerate((here, there))
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, 401]


async def test_a_reset_token_sets_one_password_once_and_opens_nothing_else(settings, monkeypatch, db):
    async with process(settings) as (client, services):
        user, headers = await account(services)
        tokens = Tokens(settings.auth)
        first, second = (tokens.issue_reset(user.principal) for _ in range(2))
        order = f"/api/order/{uuid.uuid4()}/status"
        assert (await client.get(order, headers={"Authorization": f"Bearer {first}"})).status_code == 401
        weak = await client.post("/api/auth/reset", json={"token": first, "password": "password"})
        assert (weak.status_code, weak.json()["field"]) == (400, "password")
        login = headers["Authorization"].removeprefix("Bearer ")
        assert (await client.post("/api/auth/reset", json={"token": login, "password": NEW})).status_code == 401
        statuses = [
            (await client.post("/api/auth/reset", json={"token": token, "password": NEW})).status_code
            for token in (first, first, second)
        ]
        assert statuses == [204, 401, 401]
        assert (await client.post("/api/auth/login", json={"email": user.email, "password": NEW})).status_code == 200
        user, _ = await account(services)
        with monkeypatch.context() as earlier:
            earlier.setattr(time, "time", lambda now=time.time: now() - settings.auth.reset_token_ttl_s - 1)
            token = tokens.issue_reset(user.principal)
        expired = await client.post("/api/auth/reset", json={"token": token, "password": NEW})
        assert (expired.status_code, "expired" in expired.json()["detail"]) == (401, True)


async def test_a_generation_never_falls(settings, db):
    async with process(settings) as (here, services):
        user, headers = await account(services, Role.ADMIN)
        await signed_out(user, headers, here, services, db)
        await db.execute("UPDATE users SET generation = 0 WHERE user_id = $1", user.user_id)
        assert (await services.users.account(user.user_id)).generation == 2
        routes = await administrative_routes(here, 1)
        assert {answer.status_code for answer in (await ask(here, routes, headers)).values()} == {401}


async def test_who_logs_in_while_the_password_changes_gets_a_token_that_ends(settings, db):
    async with process(settings) as (here, services):
        user, _ = await account(services)
        seen = await services.accounts.log_in(email=user.email, password=OLD, address="")
        await services.users.set_password(user.user_id, "other")
        await services.revocations.refresh()
        late = {"Authorization": f"Bearer {Tokens(settings.auth).issue(seen.principal)}"}
        assert (await here.get(f"/api/order/{uuid.uuid4()}/status", headers=late)).status_code == 401


async def test_the_command_line_takes_power_away_and_lets_a_password_be_set(settings, postgres_url, valkey, db):
    async def run(*arguments):
        done = await asyncio.to_thread(command, *arguments, url=postgres_url, redis_url=valkey.url)
        assert len((done.stdout + done.stderr).strip().splitlines()) == 1, done.stderr
        return done.returncode, done.stdout.strip()

    async with process(settings) as (client, services):
        user, headers = await account(services)
        boss, power = await account(services, Role.ADMIN)
        routes = await administrative_routes(client, 1)
        order = f"/api/order/{uuid.uuid4()}/status"
        status, token = await run("password-reset", user.email.upper())
        assert status == 0
        answer = await client.post("/api/auth/reset", json={"token": token, "password": NEW})
        assert answer.status_code == 204, answer.text
        assert (await client.get(order, headers=headers)).status_code == 401
        assert (await run("admin", "role", boss.email, "buyer"))[0] == 0
        assert {answer.status_code for answer in (await ask(client, routes, power)).values()} == {401}
        assert (await services.users.account(boss.user_id)).role is Role.BUYER
        assert (await run("sign-out", boss.email))[0] == 0
        assert (await services.users.account(boss.user_id)).generation == 2
        for refused in (("sign-out", "no@body.example"), ("admin", "role", "no@body.example", "admin")):
            assert (await run(*refused))[0] == 1


def command(*arguments, url, redis_url):
    environment = of_this_checkout(
        FLASHSALE_POSTGRES__URL=url, FLASHSALE_REDIS__URL=redis_url, FLASHSALE_AUTH__JWT_SECRET=SECRET
    )
    return subprocess.run(
        [sys.executable, "-m", "flashsale.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
