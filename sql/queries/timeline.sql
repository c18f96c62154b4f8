-- name: adopt
-- Gives the base of the time line; begins a new one if the server or its data is another than before.
SELECT adopt_timeline_v1();

-- name: read_only
-- Whether this session's transactions are read-only, as on a standby.
SELECT current_setting('transaction_read_only')::boolean;
