"""The trail of administration: one row for each change, none for a refusal, and no way to change it."""

import asyncio
import itertools
import json
import uuid
from typing import Any

import asyncpg
import pytest

from flashsale.domain.products import PaymentMode
from flashsale.domain.users import Role
from flashsale.http.auth import Tokens
from tests.conftest import add_buyers, add_product, assert_invariants
from tests.support import manual
from tests.support.accepting import accept_one
from tests.support.charging import charging
from tests.support.desk import open_desk
from tests.support.refunding import paid_order, requesting

WRITES = {"post", "put", "patch", "delete"}


@pytest.fixture
async def desk(settings, db):
    async with open_desk(settings, db) as opened:
        yield opened


async def product_of(desk):
    return (await add_product(desk.services, allotment=10)).product_id


async def paid(desk):
    return (await paid_order(desk.services))[0]


async def unpaid_order(desk):
    return (await manual.unpaid(desk.services))[0]


async def refunding_order(desk):
    """An order that was paid by hand, with a refund that nobody recorded yet."""
    order_id, _ = await manual.unpaid(desk.services)
    await manual.record(desk.services, order_id, f"t-{order_id}")
    await charging(desk.services, manual.gateway(desk.services))(order_id)
    await requesting(desk.services)(order_id)
    return order_id


async def held(desk):
    product = await add_product(desk.services, payment_mode=PaymentMode.BY_BUYER)
    order_id = await accept_one(desk.services, product, await buyer_of(desk))
    await desk.services.order_rows.process([order_id], payment_due_s=30)
    return order_id


async def buyer_of(desk):
    return (await add_buyers(desk.services, 1))[0]


async def paused(desk):
    product_id = await product_of(desk)
    await desk.db.execute("UPDATE products SET paused = true WHERE product_id = $1", product_id)
    return product_id


CALLS: dict[str, tuple[Any, Any, Any, Any]] = {
    # operation: what it concerns, its body, the values before and after
    "createProduct": (None, {"name": "Phone", "price": "1", "stock": 5}, None, {"name": "Phone", "allotment": 5}),
    "changeProduct": (product_of, {"name": "New", "price": "899.99"}, {"name": "Phone", "price_minor": 99_999},
                      {"name": "New", "price_minor": 89_999}),
    "pauseSale": (product_of, None, {"paused": False}, {"paused": True}),
    "resumeSale": (paused, None, {"paused": True}, {"paused": False}),
    "closeSale": (product_of, None, {"ends_at": None}, {}),
    "archiveProduct": (paused, None, {"archived_at": None}, {}),
    "changeStock": (product_of, {"change": 5}, {"allotment": 10}, {"allotment": 15}),
    "setStock": (product_of, {"productId": "ID", "stock": 7}, {"allotment": 10}, {"allotment": 7}),
    "recordPayment": (unpaid_order, {"reference": "t-1", "amount": "999.99", "currency": "USD"},
                      {"status": "awaiting_payment"}, {"payment": "t-1", "amount_minor": 99_999}),
    "recordRefund": (refunding_order, {"reference": "b-1"}, {"refund": 1, "state": "pending"},
                     {"refund": 1, "state": "recorded", "reference": "b-1"}),
    "withdrawRefund": (refunding_order, None, {"refund": 1, "state": "pending"}, {"refund": 1, "state": "withdrawn"}),
    "cancelOrderForBuyer": (held, None, {"status": "awaiting_payment"}, {"status": "cancelled"}),
    "eraseBuyer": (buyer_of, None, None, {"erased": True}),
    "refundOrder": (paid, {"reason": "Arrived broken"}, {"status": "confirmed", "left_minor": 99_999},
                    {"refund": 1, "amount_minor": 99_999, "restock": False, "reason": "Arrived broken"}),
}  # fmt: skip
"""Every operation of the administration that changes something."""

