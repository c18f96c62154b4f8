"""No periodic work reads history: the tests compare pages, not time, with a shop without old orders."""

import json
import re

from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from tests.growth.old_orders import add_old_orders, old_paid_orders
from tests.growth.reading import EXPLAIN, Read, counting, statements, with_functions
from tests.growth.regular_work import Shop

ORDERS = 20_000
"""Some 500 pages of orders and 900 of their events: more than any statement of the regular work may read."""

AIM = 2
DEPTH_PAGES = 120
"""What larger indexes may cost in addition to the aim: one or two more pages for each of some sixty look-ups. A
statement that reads a whole table of the history reads more than 300."""

MORE_ROWS = 1_500
"""What a statement may look at in addition to the aim: the minute audit counts up to 1,000 free units of an old product."""

EXCUSED = {
    "archive": "by hand; reads one sale",
    "audit": "`flashsale audit` reads everything",
    "invariants": "the minute audit has its own instead of those over whole tables",
    "timeline": "a table of one row",
    "health": "says what the server can do",
    "doctor": "by hand",
    "resets": "rows are deleted after a day, and each statement finds its rows by an index",
    "manual": "for orders that are paid outside; looks one order up by its id, and a settlement reads page by page",
    "schema": "reads the catalogue of tables and functions",
    "jobs": "jobs that are done are deleted: there is no history",
}
"""Files whose statements may be left out of the regular work."""

SELDOM = {
    "cells.product_numbers": "once for a look of readiness; reads one row of the catalog, and looks for a product",
    "cells.can_be_copied": "by hand; reads one setting",
    "cells.any_account": "by hand; looks for one",
    "cells.subscription": "by hand; reads the catalog",
    "cells.published": "the same",
    "cells.first_copy": "by hand; reads the server's counts",
    "cells.note_earlier_revocations": "by hand, when a cell begins; reads each account once",
    "moves.arrivals": "by hand; one row for each product that moved",
    "moves.departures": "the same",
    "moves.moving": "by hand; reads one product",
    "moves.leave": "by hand; one product, its open orders and its buyers by an index",
    "moves.enter": "by hand; creates a product",
    "moves.tell": "by hand; writes one product",
    "acceptance.accepted": "after a lost COMMIT; looks orders up by id",
    "gate_books.owed": "a gate that counts wrong; reads one product and its returns",
    "orders.archived_many": "an id of no order in the tables; looks it up",
    "story.archived": "the same",
    "intents.archived": "a webhook about no order in the tables; looks its id up",
    "buyers.archived_orders": "by hand; the orders of one buyer",
    "products.places": "by hand; a page",
    "orders.postpone": "an order that Postgres refuses; looks it up by id",
    "users.set_password": "by hand",
    "buyers.find_buyers": "by hand; by an address",
    "buyers.erase_buyer": "by hand; reads the orders of one buyer",
    "users.buyers": "accounts that a load test makes",
    "users.create_buyers": "the same",
    "administration.keep": "by the key of a request",
    "payments.announce": "a second attempt; by its number",
    "products.close_sale": "by hand; one product",
    "products.archive_product": "by hand; reads the orders that are not final, and the pending refunds",
    "products.product_page": "by hand; a page",
    "products.claimed_units": "by hand; a page",
    "figures.sales_and_refunds": "by hand; reads the orders of a page of products that were refunded in part",
    "products.recount_limits": "a change of what a limit counts; reads the live orders of one product",
    "users.create_staff": "looks nothing up",
    "users.create_admin": "looks nothing up",
    "users.create_buyer": "looks nothing up",
    "users.set_role": "by hand",
    "outbox.tell_buyers": "at the start of a worker; one row",
    "outbox.add_endpoint": "by hand",
    "outbox.list_targets": "by hand",
    "outbox.remove_endpoint": "by hand",
    "outbox.dead_messages": "by hand",
    "outbox.resend_messages": "by hand",
    "refunds.request_own": "a buyer; looks the order up by its id",
    "refunds.withdraw": "by hand; looks the refund up by its order and number",
    "replication.backends": "while statements are unanswered; reads no table of the shop",
    "replication.any_waits": "the same, through a pooler",
    "sessions.echo": "reads no table",
    "sessions.settings_of_session": "at the start; reads no table of the shop",
    "settlement.settled_orders": "by hand; a settlement reads every order, page by page",
    "settlement.keep_fees": "by hand; a settlement writes the fees of each page",
    "users.staff": "by hand; the accounts that are no buyer's",
}
"""Statements that may, too."""


PENDING = 5_000
"""Rows that wait, on a few hundred pages."""

