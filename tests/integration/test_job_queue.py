import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import asyncpg
import pytest
from procrastinate import App, exceptions, sql
from procrastinate.jobs import Status

from flashsale.adapters.postgres import job_queue
from flashsale.adapters.postgres.job_queue import QUERIES, JobQueue, _numbered
from tests.conftest import make_settings
from tests.faults.proxy import Proxy
from tests.support.job_queue import count, put, run
from workers.app import build_app

LOCKS = "FOR UPDATE OF j SKIP LOCKED"
NAME = "test-jobs"
SOON_S = 20


@asynccontextmanager
async def opened(settings, *, slots=10):
    queue = JobQueue(settings.postgres, name=NAME, slots=slots)
    await queue.open_async()
    try:
        yield queue
    finally:
        await queue.close_async()


async def fetch(queue, worker_id, *queues):
    job = await queue.execute_query_one_async(
        sql.queries["fetch_job"], queues=[*queues] or ["work"], worker_id=worker_id
    )
    return job["id"]


async def finish(queue, job_id):
    await queue.execute_query_async(sql.queries["finish_job"], job_id=job_id, status="succeeded", delete_job=True)


async def registered(db):
    return await db.fetchval("SELECT procrastinate_register_worker_v1()")


async def until(db, query, *arguments):
    """Wait until a query gives something; returns it."""
    async with asyncio.timeout(SOON_S):
        while not (found := await db.fetchval(query, *arguments)):
            await asyncio.sleep(0.01)
    return found


async def drain(settings, work):
    """Run a worker until its queue is empty."""
    app = App(connector=JobQueue(settings.postgres, name=NAME, slots=7))
    app.task(name="work")(work)
    async with app.open_async():
        await run(app)


# --- taking ---------------------------------------------------------------------------------------------------------


async def test_many_workers_take_each_job_exactly_once(settings, db):
    await put(db, 300)
    done = Counter()

    async def work(number):
        done[number] += 1
        await asyncio.sleep(0)

    await asyncio.gather(*(drain(settings, work) for _ in range(5)))
    assert done == dict.fromkeys(range(1, 301), 1)
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs") == 0


async def taken_by_two(db, postgres_url, text, *, waits):
    await put(db, 10)
    rival, looker = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    try:
        async with db.transaction():
            first = await db.fetch(text, ["work"], None, 5)
            taking = asyncio.create_task(rival.fetch(text, ["work"], None, 5))
            if waits:
                await until(
                    looker,
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'",
                    rival.get_server_pid(),
                )
            else:
                await asyncio.wait_for(asyncio.shield(taking), SOON_S)
        return {row["id"] for row in first}, {row["id"] for row in await taking}
    finally:
        await rival.close()
        await looker.close()


async def test_jobs_that_another_worker_is_taking_are_passed_over_without_waiting(db, postgres_url):
    first, second = await taken_by_two(db, postgres_url, QUERIES["fetch"].text, waits=False)
    assert (len(first), len(second)) == (5, 5)
    assert first.isdisjoint(second)


async def test_the_control_without_row_locks_takes_jobs_twice(db, postgres_url):
    assert LOCKS in QUERIES["fetch"].text
    first, second = await taken_by_two(db, postgres_url, QUERIES["fetch"].text.replace(LOCKS, ""), waits=True)
    assert first == second


async def test_a_group_is_what_procrastinate_would_take_one_by_one(settings, db):
    for priority in (0, 5, 1):
        await put(db, 2, priority=priority)
    await put(db, 3, lock="a")
    await put(db, 2, lock="b", priority=3)
    await put(db, 2, queue="other", priority=9)
    await db.execute("UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 day' WHERE id = 2")
    await db.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = 10")
    worker = await registered(db)
    undone = db.transaction()
    await undone.start()
    one_by_one = []
    while (job_id := await db.fetchval("SELECT id FROM procrastinate_fetch_job_v2('{work}', $1)", worker)) is not None:
        one_by_one.append(job_id)
    await undone.rollback()
    async with opened(settings, slots=100) as queue:
        group = [await fetch(queue, worker) for _ in one_by_one]
        assert await fetch(queue, worker) is None
    assert group == one_by_one
    assert len(group) == 6


async def test_a_worker_holds_no_more_jobs_than_it_has_room_for(settings, db):
    await put(db, 10)
    worker = await registered(db)
    async with opened(settings, slots=3) as queue:
        jobs = [await fetch(queue, worker)]
        assert await count(db, "doing") == 3
        jobs += [await fetch(queue, worker) for _ in range(2)]
        await finish(queue, jobs[0])
        assert await fetch(queue, worker)
        assert await count(db, "doing") == 3


# --- ending ---------------------------------------------------------------------------------------------------------


async def test_jobs_that_end_together_are_deleted_together_also_if_one_is_gone(settings, db):
    job_ids = await put(db, 50)
    async with opened(settings, slots=50) as queue:
        for _ in job_ids:
            await fetch(queue, None)
        await db.execute("DELETE FROM procrastinate_jobs WHERE id = $1", job_ids[7])
        await asyncio.gather(*(finish(queue, job_id) for job_id in job_ids))
        assert queue._deleting.batches < 10
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs") == 0


