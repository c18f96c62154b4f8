"""A limit per e-mail root counts all accounts of one person: in Postgres, at the gate, in the audit, and for older processes."""

import asyncio
import itertools
import uuid
from collections import Counter
from datetime import timedelta

import pytest

from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.domain.emails import email_key
from flashsale.domain.errors import LimitReached
from flashsale.domain.gate import Admission
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import LimitPer, ProductChange
from flashsale.domain.users import Role
from tests.conftest import add_product
from tests.support.accepting import Outcome, accept, accept_one, acceptance, new_id, propose
from tests.support.gates import ask

ROOT = LimitPer.EMAIL_ROOT


async def accounts(services, *emails):
    """Make an account for each address; returns their ids."""
    users = [await services.users.create(name="x", email=one, password_hash=None, role=Role.BUYER) for one in emails]
    return [user.user_id for user in users]


async def tags(services, count):
    name = uuid.uuid4().hex[:12]
    return await accounts(services, *(f"{name}+{number}@example.com" for number in range(count)))


async def violations(services):
    checked = await PostgresInvariants(services.database, timeout_s=60).check(overdue_s=3600, stuck_s=3600)
    return {result.invariant for result in checked if result.violations}


ROOTS = {
    "ada@example.com": [
        "ada+a@example.com",
        "ada+a+b@example.com",
        "ADA+A@Example.com",
        "ａda+x@example.com",
        "ada+@example.com",
    ],
    "ada@gmail.com": ["a.d.a@gmail.com", "ada+x@gmail.com", "a.da+y@googlemail.com"],
    "é@müller.example": ["e\u0301+a@xn--mller-kva.example", "É+b@MÜLLER.example"],
    "+ada@example.com": [],
    "a.da@example.com": ["a.da+gmail.com@example.com"],
    "ada@example.com.gmail.com": [],
}
"""Addresses by their root; those of different roots are different buyers."""


async def test_addresses_of_one_mailbox_have_one_root_and_others_another(db):
    found = {}
    for root, others in ROOTS.items():
        for email in [root, *others]:
            query = "SELECT email_root_v1($1) AS root, limit_id_v1($1, 'unused') AS limit_id"
            row = await db.fetchrow(query, email_key(email))
            assert row["root"] == root, email
            found.setdefault(root, set()).add(row["limit_id"])
    assert all(len(limit_ids) == 1 for limit_ids in found.values())
    assert len(set.union(*found.values())) == len(ROOTS)


async def test_an_account_of_before_there_were_keys_has_the_same_root(db):
    plain = await db.fetchval("SELECT limit_id_v1('ada@example.com', 'ada@example.com')")
    assert await db.fetchval("SELECT limit_id_v1(NULL, 'ＡDA+x@Example.com')") == plain


@pytest.mark.parametrize("per", list(LimitPer))
async def test_accounts_of_one_root_share_the_limit_where_the_product_says_so(services, per):
    product = await add_product(services, limit_per_buyer=2, limit_per=per)
    first, second, third = await tags(services, 3)
    order_id = await accept_one(services, product, first)
    await accept_one(services, product, second)
    shared = per is ROOT
    assert await accept(services, propose(product, third)) == [Outcome.LIMIT_REACHED if shared else Outcome.ACCEPTED]
    (verdict,) = await acceptance(services).accept([propose(product, third, quantity=2)])
    assert verdict.outcome is Outcome.LIMIT_REACHED
    [held] = await acceptance(services).held([(product.product_id, third)])
    assert held == (2 if shared else 1, 0, None, 2)
    await services.order_rows.end([order_id], OrderStatus.FAILED)
    await accept_one(services, product, third)


TRIES = 6
"""On a busy machine batches may come one after the other, and then the control does nothing wrong."""


async def race_of_two_roots(services):
    """Let 60 accounts of each of two roots press at once; counts the outcomes."""
    product = await add_product(services, allotment=500, limit_per_buyer=3, limit_per=ROOT)
    users = list(itertools.chain(*zip(await tags(services, 60), await tags(services, 60), strict=True)))
    batches = [sorted(users[at : at + 4]) for at in range(0, 120, 4)]
    told = Counter()

    async def press(batch):
        proposals = [propose(product, user) for user in batch]
        while proposals:
            outcomes = await accept(services, *proposals)
            told.update(outcomes)
            proposals = [one for one, outcome in zip(proposals, outcomes, strict=True) if outcome is Outcome.RETRY]

    await asyncio.gather(*map(press, batches))
    return told


