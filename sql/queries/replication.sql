-- name: replicate
-- Writes to the log of the transaction, so that its COMMIT waits for the synchronous standby, and with it for all that the
-- transaction has read: a COMMIT of reads alone does not wait. Does nothing without such a standby.
SELECT pg_logical_emit_message(true, 'flashsale', '') WHERE current_setting('synchronous_standby_names') <> '';

-- name: backends
-- Gives those of $1 process ids that are sessions of this server, and whether each waits for the synchronous standby.
SELECT pid, coalesce(wait_event = 'SyncRep', false) AS waits FROM pg_stat_activity WHERE pid = ANY($1::integer []);

-- name: any_waits
-- Says whether any session of this user in this database waits for the synchronous standby.
SELECT count(*) > 0 AS waits
FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND usename = current_user AND datname = current_database();
