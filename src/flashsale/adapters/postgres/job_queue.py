"""procrastinate's connector over asyncpg: jobs are taken and deleted in groups. `sql/queries/jobs.sql`.

A worker of procrastinate fetches and ends jobs one by one. Here one statement fetches as many jobs as the worker has
room for, and the next calls are answered from these jobs. Jobs that end while a statement runs are deleted by the
next statement. Failed jobs are written in groups too, and only the newest of each queue are kept, because in an outage
the job of every order fails repeatedly. All other SQL is procrastinate's own.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter as Tally
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from procrastinate import exceptions, sql
from procrastinate.connector import BaseAsyncConnector
from procrastinate.jobs import Status

from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.failures import AWAY, told
from flashsale.adapters.postgres.hearing import Hearing
from flashsale.adapters.postgres.queries import load
from flashsale.adapters.postgres.timeline import takes_writes
from flashsale.domain.errors import Unavailable
from flashsale.runtime.outages import Outage
from flashsale.runtime.shared_metrics import Counter
from flashsale.usecases.batching import Batcher
from flashsale.usecases.figures import QUEUES
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from procrastinate.connector import Notify

    from flashsale.settings.groups import PostgresSettings

log = structlog.get_logger(__name__)

QUERIES = load("queries/jobs.sql")

FETCH_MAX = 100
"""Maximum number of jobs in one fetch, so that the first worker leaves jobs to the others."""

DELETE_MAX = 500
WAITING_MAX = 10_000
"""Ended jobs that wait for the next statement; there are never more than a worker runs at once."""

FAILED_KEPT = 100
"""The number of jobs that ended without success and are kept, per queue; the newest stay."""

HEARTBEAT_S = 5.0
"""How often to check that an idle listening connection works, and that its server takes writes."""

ANSWER_S = 5.0
"""Maximum wait for the answer to this check."""

RECONNECT_S = 1.0

FAILURES = Counter("flashsale_job_failures", "Jobs that failed, by queue.", ["queue"])
for _queue in QUEUES:
    FAILURES.labels(_queue)

_PARAMETER = re.compile(r"%\((\w+)\)s(\s*\|\|)?")


class JobQueue(BaseAsyncConnector):
    """The connector of one worker. Errors of the database are ConnectorException."""

    def __init__(self, settings: PostgresSettings, *, name: str, slots: int) -> None:
        """Hold at most `slots` jobs, as many as the worker runs at once; the server shows `name` as the client."""
        self._database = Database(settings, name=name, init=_read_json)
        self._slots = slots
        self._outage = Outage(log, back="jobs.listening")
        self._worker_id: int | None = None
        self._taken: deque[dict[str, Any]] = deque()
        """Jobs that the worker has not asked for yet."""
        self._announced = 0
        """How often new jobs were announced."""
        self._none_left = False
        """Whether the last statement left no job, and none was announced since it began."""
        self._running: set[int] = set()
        self._fetching = asyncio.Lock()
        self._deleting: Batcher[int, None] = Batcher(self._delete, batch_max=DELETE_MAX, queue_max=WAITING_MAX)
        self._failing: Batcher[int, None] = Batcher(self._fail, batch_max=DELETE_MAX, queue_max=WAITING_MAX)

    def get_sync_connector(self) -> JobQueue:
        """Return itself: the base class runs its methods in a separate loop."""
        return self

    async def open_async(self, pool: object = None) -> None:  # noqa: ARG002 - the interface's
        """Create the pool. If the server is down, the first statement fails."""
        await self._database.open()

    async def close_async(self) -> None:
        """Close every connection."""
        await self._deleting.drain()
        await self._failing.drain()
        await self._database.close()

    async def execute_query_async(self, query: str, **arguments: Any) -> None:
        """Run a statement of procrastinate's."""
        try:
            if query == sql.queries["finish_job"] and arguments["delete_job"]:
                await self._finish(self._deleting, arguments["job_id"])
            elif query == sql.queries["finish_job"] and arguments["status"] == Status.FAILED.value:
                await self._finish(self._failing, arguments["job_id"])
            else:
                await self._execute(query, arguments)
        finally:
            # The job is finished or put back for another try. A failed statement frees the worker's slot too.
            self._running.discard(arguments.get("job_id", 0))

    async def execute_query_one_async(self, query: str, **arguments: Any) -> dict[str, Any]:
        """Run a statement of procrastinate's and return its first row.

        Raises:
            NoResult: if there is none.
        """
        if query == sql.queries["fetch_job"]:
            return await self._fetch(**arguments)
        rows = await self._execute(query, arguments)
        if not rows:
            raise exceptions.NoResult
        return rows[0]

    async def execute_query_all_async(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        """Run a statement of procrastinate's and return its rows."""
        return await self._execute(query, arguments)

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Pass notifications on until cancelled; a worker cancels this when it begins to stop.

        While the connection is lost the worker finds its jobs by polling.
        """
        try:
            while True:
                try:
                    await self._listen(on_notification, list(channels))
                except (*AWAY, asyncpg.PostgresError) as error:
                    self._outage.tell("jobs.not_listening", error=type(error).__name__, problem=told(error))
                await asyncio.sleep(RECONNECT_S)
        finally:
            await self._give_back()

    async def _fetch(self, queues: Sequence[str], worker_id: int) -> dict[str, Any]:
        async with self._fetching:
            if not self._taken and not self._none_left:
                announced = self._announced
                self._worker_id = worker_id
                limit = max(1, min(FETCH_MAX, self._slots - len(self._running)))
                try:
                    rows = await self._database.fetch(QUERIES["fetch"], queues, worker_id, limit)
                except (Unavailable, PoisonBatch) as error:
                    raise exceptions.ConnectorException(str(error)) from error
                self._taken.extend(map(dict, rows))
                self._none_left = len(rows) < limit and announced == self._announced
        if not self._taken:
            # Answered once without a statement: a worker asks again after a notification or as a poll.
            self._none_left = False
            return {"id": None}
        job = self._taken.popleft()
        self._running.add(job["id"])
        return job

    async def _finish(self, ending: Batcher[int, None], job_id: int) -> None:
        try:
            await ending.submit(job_id)
        except (Unavailable, PoisonBatch) as error:
            raise exceptions.ConnectorException(str(error)) from error

    async def _delete(self, job_ids: list[int]) -> list[None]:
        try:
            await self._database.fetch(QUERIES["delete"], job_ids)
        except Unavailable:
            # Perhaps only this connection is lost, so try again; a second execution does no harm.
            await self._database.fetch(QUERIES["delete"], job_ids)
        return [None] * len(job_ids)

    async def _fail(self, job_ids: list[int]) -> list[None]:
        failed = Tally(row["queue"] for row in await self._database.fetch(QUERIES["fail"], job_ids))
        for queue, jobs in failed.items():
            FAILURES.labels(queue).inc(jobs)
            await self._database.fetch(QUERIES["trim_failed"], queue, FAILED_KEPT, DELETE_MAX)
        return [None] * len(job_ids)

    async def _give_back(self) -> None:
        """Put back jobs that were fetched and not begun, for another worker."""
        job_ids = [job["id"] for job in self._taken]
        self._taken.clear()
        if job_ids:
            log.info("jobs.given_back", jobs=len(job_ids))
            try:
                await self._database.fetch(QUERIES["give_back"], job_ids, self._worker_id)
            except (Unavailable, PoisonBatch) as error:
                # The jobs are lost with this worker; the sweep gives their orders new ones.
                log.warning("jobs.not_given_back", error=str(error))

    async def _listen(self, on_notification: Notify, channels: list[str]) -> None:
        """Pass notifications on until the connection is lost."""
        heard: dict[str, tuple[str, str]] = {}
        something = asyncio.Event()

        def receive(_connection: object, _pid: int, channel: str, payload: object) -> None:
            # One notification of new jobs is enough; each request to abort a job must be passed on.
            self._announced += 1
            self._none_left = False
            heard[channel if '"job_inserted"' in str(payload) else str(payload)] = channel, str(payload)
            something.set()

        connection = await self._database.connect(suffix="-listen", direct=True)
        watching: asyncio.Task[None] | None = None
        try:
            connection.add_termination_listener(lambda _connection: something.set())
            for channel in channels:
                await connection.add_listener(channel, receive)
            hearing = Hearing(self._database)
            await hearing.listen(connection)
            watching = asyncio.create_task(hearing.watch(self._outage.over))
            watching.add_done_callback(lambda _task: something.set())
            while not connection.is_closed():
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await something.wait()
                except TimeoutError:
                    # A server that is cut off answers nothing at all.
                    async with asyncio.timeout(ANSWER_S):
                        if not await takes_writes(connection):
                            raise OSError("the server takes no writes any more") from None
                if watching.done():
                    watching.result()
                # A worker ignores notifications during a fetch, which may have begun before the job existed.
                async with self._fetching:
                    something.clear()
                said = list(heard.values())
                heard.clear()
                for channel, payload in said:
                    await on_notification(channel=channel, payload=payload)
        finally:
            if watching is not None:
                watching.cancel()
            connection.terminate()

    async def _execute(self, query: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        text, names = _numbered(query)
        values = [str(arguments[name]) if is_text else arguments[name] for name, is_text in names]
        try:
            async with self._database.connection() as connection:
                return [dict(row) for row in await connection.fetch(text, *values)]
        except asyncpg.UniqueViolationError as error:
            key = re.search(r"\(queueing_lock\)=\((.*)\)", error.detail or "")
            raise exceptions.UniqueViolation(
                constraint_name=error.constraint_name, queueing_lock=key and key[1]
            ) from error
        except (Unavailable, *AWAY, asyncpg.PostgresError) as error:
            raise exceptions.ConnectorException(str(error)) from error


@cache
def _numbered(query: str) -> tuple[str, tuple[tuple[str, bool], ...]]:
    """Return a statement with `$1 ...` instead of `%(name)s`, and for each parameter its name and whether it is text.

    A parameter that is concatenated is text to Postgres.
    """
    names: dict[str, bool] = {}

    def number(match: re.Match[str]) -> str:
        names[match[1]] = names.get(match[1], False) or match[2] is not None
        return f"${[*names].index(match[1]) + 1}{match[2] or ''}"

    text = _PARAMETER.sub(number, query)
    return text, tuple(names.items())


async def _read_json(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Decode json to objects, and encode objects to json."""
    await connection.set_type_codec("json", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    # Binary, because jobs to defer are composite values; on the wire jsonb is a version byte and text.
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + json.dumps(value).encode(),
        decoder=lambda data: json.loads(data[1:]),
    )