@pytest.mark.parametrize("locked", [True, False])
async def test_accounts_of_one_root_cannot_race_past_the_limit(services, db, locked):
    """60 accounts of a root and of another at once; the control counts without the lock."""
    if not locked:
        text = await db.fetchval("SELECT pg_get_functiondef('hold_email_roots_v2'::regproc)")
        assert "pg_advisory_xact_lock(7003, l.lock)" in text
        await db.execute(text.replace("PERFORM pg_advisory_xact_lock(7003, l.lock)", "PERFORM pg_sleep(0.3), l.lock"))
    for _ in range(1 if locked else TRIES):
        told = await race_of_two_roots(services)
        if told[Outcome.ACCEPTED] > 6:
            break
    if locked:
        assert told[Outcome.ACCEPTED] == 6
        assert told[Outcome.LIMIT_REACHED] == 114
        assert await violations(services) == set()
    else:
        assert told[Outcome.ACCEPTED] > 6
        assert "I10" in {name.split("_")[0] for name in await violations(services)}
        await db.execute("UPDATE product_terms SET limit_per = 'account'; UPDATE products SET limit_per = 'account'")
        await db.execute(
            "UPDATE buyer_units SET limit_id = NULL; DELETE FROM product_terms WHERE limit_per = 'email_root'"
        )


async def test_of_one_batch_only_what_fits_alone_is_asked_again(services):
    product = await add_product(services, limit_per_buyer=3, limit_per=ROOT)
    users = sorted(await tags(services, 4))
    quantities = (2, 2, 4, 1)
    proposals = [propose(product, user, quantity=n) for user, n in zip(users, quantities, strict=True)]
    assert await accept(services, *proposals) == [
        Outcome.ACCEPTED,
        Outcome.RETRY,
        Outcome.LIMIT_REACHED,
        Outcome.ACCEPTED,
    ]
    assert await accept(services, proposals[1]) == [Outcome.LIMIT_REACHED]


async def test_a_key_that_was_refused_by_its_root_makes_no_order_later(services):
    product = await add_product(services, limit_per_buyer=1, limit_per=ROOT)
    first, second = await tags(services, 2)
    order_id = await accept_one(services, product, first)
    late = new_id()
    assert await accept(services, propose(product, second, key="k", order_id=late)) == [Outcome.LIMIT_REACHED]
    await asyncio.sleep(0.002)
    await services.order_rows.end([order_id], OrderStatus.FAILED)
    # A proposal of the same request that was made before the refusal and comes now.
    again = propose(product, second, key="k2", order_id=late_id_of(late))
    assert await accept(services, again) == [Outcome.VOIDED]
    await accept_one(services, product, second, key="k3")


def late_id_of(order_id):
    """Another id of the same millisecond."""
    return uuid.UUID(int=(order_id.int & ~0xFFFF) | ((order_id.int + 1) & 0xFFFF))


OLDER = """
SELECT outcome FROM {0}($1, $2, $3, $4, $5, $6, $7, $8)
"""


@pytest.mark.parametrize("function", ["accept_orders_v1", "accept_orders_v2"])
@pytest.mark.parametrize("guarded", [True, False])
async def test_an_older_process_keeps_the_limit_of_a_root_too(services, db, function, guarded):
    """In a roll both accept; the control is the database without the trigger."""
    if not guarded:
        await db.execute("ALTER TABLE buyer_units DISABLE TRIGGER buyer_units_limited")
    product = await add_product(services, allotment=100, limit_per_buyer=3, limit_per=ROOT)
    plain = await add_product(services, allotment=100, limit_per_buyer=1)
    users = sorted(await tags(services, 30))

    async def older(product, batch):
        n = len(batch)
        arguments = (
            [new_id() for _ in batch],
            batch,
            [product.product_id] * n,
            [1] * n,
            [None] * n,
            [None] * n,
            [None] * n,
        )
        async with services.database.connection() as connection:
            return [
                row["outcome"]
                for row in await connection.fetch(OLDER.format(function), *arguments, timedelta(seconds=8))
            ]

    async def newer(batch):
        return [outcome.value for outcome in await accept(services, *(propose(product, user) for user in batch))]

    batches = [users[at : at + 3] for at in range(0, 30, 3)]
    pressing = [older(product, batch) if place % 2 else newer(batch) for place, batch in enumerate(batches)]
    told = Counter(itertools.chain(*await asyncio.gather(*pressing)))
    if guarded:
        assert told["accepted"] == 3
        assert set(told) <= {"accepted", "limit_reached", "retry"}
        # A product that counts accounts is sold as before.
        assert await older(plain, users) == ["accepted"] * 30
        assert await older(plain, users) == ["limit_reached"] * 30
        nil = "SELECT count(*) FROM buyer_units WHERE limit_id = '00000000-0000-0000-0000-000000000000'"
        assert not await db.fetchval(nil)
    else:
        assert told["accepted"] > 3
        await db.execute("UPDATE product_terms SET limit_per = 'account'; UPDATE products SET limit_per = 'account'")
        await db.execute(
            "UPDATE buyer_units SET limit_id = NULL; DELETE FROM product_terms WHERE limit_per = 'email_root'"
        )