REFUSED = {
    "createProduct": {"name": "Phone", "price": "free", "stock": 5},
    "changeProduct": {"startsAt": "2026-11-27T10:00:00Z", "endsAt": "2026-11-27T09:00:00Z"},
    "changeStock": {"change": -11},
    "setStock": {"productId": "ID", "stock": -1},
    "refundOrder": {"amount": "99999.00", "reason": "Too much"},
}


def filled(template, found, body):
    """Put an id into a path and a body."""
    path = template.format(product_id=found, order_id=found, number=1, user_id=found)
    return path, body and {name: found if value == "ID" else value for name, value in body.items()}


async def writing_operations(desk):
    document = (await desk.client.get("/schema/openapi.json")).json()
    return {
        operation["operationId"]: (method.upper(), path)
        for path, item in document["paths"].items()
        if path.startswith("/api/admin/")
        for method, operation in item.items()
        if method in WRITES
    }


async def test_each_call_that_changes_something_leaves_one_row_and_a_refused_one_none(desk):
    operations = await writing_operations(desk)
    assert operations.keys() == CALLS.keys(), "say above what each operation changes"
    buyer = await desk.services.users.create(name="Eve", email="eve@example.com", password_hash=None, role=Role.BUYER)
    stranger = {"Authorization": f"Bearer {Tokens(desk.services.settings.auth).issue(buyer.principal)}"}
    for name, (method, template) in operations.items():
        concerns, body, old, new = CALLS[name]
        found = None if concerns is None else await concerns(desk)
        before = await desk.db.fetchval("SELECT count(*) FROM admin_trail")
        path, wanted = filled(template, found, body)
        _, refused = filled(template, found, REFUSED.get(name))
        refusals = [await desk.call(method, path, wanted, stranger)]
        if refused is not None:
            refusals.append(await desk.call(method, path, refused))
        if found is not None and "ID" not in (body or {}).values():
            none = template.format(product_id=2_000_000_000, order_id=uuid.uuid4(), number=1, user_id=uuid.uuid4())
            refusals.append(await desk.call(method, none, wanted))
        assert all(answer.status_code >= 400 for answer in refusals), name
        assert await desk.db.fetchval("SELECT count(*) FROM admin_trail") == before, f"a refused {name} left a row"
        answer = await desk.call(method, path, wanted)
        assert answer.status_code < 300, (name, answer.text)
        rows = await desk.trail(limit=2)
        assert await desk.db.fetchval("SELECT count(*) FROM admin_trail") == before + 1, name
        row = rows[0]
        kind = "order" if "order_id" in template else "account" if "user_id" in template else "product"
        assert row["object"] == f"{kind}/{found or answer.json()['id']}", name
        assert (row["actor"], row["origin"], row["action"]) == ("grace@example.com", "192.0.2.7", name)
        assert row["requestId"] == "press-1"
        assert row["old"] == old, name
        assert new.items() <= row["new"].items(), name
        assert old is None or old.keys() <= row["new"].keys() or kind == "order", name


async def test_a_repetition_under_a_key_and_a_change_to_the_same_leave_no_second_row(desk):
    product_id = await product_of(desk)
    path = f"/api/admin/products/{product_id}/stock"
    for _ in range(3):
        assert (await desk.call("POST", path, {"change": 5}, {"Idempotency-Key": "k"})).status_code == 200
    for _ in range(3):
        assert (await desk.call("POST", f"/api/admin/products/{product_id}/pause")).status_code == 200
    rows = await desk.trail(object=f"product/{product_id}")
    assert [(row["action"], row["actor"]) for row in rows] == [
        ("pauseSale", "grace@example.com"),
        ("changeStock", "grace@example.com"),
        ("insert products", "system"),
    ]


NEW = "SELECT create_product_v3('Phone', 1, 'USD', 1, 'automatic', 300, NULL, 'account', NULL, NULL)"
COUNT = "SELECT count(*) FROM admin_trail"


