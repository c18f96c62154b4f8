"""Put jobs into the queue, and run them."""


async def put(db, count, *, task="work", queue="work", **columns):
    """Put jobs into a queue; returns their ids."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", ${place}" for place, _ in enumerate(columns, 4))
    rows = await db.fetch(
        f"INSERT INTO procrastinate_jobs (queue_name, task_name, args{names}) "
        f"SELECT $1, $2, jsonb_build_object('number', n){values} FROM generate_series(1, $3::integer) AS n RETURNING id",
        queue,
        task,
        count,
        *columns.values(),
    )
    return [row["id"] for row in rows]


async def count(db, status):
    return await db.fetchval("SELECT count(*) FROM procrastinate_jobs WHERE status::text = $1", status)


def run(app, **changes):
    return app.run_worker_async(
        **{
            "queues": ["work"],
            "concurrency": 7,
            "wait": False,
            "delete_jobs": "successful",
            "install_signal_handlers": False,
            **changes,
        }
    )
