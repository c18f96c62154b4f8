-- name: product_numbers
-- Reads from where on this database numbers products, and whether it has any.
SELECT s.seqmin AS first_id, EXISTS(SELECT 1 FROM products) AS has_products
FROM pg_sequence AS s
WHERE s.seqrelid = pg_get_serial_sequence('products', 'product_id')::regclass;

-- name: can_be_copied
-- Says whether this server can be copied from.
SELECT current_setting('wal_level') = 'logical' AS logical;

-- name: any_account
-- Says whether this database has an account.
SELECT EXISTS(SELECT 1 FROM users) AS found;

-- name: subscription
-- Reads the subscription with this name ($1), if there is one: whether all that it copies first has arrived, and whether it
-- reads a slot.
SELECT
    coalesce(bool_and(r.srsubstate = 'r'), false) AS complete,
    s.subenabled AND s.subslotname IS NOT NULL AS reads
FROM pg_subscription AS s
LEFT JOIN pg_subscription_rel AS r ON s.oid = r.srsubid
WHERE s.subname = $1 AND s.subdbid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
GROUP BY s.oid;

-- name: first_copy
-- Reads how many accounts the subscription with this name ($1) has copied in the try that runs, and how many tries failed.
SELECT
    f.sync_error_count + f.apply_error_count AS failures,
    coalesce((SELECT sum(p.tuples_processed) FROM pg_stat_progress_copy AS p WHERE p.relid = 'users'::regclass), 0) AS copied
FROM pg_stat_subscription_stats AS f
WHERE f.subname = $1;

-- name: note_earlier_revocations
-- Notes for every copied account that tokens of older generations ended: what came before the copy fired no trigger.
INSERT INTO revocations (user_id, generation, revoked_at)
SELECT user_id, generation, clock_timestamp()
FROM users
WHERE generation > 0
ON CONFLICT (user_id) DO NOTHING;

-- name: published
-- Says whether the accounts are published ($1), whether a slot ($2) is there, `read` or `unread`, and whether it is one from
-- which a copy can go on.
SELECT
    (SELECT count(*) > 0 FROM pg_publication AS p WHERE p.pubname = $1) AS published,
    (
        SELECT CASE WHEN r.active THEN 'read' ELSE 'unread' END
        FROM pg_replication_slots AS r
        WHERE r.slot_name = $2
    ) AS slot,
    (
        SELECT count(*) > 0 FROM pg_replication_slots AS r
        WHERE r.slot_name = $2 AND r.database = current_database() AND r.wal_status <> 'lost'
    ) AS goes_on;