async def test_a_job_that_fails_leaves_the_others_of_its_group_alone(settings, db):
    job_ids = await put(db, 20)

    async def work(number):
        if number == 3:
            raise RuntimeError("refused")

    await drain(settings, work)
    left = await db.fetch("SELECT id, status::text FROM procrastinate_jobs")
    assert [tuple(row) for row in left] == [(job_ids[2], "failed")]


async def test_a_connection_that_is_lost_while_a_job_ends_leaves_no_job_behind(settings, db, postgres_url):
    [job_id] = await put(db, 1)
    holder = await asyncpg.connect(postgres_url)
    async with opened(settings) as queue:
        assert await fetch(queue, None) == job_id
        async with holder.transaction():
            await holder.execute("SELECT FROM procrastinate_jobs FOR UPDATE")
            ending = asyncio.create_task(finish(queue, job_id))
            waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
            pid = await until(db, f"{waiting} AND datname = current_database()", NAME)
            assert await db.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        await ending
    await holder.close()
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs") == 0


async def test_a_database_that_is_away_is_procrastinates_error(postgres_url, valkey):
    async with Proxy(postgres_url) as proxy, opened(make_settings(proxy.url, valkey.url)) as queue:
        proxy.down()
        with pytest.raises(exceptions.ConnectorException):
            await fetch(queue, None)
        with pytest.raises(exceptions.ConnectorException):
            await finish(queue, 1)
        with pytest.raises(exceptions.ConnectorException):
            await queue.execute_query_async(sql.queries["update_heartbeat"], worker_id=1)
        proxy.up()
        assert await fetch(queue, None) is None


# --- listening and stopping -----------------------------------------------------------------------------------------

LISTENING = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%' AND datname = current_database()"


@asynccontextmanager
async def listening(queue, db, told):
    async def tell(*, channel, payload):
        told.put_nowait((channel, payload))

    task = asyncio.create_task(queue.listen_notify(tell, ["procrastinate_queue_v1#work"]))
    yield await until(db, LISTENING, f"{NAME}-listen")
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_new_jobs_are_told_and_a_lost_listening_connection_is_made_again(settings, db, monkeypatch):
    monkeypatch.setattr(job_queue, "RECONNECT_S", 0.01)
    told = asyncio.Queue()
    async with opened(settings) as queue, listening(queue, db, told) as pid:
        await put(db, 3)
        channel, payload = await asyncio.wait_for(told.get(), SOON_S)
        assert (channel, '"job_inserted"' in payload) == ("procrastinate_queue_v1#work", True)
        await db.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        await until(db, f"{LISTENING} AND pid <> $2", f"{NAME}-listen", pid)
        while not told.empty():
            told.get_nowait()
        await put(db, 1)
        await asyncio.wait_for(told.get(), SOON_S)


async def test_a_request_to_abort_is_passed_on_for_each_job(settings, db):
    job_ids = await put(db, 3)
    told = asyncio.Queue()
    async with opened(settings) as queue, listening(queue, db, told):
        await fetch(queue, None)
        await db.execute("UPDATE procrastinate_jobs SET abort_requested = true")
        said = {(await asyncio.wait_for(told.get(), SOON_S))[1] for _ in job_ids}
    assert all(any(f": {job_id}}}" in payload for payload in said) for job_id in job_ids)


@asynccontextmanager
async def announced_during_a_fetch(queue, db, holder):
    """Announce jobs while a fetch waits for their table; returns the fetch, which goes on afterwards."""
    async with holder.transaction():
        await holder.execute("LOCK TABLE procrastinate_jobs")
        fetching = asyncio.create_task(fetch(queue, None))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
        await until(db, waiting, NAME)
        await db.execute("""SELECT pg_notify('procrastinate_queue_v1#work', '{"type": "job_inserted"}')""")
        yield fetching


async def test_a_worker_is_not_told_of_jobs_while_it_fetches_because_it_would_forget(settings, db, postgres_url):
    told = asyncio.Queue()
    holder = await asyncpg.connect(postgres_url)
    async with opened(settings) as queue, listening(queue, db, told):
        async with announced_during_a_fetch(queue, db, holder) as fetching:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(told.get(), 0.2)
            assert not fetching.done()
        assert await fetching is None
        await asyncio.wait_for(told.get(), SOON_S)
    await holder.close()


async def test_after_the_last_job_a_worker_hears_once_without_a_statement_that_there_is_none(settings, db):
    async with opened(settings) as queue:
        first = (await put(db, 1))[0]
        assert await fetch(queue, None) == first
        second = (await put(db, 1))[0]
        assert await fetch(queue, None) is None, "nobody listens"
        assert await fetch(queue, None) == second
        assert await fetch(queue, None) is None
        async with listening(queue, db, told := asyncio.Queue()):
            third = (await put(db, 1))[0]
            await asyncio.wait_for(told.get(), SOON_S)
            assert await fetch(queue, None) == third
            fourth = (await put(db, 1))[0]
            await asyncio.wait_for(told.get(), SOON_S)
            assert await fetch(queue, None) == fourth, "announced after the statement"


