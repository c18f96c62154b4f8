-- name: orders_by_status
-- Counts orders by status, with the age in seconds of the one that changed longest ago.
SELECT
    status, count(*) AS orders, extract(EPOCH FROM clock_timestamp() - min(updated_at))::float8 AS oldest_s
FROM orders
GROUP BY status;

-- name: jobs_by_queue
-- Counts jobs by queue and status.
SELECT queue_name AS queue, status::text, count(*) AS jobs FROM procrastinate_jobs GROUP BY queue_name, status;

-- name: notify_queue
-- Share of the server's notification queue in use, 0 to 1.
SELECT pg_notification_queue_usage() AS usage;