async def test_neither_a_change_that_is_rolled_back_nor_a_load_of_the_gate_leaves_a_row(db):
    product_id = await db.fetchval(NEW)
    transaction = db.transaction()
    await transaction.start()
    await db.execute("UPDATE products SET paused = true WHERE product_id = $1", product_id)
    assert await db.fetchval(COUNT) == 2
    await transaction.rollback()
    await db.execute("UPDATE products SET epoch = epoch + 1 WHERE product_id = $1", product_id)
    assert await db.fetchval(COUNT) == 1


POWERS = {
    "INSERT INTO users (user_id, name, email, role) VALUES ($1::uuid, 'Eve', $1::uuid || '@example.com', 'admin')": (
        None, {"role": "admin"}),
    "UPDATE users SET password_hash = 'a hash that nobody sees' WHERE user_id = $1": (
        {"role": "admin", "password": "old"}, {"role": "admin", "password": "new"}),
    "UPDATE users SET role = 'buyer' WHERE user_id = $1": ({"role": "admin"}, {"role": "buyer"}),
    "UPDATE users SET role = 'admin' WHERE user_id = $1": ({"role": "buyer"}, {"role": "admin"}),
    "UPDATE users SET name = 'Eva', generation = generation + 1 WHERE user_id = $1": None,
    "DELETE FROM users WHERE user_id = $1": ({"role": "admin"}, None),
}  # fmt: skip


async def test_power_that_is_given_or_taken_by_hand_is_in_the_trail_and_no_secret(db):
    user_id = uuid.uuid4()
    for statement, expected in POWERS.items():
        before = await db.fetchval("SELECT coalesce(max(trail_id), 0) FROM admin_trail")
        await db.execute(statement, user_id)
        rows = await db.fetch("SELECT * FROM admin_trail WHERE trail_id > $1", before)
        if expected is None:
            assert rows == [], statement
            continue
        (row,) = rows
        assert (row["actor"], row["object"]) == ("system", f"account/{user_id}")
        assert tuple(one and json.loads(one) for one in (row["old"], row["new"])) == expected, statement
    rows = await db.fetchval(COUNT)
    await db.execute("INSERT INTO users (user_id, name, email) VALUES ($1, 'Ada', 'ada@example.com')", user_id)
    await db.execute("UPDATE users SET password_hash = 'x' WHERE user_id = $1", user_id)
    await db.execute("DELETE FROM users WHERE user_id = $1", user_id)
    assert await db.fetchval(COUNT) == rows, "what a buyer does is not administration"
    assert "nobody sees" not in str(await db.fetch("SELECT t::text FROM admin_trail AS t"))


CHANGES = (
    "UPDATE admin_trail SET actor = 'nobody'",
    "UPDATE admin_trail SET at = now() WHERE false",
    "DELETE FROM admin_trail",
    "TRUNCATE admin_trail",
    "WITH gone AS (DELETE FROM admin_trail RETURNING *) SELECT * FROM gone",
)


async def test_nobody_changes_or_deletes_a_row_and_control_the_owner_without_the_trigger_does(db):
    await db.execute(NEW)
    before = await db.fetch("SELECT * FROM admin_trail")
    assert before
    for role, statement in itertools.product(("owner", "flashsale_api", "flashsale_worker"), CHANGES):
        transaction = db.transaction()
        await transaction.start()
        if role != "owner":
            await db.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute(statement)
        await transaction.rollback()
    assert await db.fetch("SELECT * FROM admin_trail") == before
    await db.execute("ALTER TABLE admin_trail DISABLE TRIGGER admin_trail_kept")
    await db.execute("DELETE FROM admin_trail")
    assert await db.fetchval(COUNT) == 0


OLD, NEWER, NEWEST = "unlikely 4711 horse", "unlikely 4712 horse", "unlikely 4713 horse"


