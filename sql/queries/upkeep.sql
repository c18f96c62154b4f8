-- name: carry
-- Carries the totals of final orders forward; gives how many orders were looked at.
SELECT carry_orders_v2($1, $2) AS orders;

-- name: delete_voids
-- Deletes up to $2 void requests whose ids are older than $1: accepts refuse such ids by their age. Gives how many.
WITH deleted AS (
    DELETE FROM requests
    WHERE order_id IN (
        SELECT r.order_id
        FROM requests AS r
        WHERE r.kind = 'void' AND r.order_id < first_order_id_v1(now() - $1::interval)
        ORDER BY r.order_id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING order_id
)
SELECT count(*)::integer AS voids FROM deleted;

-- name: delete_admin_keys
-- Deletes up to $2 keys of administrators that are older than $1. Gives how many.
WITH deleted AS (
    DELETE FROM admin_requests
    WHERE (user_id, key) IN (
        SELECT a.user_id, a.key
        FROM admin_requests AS a
        WHERE a.created_at < now() - $1::interval
        ORDER BY a.created_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING key
)
SELECT count(*)::integer AS keys FROM deleted;

-- name: delete_jobs
-- Deletes up to $2 jobs that ended without success and were deferred longer ago than $1. Gives how many.
WITH deleted AS (
    DELETE FROM procrastinate_jobs
    WHERE id IN (
        SELECT j.id
        FROM procrastinate_jobs AS j
        WHERE j.status IN ('failed', 'cancelled', 'aborted') AND NOT EXISTS (
            SELECT 1 FROM procrastinate_events AS e WHERE e.job_id = j.id AND e.at >= now() - $1::interval
        )
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id
)
SELECT count(*)::integer AS jobs FROM deleted;

-- name: delete_webhooks
-- Deletes up to $2 webhooks that were taken and are older than $1: the provider sends them again for three days at most,
-- and what is older is refused by its age. Gives how many.
WITH deleted AS (
    DELETE FROM webhook_events
    WHERE (provider, event_id) IN (
        SELECT e.provider, e.event_id
        FROM webhook_events AS e
        WHERE e.received_at < now() - $1::interval AND e.taken_at IS NOT NULL
        ORDER BY e.received_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING event_id
)
SELECT count(*)::integer AS webhooks FROM deleted;

-- name: delete_revocations
-- Deletes up to $2 revocations that are older than $1: no token is. Gives how many.
WITH deleted AS (
    DELETE FROM revocations
    WHERE user_id IN (
        SELECT r.user_id
        FROM revocations AS r
        WHERE r.revoked_at < now() - $1::interval
        ORDER BY r.revoked_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING user_id
)
SELECT count(*)::integer AS revocations FROM deleted;

-- name: delete_told
-- Deletes up to $3 messages that ended with outcome $1 longer ago than $2. Gives how many.
WITH deleted AS (
    DELETE FROM outbox
    WHERE message_id IN (
        SELECT o.message_id
        FROM outbox AS o
        WHERE o.due_at IS NULL AND o.outcome = $1 AND o.ended_at < now() - $2::interval
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    )
    RETURNING message_id
)
SELECT count(*)::integer AS messages FROM deleted;

-- name: delete_orphans
-- Deletes up to $1 messages to targets that are gone: written while the target was removed. Gives how many.
WITH deleted AS (
    DELETE FROM outbox
    WHERE message_id IN (
        SELECT o.message_id
        FROM outbox AS o
        WHERE
            o.due_at < now() - interval '1 hour'
            AND NOT EXISTS (SELECT 1 FROM outbox_targets AS t WHERE t.target_id = o.target_id)
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    )
    RETURNING message_id
)
SELECT count(*)::integer AS messages FROM deleted;
