"""The erasure of a buyer's personal data: nothing of the person is left, and every invariant still holds."""

import json

import pytest

from flashsale.domain.errors import BuyerNotFound, OpenOrders
from flashsale.domain.products import LimitPer, PaymentMode
from flashsale.domain.users import Principal, Role
from tests.conftest import add_buyers, add_product
from tests.support.accepting import accept_one
from tests.support.refunding import paid_order

NAME, EMAIL = "Mary Somerville", "Somerville+tag@Example.com"


async def texts(db):
    """Return every row of every table that holds text about an account, as text."""
    tables = await db.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    rows = {}
    for row in tables:
        found = await db.fetch(f"SELECT t::text AS row FROM {row['relname']} AS t")
        rows[row["relname"]] = json.dumps([one["row"] for one in found])
    return rows


async def ended_order(services, product, user_id):
    order_id = await accept_one(services, product, user_id)
    await services.order_rows.process([order_id], payment_due_s=30)
    await services.orders.cancel(order_id, Principal(user_id=user_id, role=Role.BUYER))
    return order_id


async def test_nothing_of_the_person_is_left_in_any_table(services, db):
    await db.execute(
        "INSERT INTO outbox_targets (target_id, events, created_at) "
        "VALUES ('mail', '{order.cancelled}', now() - interval '1 minute')"
    )
    mary = await services.users.create(name=NAME, email=EMAIL, password_hash="$argon2id$of-mary", role=Role.BUYER)
    other = (await add_buyers(services, 1))[0]
    product = await add_product(
        services, payment_mode=PaymentMode.BY_BUYER, limit_per_buyer=3, limit_per=LimitPer.EMAIL_ROOT
    )
    order_id = await ended_order(services, product, mary.user_id)
    kept = await ended_order(services, product, other)
    await db.execute("UPDATE outbox SET problem = 'no mailbox ' || $2 WHERE order_id = $1", order_id, EMAIL)
    root = await db.fetchval("SELECT limit_id::text FROM buyer_units WHERE user_id = $1", mary.user_id)
    traces = (NAME, "Somerville", "example.com", "of-mary", root)
    before = await texts(db)
    assert all(any(trace.lower() in text.lower() for text in before.values()) for trace in traces), "a control"

    await services.buyers.erase(mary.user_id, None)
    await services.buyers.erase(mary.user_id, None)
    after = await texts(db)
    found = {(table, trace) for table, text in after.items() for trace in traces if trace.lower() in text.lower()}
    assert found == set()
    # Who bought, what and when stays, as what it is: an account without a person.
    order = (await services.order_rows.get_many([order_id]))[order_id]
    assert (order.user_id, order.total_price) == (mary.user_id, product.price)
    assert [row["order_id"] for row in await db.fetch("SELECT order_id FROM outbox")] == [kept]
    assert (await services.users.account(mary.user_id)).generation > mary.generation
    assert await services.buyers.find(EMAIL) == []
    again = await services.users.create(name=NAME, email=EMAIL, password_hash="x", role=Role.BUYER)
    assert [one.user_id for one in await services.buyers.find("somerville+TAG@example.COM")] == [again.user_id]


async def test_an_account_with_open_orders_and_one_of_staff_are_refused(services, db):
    product = await add_product(services, payment_mode=PaymentMode.BY_BUYER)
    mary = await services.users.create(name=NAME, email=EMAIL, password_hash="x", role=Role.BUYER)
    order_id = await accept_one(services, product, mary.user_id)
    with pytest.raises(OpenOrders):
        await services.buyers.erase(mary.user_id, None)
    await services.order_rows.process([order_id], payment_due_s=30)
    with pytest.raises(OpenOrders):
        await services.buyers.erase(mary.user_id, None)
    # By itself: the adapter also rolls back what it refuses.
    assert await db.fetchval("SELECT erase_buyer_v1($1)", mary.user_id) == "open"
    assert (await services.users.account(mary.user_id)).email == EMAIL
    await services.orders.cancel(order_id, mary.principal)
    await db.execute(
        "INSERT INTO payment_intents (order_id, number, provider, reference, state, amount_minor, currency, window_left, due_at) "
        "VALUES ($1, 1, 'test', 'pi_1', 'open', 99999, 'USD', interval '0', now())",
        order_id,
    )
    with pytest.raises(OpenOrders):
        await services.buyers.erase(mary.user_id, None)
    await db.execute("DELETE FROM payment_intents")
    await services.buyers.erase(mary.user_id, None)
    admin = await services.users.create(name="Grace", email="grace@example.com", password_hash="x", role=Role.ADMIN)
    with pytest.raises(BuyerNotFound):
        await services.buyers.erase(admin.user_id, None)
    assert (await services.users.account(admin.user_id)).email == "grace@example.com"


async def test_the_money_of_an_erased_buyer_is_in_the_books_as_before(services):
    _, principal = await paid_order(services)
    before = await services.read_books(since=None, until=None, zone="UTC")
    await services.buyers.erase(principal.user_id, None)
    assert before
    assert await services.read_books(since=None, until=None, zone="UTC") == before