async def test_what_a_limit_counts_can_be_changed_in_mid_sale_and_back(services, db):
    product = await add_product(services, limit_per_buyer=2)
    users = await tags(services, 4)
    for user in users[:3]:
        await accept_one(services, product, user)

    async def change(per):
        await services.administer.change(product.product_id, ProductChange(fields={"limit_per": per}))
        assert (await services.catalog.get(product.product_id)).limit_per is per

    await change(ROOT)
    assert await accept(services, propose(product, users[3])) == [Outcome.LIMIT_REACHED]
    assert await violations(services) == set(), "three were right under the terms of then"
    await change(LimitPer.ACCOUNT)
    await accept_one(services, product, users[3])
    assert await accept(services, propose(product, users[3], quantity=2)) == [Outcome.LIMIT_REACHED]


@pytest.mark.parametrize("per", list(LimitPer))
async def test_the_gate_counts_the_accounts_of_a_root_as_one_buyer(services, per):
    product = await add_product(services, allotment=50, limit_per_buyer=2, limit_per=per)
    users = await tags(services, 12)
    accepted, refused = [], 0
    for user in users:
        try:
            accepted.append(await services.buy(ask(product, user, key="the same key")))
        except LimitReached:
            refused += 1
    shared = per is ROOT
    assert (len(accepted), refused) == ((2, 10) if shared else (12, 0))
    assert services.gate.answers[Admission.LIMIT_REACHED] == refused, "the gate itself said no"
    # Each account's key is its own.
    assert await services.buy(ask(product, users[0], key="the same key")) == accepted[0]
    assert len({one.order_id for one in accepted}) == len(accepted)
    # Units that come back free the root's place at the gate, too.
    await services.order_rows.end([accepted[0].order_id], OrderStatus.FAILED)
    await services.buy._return_units()
    said = services.gate.answers[Admission.LIMIT_REACHED]
    assert await services.buy(ask(product, users[-1], key="another"))
    assert services.gate.answers[Admission.LIMIT_REACHED] == said
    assert (await services.gate.state(product.product_id, product.epoch)).loaded


@pytest.mark.parametrize("order", ["account first", "root first"])
async def test_the_audit_counts_the_accounts_of_a_root_as_the_terms_of_then_say(services, db, order):
    first, second = (LimitPer.ACCOUNT, ROOT) if order == "account first" else (ROOT, LimitPer.ACCOUNT)
    product = await add_product(services, limit_per_buyer=1, limit_per=first)
    for per in (first, second):
        await services.administer.change(product.product_id, ProductChange(fields={"limit_per": per}))
        users = await tags(services, 2)
        await accept_one(services, product, users[0])
        if per is ROOT:
            # As an accept without the guard would have made it.
            await db.execute("UPDATE buyer_units SET limit_id = NULL WHERE user_id = $1", users[0])
        await accept_one(services, product, users[1])
        await db.execute(
            "UPDATE buyer_units AS b SET limit_id = CASE WHEN $2 = 'email_root' THEN limit_id_v1(u.email_key, u.email) END"
            " FROM users AS u WHERE u.user_id = b.user_id AND b.user_id = ANY($1)",
            users,
            second.value,
        )
    await db.execute(
        "UPDATE buyer_units AS b SET limit_id = CASE WHEN $1 = 'email_root' THEN limit_id_v1(u.email_key, u.email) END"
        " FROM users AS u WHERE u.user_id = b.user_id",
        second.value,
    )
    assert await violations(services) == {"I10"}
    await db.execute("UPDATE product_terms SET limit_per_buyer = 2; UPDATE products SET limit_per_buyer = 2")
    await db.execute(
        "DELETE FROM product_terms WHERE limit_per = 'account'; UPDATE product_terms SET limit_per = 'account'"
    )
    await db.execute("UPDATE products SET limit_per = 'account'; UPDATE buyer_units SET limit_id = NULL")


async def test_a_buyer_that_is_counted_as_nobody_is_found_by_the_audit(services, db):
    product = await add_product(services, limit_per_buyer=2, limit_per=ROOT)
    (user,) = await tags(services, 1)
    await accept_one(services, product, user)
    for wrong in ("NULL", "gen_random_uuid()"):
        await db.execute(f"UPDATE buyer_units SET limit_id = {wrong}")
        assert await violations(services) == {"I23"}
    await db.execute(
        "UPDATE buyer_units SET limit_id = limit_id_v1(email_key, email) FROM users WHERE users.user_id = buyer_units.user_id"
    )
