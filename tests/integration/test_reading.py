"""No periodic work reads history: the tests compare pages, not time, with a shop without old orders."""

from flashsale.bootstrap import open_jobs, open_services
from tests.growth.old_orders import add_old_orders, add_old_payments
from tests.growth.reading import counting_pages, statements
from tests.growth.regular_work import PROVIDER, Shop

ORDERS = 20_000
"""Some 500 pages of orders and 900 of their events: more than any statement of the regular work may read."""

AIM = 2
DEPTH_PAGES = 120
"""What larger indexes may cost in addition to the aim: one or two more pages for each of some sixty look-ups. A
statement that reads a whole table of the history reads more than 300."""

EXCUSED = {
    "audit": "`flashsale audit` reads everything",
    "invariants": "the minute audit has its own instead of those over whole tables",
    "timeline": "a table of one row",
    "health": "says what the server can do",
    "schema": "reads the catalogue of tables and functions",
    "jobs": "jobs that are done are deleted: there is no history",
}
"""Files whose statements may be left out of the regular work."""

SELDOM = {
    "acceptance.accepted": "after a lost COMMIT; looks orders up by id",
    "gate_books.owed": "a gate that counts wrong; reads one product and its returns",
    "orders.postpone": "an order that Postgres refuses; looks it up by id",
    "users.set_password": "by hand",
    "users.buyers": "accounts that a load test makes",
    "users.create_buyers": "the same",
    "administration.keep": "by the key of a request",
    "payments.announce": "a second attempt; by its number",
    "products.recount_limits": "a change of what a limit counts; reads the live orders of one product",
    "users.create_admin": "looks nothing up",
    "users.create_buyer": "looks nothing up",
    "users.set_role": "by hand",
    "outbox.tell_buyers": "at the start of a worker; one row",
    "outbox.tell_no_buyer": "at the start of a worker; finds something only after mail was turned off",
    "outbox.add_endpoint": "by hand",
    "outbox.list_targets": "by hand",
    "outbox.remove_endpoint": "by hand",
    "outbox.dead_messages": "by hand",
    "outbox.resend_messages": "by hand",
    "settlement.settled_orders": "by hand; a settlement reads every order, page by page",
}
"""Statements that may, too."""


async def test_regular_work_reads_no_history(settings, db):
    async with open_services(settings) as services, open_jobs(settings, name="test") as jobs:
        shop = Shop(services, jobs)
        await shop.open()
        work = shop.work()

        async def read():
            for do in work.values():
                await do()
            with counting_pages() as pages:
                for do in work.values():
                    await do()
            return pages

        young = await read()
        await add_old_orders(db, ORDERS)
        await add_old_payments(db, PROVIDER)
        old = await read()
    left_out = {name for name in statements() if name.partition(".")[0] not in EXCUSED} - set(old) - set(SELDOM)
    assert not left_out, f"each statement is regular work, or seldom: {sorted(left_out)}"
    more = {name: (young.get(name, 0), pages) for name, pages in old.items()}
    assert {name: (few, many) for name, (few, many) in more.items() if many > AIM * few + DEPTH_PAGES} == {}
