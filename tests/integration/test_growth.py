"""What is written for each request, order, job or failure has a bound, and nothing that runs for ever reads history."""

import asyncio
import itertools
import uuid

from procrastinate import App
from prometheus_client import REGISTRY

from flashsale.adapters.postgres import job_queue
from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.adapters.postgres.job_queue import JobQueue
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.bootstrap.api import open_services
from flashsale.domain.orders import OrderFilter, OrderStatus
from flashsale.domain.products import PaymentMode
from flashsale.domain.requests import order_id_at
from flashsale.domain.users import Principal, Role
from flashsale.usecases import tidy
from tests.conftest import add_buyers, add_product, make_settings
from tests.support.accepting import accept_one
from tests.support.documents import rows
from tests.support.gates import admit, ask, flushed
from tests.support.job_queue import put, run


async def id_of_age(db, age_s):
    now_ms = await db.fetchval("SELECT floor(extract(EPOCH FROM clock_timestamp()) * 1000)::bigint")
    return order_id_at(now_ms - round(age_s * 1000), uuid.uuid4().bytes[:10])


async def kinds(db):
    return {row["kind"]: row["n"] for row in await db.fetch("SELECT kind, count(*) AS n FROM requests GROUP BY kind")}


async def test_void_requests_go_once_no_accept_takes_their_ids(services, jobs, db, monkeypatch):
    monkeypatch.setattr(tidy, "BATCH", 4)
    product = await add_product(services)
    kept = await accept_one(services, product, (await add_buyers(services, 1))[0])
    acceptance = PostgresAcceptance(services.database, order_due_s=10)
    old = [await id_of_age(db, tidy.VOIDS_KEPT_S + age_s) for age_s in range(1, 12)]
    young = [await id_of_age(db, tidy.VOIDS_KEPT_S - 30), await id_of_age(db, 0)]
    await acceptance.void([*old, *young])
    await jobs.tidy()
    left = {row["order_id"] for row in await db.fetch("SELECT order_id FROM requests")}
    assert left == {*young, kept}


async def test_one_run_of_tidying_ends_and_each_transaction_is_bounded(services, jobs, db, monkeypatch):
    monkeypatch.setattr(tidy, "BATCH", 4)
    monkeypatch.setattr(tidy, "ROUNDS_MAX", 2)
    old = [await id_of_age(db, tidy.VOIDS_KEPT_S + age_s) for age_s in range(1, 12)]
    await PostgresAcceptance(services.database, order_due_s=10).void(old)
    for left in (3, 0):
        await jobs.tidy()
        assert await db.fetchval("SELECT count(*) FROM requests") == left


async def test_several_maintenance_workers_tidy_at_once(services, db):
    old = [await id_of_age(db, tidy.VOIDS_KEPT_S + age_s) for age_s in range(1, 31)]
    await PostgresAcceptance(services.database, order_due_s=10).void(old)
    upkeep = PostgresUpkeep(services.database)
    deleted = await asyncio.gather(*(upkeep.delete_voids(older_s=tidy.VOIDS_KEPT_S, limit=10) for _ in range(3)))
    while more := await upkeep.delete_voids(older_s=tidy.VOIDS_KEPT_S, limit=10):
        deleted.append(more)
    assert sum(deleted) == 30
    assert await db.fetchval("SELECT count(*) FROM requests") == 0


async def test_administrators_keys_are_kept_for_a_day(jobs, db, monkeypatch):
    monkeypatch.setattr(tidy, "BATCH", 4)
    kept_s = tidy.ADMIN_KEYS_KEPT_S
    await db.executemany(
        "INSERT INTO admin_requests (user_id, key, fingerprint, created_at) "
        "VALUES (gen_random_uuid(), 'k', decode(repeat('00', 16), 'hex'), now() - $1 * interval '1 second')",
        [(kept_s + age_s,) for age_s in (-60, -5, *range(5, 15))],
    )
    await jobs.tidy()
    assert await db.fetchval("SELECT count(*) FROM admin_requests") == 2


async def test_handled_webhooks_are_kept_for_thirty_days(jobs, db, monkeypatch):
    monkeypatch.setattr(tidy, "BATCH", 4)
    await db.executemany(
        "INSERT INTO webhook_events (provider, event_id, type, received_at, due_at, taken_at)"
        " SELECT 'stripe', $1, 'x', t.at, CASE WHEN NOT $3 THEN t.at END, CASE WHEN $3 THEN t.at END"
        " FROM (SELECT now() - $2 * interval '1 second' AS at) AS t",
        [
            *((f"old-{age_s}", tidy.WEBHOOKS_KEPT_S + age_s, True) for age_s in range(1, 12)),
            ("young", tidy.WEBHOOKS_KEPT_S - 60, True),
            ("waits", tidy.WEBHOOKS_KEPT_S + 60, False),
        ],
    )
    await jobs.tidy()
    assert {row["event_id"] for row in await db.fetch("SELECT event_id FROM webhook_events")} == {"young", "waits"}