async def test_a_job_that_is_announced_during_a_fetch_is_asked_for(settings, db, postgres_url):
    first = (await put(db, 1))[0]
    holder = await asyncpg.connect(postgres_url)
    async with opened(settings) as queue, listening(queue, db, told := asyncio.Queue()):
        async with announced_during_a_fetch(queue, db, holder) as fetching:
            await until(db, "SELECT pg_notification_queue_usage() = 0")
        assert await fetching == first
        await asyncio.wait_for(told.get(), SOON_S)
        await holder.execute("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
        second = (await put(holder, 1))[0]
        await holder.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
        assert await fetch(queue, None) == second
    await holder.close()


async def test_a_worker_that_stops_gives_back_what_it_has_not_begun(settings, db):
    job_ids = await put(db, 5)
    worker = await registered(db)
    async with opened(settings) as queue:
        async with listening(queue, db, asyncio.Queue()):
            begun = await fetch(queue, worker)
            assert await count(db, "doing") == 5
        left = await db.fetch("SELECT id, worker_id FROM procrastinate_jobs WHERE status = 'todo' ORDER BY id")
        assert [tuple(row) for row in left] == [(job_id, None) for job_id in job_ids if job_id != begun]


async def test_a_worker_that_came_too_late_to_give_jobs_back_takes_them_from_nobody(settings, db):
    await put(db, 5)
    late, next_one = await registered(db), await registered(db)
    async with opened(settings) as queue:
        async with listening(queue, db, asyncio.Queue()):
            await fetch(queue, late)
            await db.execute("UPDATE procrastinate_jobs SET worker_id = $1", next_one)
        assert await count(db, "doing") == 5


# --- the rest of the queue ------------------------------------------------------------------------------------------


async def test_each_statement_of_procrastinates_can_be_prepared(db):
    for name in sql.queries.keys() - {"listen_queue"}:
        await db.prepare(_numbered(sql.queries[name])[0])


async def test_a_periodic_job_is_deferred_once_and_not_while_one_waits(settings):
    async with build_app(settings).open_async() as app:
        manager = app.job_manager

        async def defer(timestamp):
            job = app.tasks["maintenance:sweep"].configure(task_kwargs={"timestamp": timestamp}).job
            return await manager.defer_periodic_job(job, "", timestamp)

        assert await defer(1)
        assert await defer(1) is None
        with pytest.raises(exceptions.AlreadyEnqueued):
            await defer(2)
        [job] = await manager.list_jobs_async(queue="maintenance")
        assert (job.task_kwargs, job.queueing_lock) == ({"timestamp": 1}, "sweep")
        with pytest.raises(exceptions.AlreadyEnqueued):
            await app.tasks["maintenance:sweep"].defer_async(timestamp=3)
        assert [row["todo"] for row in await manager.list_queues_async()] == [1]


async def test_the_jobs_of_silent_workers_are_stalled_and_those_of_others_are_not(settings, db):
    job_ids = await put(db, 2)
    async with build_app(settings).open_async() as app:
        manager = app.job_manager
        silent, alive = await manager.register_worker(), await manager.register_worker()
        jobs = [await manager.fetch_job(["work"], worker) for worker in (silent, alive)]
        assert [job.id for job in jobs] == job_ids
        await db.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
        await manager.update_heartbeat(alive)
        assert [job.id for job in await manager.get_stalled_jobs(seconds_since_heartbeat=10.5)] == [job_ids[0]]
        assert await manager.prune_stalled_workers(10.5) == [silent]
        await manager.unregister_worker(alive)
        assert len(list(await manager.get_stalled_jobs(seconds_since_heartbeat=10.5))) == 2


async def test_maintenance_rescues_tidies_sweeps_and_reconciles(settings, jobs, db):
    orphan, old, fresh = await put(db, 3)
    await db.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    await db.execute("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = ANY($1)", [old, fresh])
    await db.execute("UPDATE procrastinate_events SET at = now() - interval '2 days' WHERE job_id = $1", old)
    for task in ("rescue", "tidy", "sweep", "reconcile"):
        await db.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('maintenance', $1, '{\"timestamp\": 0}')",
            f"maintenance:{task}",
        )
    async with build_app(settings, roles=["maintenance"], concurrency=4).open_async() as app:
        await run(app, queues=["maintenance"], additional_context={"jobs": jobs, "stalled_s": 10.0})
    left = await db.fetch("SELECT id, status FROM procrastinate_jobs WHERE queue_name = 'work'")
    assert [tuple(row) for row in left] == [(fresh, Status.FAILED.value)]
    assert orphan
    assert await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'") == 1
