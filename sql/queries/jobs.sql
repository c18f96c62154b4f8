-- name: fetch
-- Takes up to $3 waiting jobs of the queues $1 for the worker $2: the most urgent first, among these the oldest. What
-- procrastinate_fetch_job_v2 does for one: jobs that others take at the same time are skipped, and of jobs that share
-- a lock only the first one that waits is taken, once none of them runs.
WITH candidates AS (
    SELECT j.id
    FROM procrastinate_jobs AS j
    WHERE j.status = 'todo'
        AND j.queue_name = ANY($1::varchar [])
        AND (j.scheduled_at IS NULL OR j.scheduled_at <= now())
        AND (
            j.lock IS NULL
            OR NOT EXISTS (
                SELECT 1
                FROM procrastinate_jobs AS o
                WHERE o.lock = j.lock
                    AND (
                        o.status = 'doing'
                        OR (
                            o.status = 'todo'
                            AND (o.priority > j.priority OR (o.priority = j.priority AND o.id < j.id))
                        )
                    )
            )
        )
    ORDER BY j.priority DESC, j.id ASC
    LIMIT $3
    FOR UPDATE OF j SKIP LOCKED
),
taken AS (
    UPDATE procrastinate_jobs AS j
    SET status = 'doing', worker_id = $2
    FROM candidates AS c
    WHERE j.id = c.id
    RETURNING j.*
)
SELECT
    t.id, t.status::text AS status, t.task_name, t.priority, t.lock, t.queueing_lock, t.args, t.scheduled_at,
    t.queue_name, t.attempts, t.worker_id
FROM taken AS t
ORDER BY t.priority DESC, t.id ASC;

-- name: delete
-- Deletes finished jobs. A job that is already deleted is no error.
DELETE FROM procrastinate_jobs WHERE id = ANY($1::bigint []) AND status IN ('todo', 'doing');

-- name: give_back
-- Lets jobs that the worker $2 took and has not begun wait again.
UPDATE procrastinate_jobs
SET status = 'todo', worker_id = NULL
WHERE id = ANY($1::bigint []) AND worker_id = $2 AND status = 'doing' AND NOT abort_requested;

-- name: fail
-- Keeps jobs that failed for people who look into them; gives the queue of each.
UPDATE procrastinate_jobs
SET status = 'failed', abort_requested = false, attempts = attempts + 1
WHERE id = ANY($1::bigint []) AND status IN ('todo', 'doing')
RETURNING queue_name AS queue;

-- name: trim_failed
-- Deletes jobs of the queue $1 that ended without success, but the newest $2 of them, up to $3 at once.
DELETE FROM procrastinate_jobs
WHERE id IN (
    SELECT j.id
    FROM procrastinate_jobs AS j
    WHERE j.status IN ('failed', 'cancelled', 'aborted') AND j.queue_name = $1
    ORDER BY j.id DESC
    LIMIT $3
    OFFSET $2
    FOR UPDATE SKIP LOCKED
);