async def set_passwords(desk, email):
    """Change a password over HTTP, then set another by a reset token; gives the new rows of the trail."""
    before = await desk.db.fetchval("SELECT coalesce(max(trail_id), 0) FROM admin_trail")
    answer = await desk.client.post("/api/auth/login", json={"email": email, "password": OLD})
    headers = {"Authorization": f"Bearer {answer.json()['token']}", "X-Request-Id": "press-2"}
    change = {"oldPassword": OLD, "newPassword": NEWER}
    answer = await desk.client.post("/api/auth/password", json=change, headers=headers)
    assert answer.status_code == 200, answer.text
    user, _ = await desk.services.users.credentials(email)
    token = Tokens(desk.services.settings.auth).issue_reset(user.principal)
    reset = {"token": token, "password": NEWEST}
    answer = await desk.client.post("/api/auth/reset", json=reset, headers={"X-Request-Id": "press-3"})
    assert answer.status_code == 204, answer.text
    return await desk.db.fetch("SELECT * FROM admin_trail WHERE trail_id > $1 ORDER BY trail_id", before)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.BUYER])
async def test_a_password_that_staff_set_over_http_names_the_account_the_address_and_the_request(desk, role):
    email = "hedy@example.com"
    user = await desk.services.accounts.register(name="Hedy", email=email, password=OLD, role=role)
    rows = await set_passwords(desk, email)
    author = [(row["actor"], row["origin"], row["action"], row["request_id"]) for row in rows]
    assert author == [
        (email, "192.0.2.7", "changePassword", "press-2"),
        (email, "192.0.2.7", "resetPassword", "press-3"),
    ]
    assert {(row["user_id"], row["object"]) for row in rows} == {(user.user_id, f"account/{user.user_id}")}
    assert [json.loads(row["new"]) for row in rows] == [{"role": role, "password": "new"}] * 2


async def test_a_password_that_a_buyer_sets_leaves_no_row(desk):
    email = "ada@example.com"
    await desk.services.accounts.register(name="Ada", email=email, password=OLD)
    assert await set_passwords(desk, email) == []


async def test_pages_and_filters_find_each_row_once(desk):
    first, second = await product_of(desk), await product_of(desk)
    for product_id in (first, second, first):
        for what in ("pause", "resume"):
            await desk.call("POST", f"/api/admin/products/{product_id}/{what}")
    everything = await desk.trail(limit=500)
    paged, before = [], {}
    while page := await desk.trail(limit=3, **before):
        paged += page
        before = {"before": page[-1]["id"]}
    assert paged == everything == sorted(everything, key=lambda row: -row["id"])
    at = everything[4]["at"]
    for query, holds in (
        ({"object": f"product/{first}"}, lambda row: row["object"] == f"product/{first}"),
        ({"action": "pauseSale"}, lambda row: row["action"] == "pauseSale"),
        ({"actor": "GRACE+other@Example.com"}, lambda row: row["actor"] == "grace@example.com"),
        ({"actor": everything[0]["userId"]}, lambda row: row["userId"] == everything[0]["userId"]),
        ({"actor": "system"}, lambda row: row["actor"] == "system"),
        ({"since": at}, lambda row: row["at"] >= at),
        ({"until": at}, lambda row: row["at"] < at),
    ):
        expected = [row for row in everything if holds(row)]
        assert expected
        assert await desk.trail(limit=500, **query) == expected, query


WRONG = ("actor=", "actor=%00", "since=yesterday", "until=0001-01-01T00:00:00%2B10:00", "before=0", "limit=0",
         "limit=501", "who=me")  # fmt: skip


async def test_a_filter_that_cannot_be_read_is_refused(desk):
    for query in WRONG:
        answer = await desk.client.get(f"/api/admin/trail?{query}", headers=desk.headers)
        assert answer.status_code == 400, (query, answer.text)


async def test_an_author_ends_with_the_transaction(desk):
    """The connection goes back to a pool that everything else of the process uses."""
    product_id = await product_of(desk)
    await asyncio.gather(*(desk.call("POST", f"/api/admin/products/{product_id}/pause") for _ in range(4)))
    async with desk.services.database.connection() as connection:
        await connection.execute("UPDATE products SET paused = false WHERE product_id = $1", product_id)
    (row,) = await desk.trail(limit=1)
    assert (row["actor"], row["action"], row["requestId"]) == ("system", "update products", None)