async def test_an_outage_leaves_a_bounded_number_of_failed_jobs(settings, db, monkeypatch):
    monkeypatch.setattr(job_queue, "FAILED_KEPT", 10)
    ids = await put(db, 60)

    async def work(number):
        raise RuntimeError(f"the gateway refuses order {number}")

    def failures():
        return REGISTRY.get_sample_value("flashsale_job_failures_total", {"queue": "work"}) or 0

    before = failures()
    app = App(connector=JobQueue(settings.postgres, name="test-jobs", slots=7))
    app.task(name="work")(work)
    async with app.open_async():
        await run(app)
    rows = await db.fetch("SELECT id, status::text, attempts FROM procrastinate_jobs ORDER BY id")
    assert [row["id"] for row in rows] == ids[-10:]
    assert {(row["status"], row["attempts"]) for row in rows} == {("failed", 1)}
    assert failures() - before == 60
    assert await db.fetchval("SELECT count(DISTINCT job_id) FROM procrastinate_events") == 10


async def test_failed_jobs_go_after_a_day(services, jobs, db):
    ids = await put(db, 4)
    await db.execute("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = ANY($1)", ids[:3])
    await db.execute("UPDATE procrastinate_events SET at = at - interval '25 hours' WHERE job_id <> $1", ids[0])
    await jobs.tidy()
    left = [row["id"] for row in await db.fetch("SELECT id FROM procrastinate_jobs ORDER BY id")]
    assert left == [ids[0], ids[3]], "the young one, and the one that waits"


async def test_lists_of_orders_are_what_a_look_at_every_order_gives(settings, db):
    async with open_services(settings) as services:
        await compare_lists(services, db)


async def compare_lists(services, db):
    products = [await add_product(services, allotment=100) for _ in range(3)]
    users = await add_buyers(services, 8)
    for product, user in itertools.product(products[:2], users):
        await accept_one(services, product, user)
    await db.execute("ALTER TABLE orders DISABLE TRIGGER ALL")
    await db.execute(
        "UPDATE orders SET status = (ARRAY['confirmed', 'failed', 'expired', 'queued'])[1 + n % 4],"
        " due_at = CASE WHEN n % 4 = 3 THEN due_at END"
        " FROM (SELECT order_id AS id, row_number() OVER (ORDER BY md5(order_id::text)) AS n FROM orders) AS numbered"
        " WHERE order_id = id"
    )
    everything = await db.fetch(
        "SELECT o.order_id, o.product_id, o.status, o.created_at, u.email FROM orders AS o"
        " INNER JOIN users AS u ON o.user_id = u.user_id ORDER BY o.order_id DESC"
    )
    ids = [row["order_id"] for row in everything]
    first, last = everything[-3]["created_at"], everything[3]["created_at"]
    for product, status, email, since, until, before, limit in itertools.product(
        [None, products[0], products[2]],
        [None, OrderStatus.CONFIRMED, OrderStatus.QUEUED, OrderStatus.REFUNDED],
        [None, everything[0]["email"], everything[0]["email"].upper(), "nobody@buyers.invalid"],
        [None, first],
        [None, last],
        [None, ids[5]],
        [3],
    ):
        wanted = OrderFilter(
            product_id=product and product.product_id,
            status=status,
            email=email,
            created_from=since,
            created_to=until,
        )
        listed = await services.find_orders(wanted, before=before, limit=limit)
        expected = [
            (row["order_id"], row["email"])
            for row in everything
            if (product is None or row["product_id"] == product.product_id)
            and (status is None or row["status"] == status)
            and (email is None or row["email"] == email.lower())
            and (since is None or row["created_at"] >= since)
            and (until is None or row["created_at"] < until)
            and (before is None or row["order_id"] < before)
        ]
        assert [(one.order.order_id, one.email) for one in listed] == expected[:limit], wanted


async def test_every_table_has_its_bound(db):
    tables = await db.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    assert set(rows("Tables")) == {row["relname"] for row in tables} | {"alembic_version"}


async def test_every_key_of_the_gate_has_its_bound(postgres_url, valkey, redis):
    settings = make_settings(postgres_url, valkey.url, gate={"attempts_per_minute": 100})
    async with open_services(settings) as services:
        product = await add_product(services, limit_per_buyer=5, cooldown_s=600, payment_mode=PaymentMode.BY_BUYER)
        first, second = await add_buyers(services, 2)
        order = await services.buy(ask(product, first, key="k"))
        await services.order_rows.process([order.order_id], payment_due_s=30)
        await services.orders.cancel(order.order_id, Principal(user_id=first, role=Role.BUYER))
        await flushed(services, product, lambda found: found.stock == 10)
        await admit(services, product, second, key="k")
        found = {}
        async for key in redis.scan_iter("*"):
            prefix, product_id, name, *window = key.split(":")
            assert (prefix, product_id, len(window)) == (
                "flashsale",
                f"{{{product.product_id}}}",
                name in {"rate", "tries"},
            )
            found[name] = await redis.ttl(key)
    assert set(rows("Keys of the gate")) == set(found)
    assert all(0 < found[name] <= 62 for name in ("rate", "tries"))