NOT_YET = (
    """
    INSERT INTO payment_intents (order_id, number, provider, reference, state, amount_minor, currency, window_left, due_at)
    SELECT gen_random_uuid(), 1, 'test', 'later ' || n, 'open', 1, 'USD', interval '0', now() + interval '1 hour'
    FROM generate_series(1, $1::integer) AS n
    """,
    """
    INSERT INTO webhook_events (provider, event_id, type, reference, due_at)
    SELECT 'test', 'later ' || n, 'changed', 'later ' || n, now() + interval '1 hour'
    FROM generate_series(1, $1::integer) AS n
    """,
    """
    INSERT INTO refunds (order_id, number, amount_minor, currency, restock, reason, due_at)
    SELECT gen_random_uuid(), 1, 1, 'USD', false, 'later', now() + interval '1 hour'
    FROM generate_series(1, $1::integer)
    """,
    """
    INSERT INTO outbox (target_id, event, order_id, order_version, product_id, facts, due_at)
    SELECT 'wh_a', 'order.confirmed', gen_random_uuid(), 5, 1, '{}', now() + interval '1 hour'
    FROM generate_series(1, $1::integer)
    """,
    """
    INSERT INTO orders (
        order_id, user_id, product_id, product_name, quantity, unit_price_minor, currency, payment_mode, status,
        due_at, created_at, updated_at
    )
    SELECT
        gen_random_uuid(), gen_random_uuid(), 1, 'Phone', 1, 1, 'USD', 'by_buyer', 'awaiting_payment',
        now() + interval '1 hour', now(), now()
    FROM generate_series(1, $1::integer)
    """,
    """
    INSERT INTO revocations (user_id, generation, revoked_at)
    SELECT gen_random_uuid(), 1, now() - interval '1 day' FROM generate_series(1, $1::integer)
    """,
)
"""Of each table with a time until which a row waits, or after which it counts no more."""

IS_DUE = re.compile(r"\w_at (?:<=|>) (?:now|statement_timestamp|clock_timestamp|_now)\b")

CLAIMS = (
    "sale of a unit",
    "order cancelled",
    "payment by intent, and its refund",
    "messages",
    "sweep",
    "due payments",
    "due refunds",
    "revocations",
    "budget of the provider",
    "change of a product",
)
"""The regular work that finds rows by their time."""


async def test_claims_read_no_row_that_is_not_due(settings, db):
    found = {
        name
        for name, text in statements().items()
        if name.partition(".")[0] not in {*EXCUSED, "invariants_recent"} and IS_DUE.search(with_functions(text))
    }
    async with open_services(settings) as services, open_jobs(settings, name="test") as jobs:
        shop = Shop(services, jobs)
        await shop.open()
        work = shop.work()

        async def read():
            with counting() as most:
                for name in CLAIMS:
                    await work[name]()
            return {name: most.get(name, Read()).pages for name in found}

        few = await read()
        await db.execute("SET session_replication_role = replica")
        for statement in NOT_YET:
            await db.execute(statement, PENDING)
        await db.execute("ANALYZE; SET enable_seqscan = off")
        await read()  # plans again, which reads pages of the catalogue
        many = await read()
        [[walked]] = await db.fetch(EXPLAIN + "SELECT wake_refunds_v1(10, interval '1 s')")
    assert {name for name, pages in few.items() if not pages} <= set(SELDOM), "each claim was tried"
    assert {name: (few[name], pages) for name, pages in many.items() if pages > AIM * few[name] + DEPTH_PAGES} == {}
    assert json.loads(walked)[0]["Plan"]["Shared Hit Blocks"] > 2 * DEPTH_PAGES, (
        "with a time that changes from row to row"
    )


async def test_regular_work_reads_no_history(settings, db):
    async with open_services(settings) as services, open_jobs(settings, name="test") as jobs:
        shop = Shop(services, jobs)
        await shop.open()
        work = shop.work()

        async def read():
            for do in work.values():
                await do()
            with counting() as most:
                for do in work.values():
                    await do()
            return most

        young = await read()
        await add_old_orders(db, ORDERS)
        await shop.reopen(await old_paid_orders(db, 3))
        old = await read()
        bad = [one for one in await jobs.invariants.check(overdue_s=60, stuck_s=600) if one.violations]
    assert [(one.invariant, one.promise[:60], one.violations, one.sample[:1]) for one in bad] == [], (
        "the orders are as right as if they had been sold"
    )
    left_out = {name for name in statements() if name.partition(".")[0] not in EXCUSED} - set(old) - set(SELDOM)
    assert not left_out, f"each statement is regular work, or seldom: {sorted(left_out)}"
    more = {name: (young.get(name, Read()), most) for name, most in old.items()}
    too_much = {
        name: (few, most)
        for name, (few, most) in more.items()
        if most.pages > AIM * few.pages + DEPTH_PAGES or most.rows > AIM * few.rows + MORE_ROWS
    }
    assert not too_much, too_much


async def test_staff_are_found_without_a_look_at_the_accounts_of_buyers(settings, db):
    async with open_services(settings) as services:
        await services.users.create_buyers(3_000, prefix="buyer")
        await db.execute("ANALYZE users")
        with counting() as most:
            await services.users.staff()
            await services.users.administrators()
    # What the services read by themselves meanwhile is none of this.
    assert (most["users.staff"].rows, most["users.administrators"].rows) == (0, 0)