async def test_another_price_is_that_of_later_orders_and_earlier_ones_keep_theirs(desk, db):
    """The invariants, which the audit checks by the terms of each order's time, hold after it."""
    made = await add_product(desk.services, allotment=3)
    buyers = await add_buyers(desk.services, 2)
    before = await accept_one(desk.services, made, buyers[0])
    path = f"/api/admin/products/{made.product_id}"
    answer = await desk.call("PATCH", path, {"price": "899.50"})
    assert (answer.status_code, answer.json()["price"]) == (200, "899.50")
    after = await accept_one(desk.services, made, buyers[1])
    prices = dict(await db.fetch("SELECT order_id, unit_price_minor FROM orders"))
    assert prices == {before: 99_999, after: 89_950}
    for wrong in ("0", "-1", "free", "1.234", "1e3", ""):
        assert (await desk.call("PATCH", path, {"price": wrong})).status_code == 400, wrong
    assert (await desk.call("PATCH", "/api/admin/products/2000000000", {"price": "1"})).status_code == 404
    assert await db.fetchval("SELECT price_minor FROM products") == 89_950
    await assert_invariants(desk.services.database)


STATES = {
    "paused = false": 409,
    "starts_at = now() - interval '1 hour', ends_at = now() + interval '1 hour'": 409,
    "starts_at = now() + interval '1 hour'": 200,
    "ends_at = now() - interval '1 hour'": 200,
    "paused = true": 200,
}
"""Changes of a product on sale, and the answer to a higher price after each."""


@pytest.mark.parametrize("state", STATES)
async def test_a_price_is_raised_only_while_nobody_can_buy(desk, db, state):
    """Else a buyer would look at one price and pay another."""
    product_id = await product_of(desk)
    await db.execute(f"UPDATE products SET {state} WHERE product_id = $1", product_id)
    path, rows = f"/api/admin/products/{product_id}", await db.fetchval(COUNT)
    raised = {"price": "1000.00", "name": "New"}
    answer = await desk.call("PATCH", path, raised, {"Idempotency-Key": "raise"})
    assert answer.status_code == STATES[state], answer.text
    if answer.status_code == 409:
        assert answer.json()["code"] == "sale_open"
        assert tuple(await db.fetchrow("SELECT name, price_minor FROM products")) == ("Phone", 99_999)
        assert await db.fetchval(COUNT) == rows
        for price, status in (("999.99", 200), ("999.98", 200), ("999.99", 409)):
            assert (await desk.call("PATCH", path, {"price": price})).status_code == status, price
        assert (await desk.call("POST", f"{path}/pause")).status_code == 200
        answer = await desk.call("PATCH", path, raised, {"Idempotency-Key": "raise"})
    assert (answer.status_code, answer.json()["price"]) == (200, "1000.00")


@pytest.mark.parametrize("role", list(Role))
async def test_a_sign_out_by_staff_leaves_a_row_and_one_by_a_buyer_none(desk, role):
    user = await desk.services.users.create(name="Hedy", email="hedy@example.com", password_hash=None, role=role)
    headers = {"Authorization": f"Bearer {Tokens(desk.services.settings.auth).issue(user.principal)}"}
    before = await desk.db.fetchval("SELECT max(trail_id) FROM admin_trail")
    codes = [(await desk.client.post("/api/auth/logout", headers=headers)).status_code for _ in range(2)]
    assert codes == [204, 401]
    rows = await desk.db.fetch("SELECT * FROM admin_trail WHERE trail_id > $1", before)
    named = [(row["actor"], row["action"], row["object"], row["origin"], json.loads(row["new"])) for row in rows]
    expected = (
        "hedy@example.com",
        "logOut",
        f"account/{user.user_id}",
        "192.0.2.7",
        {"generation": user.generation + 1},
    )
    assert named == ([] if role is Role.BUYER else [expected])
