-- name: replicate
-- Writes to the log of the transaction, so that its COMMIT waits for the synchronous standby, and with it for all that the
-- transaction has read: a COMMIT of reads alone does not wait. Does nothing without such a standby.
SELECT pg_logical_emit_message(true, 'flashsale', '') WHERE current_setting('synchronous_standby_names') <> '';

-- name: backends
-- Gives those of $1 process ids that are sessions of this server.
SELECT pid FROM pg_stat_activity WHERE pid = ANY($1::integer []);
