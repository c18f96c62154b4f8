-- name: claim_key
-- Claims an administrator's key for a request, and waits for a request under the same key that is under way.
INSERT INTO admin_requests (user_id, key, fingerprint)
VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
RETURNING key;

-- name: set_product
-- Notes which product the request of a key concerns.
UPDATE admin_requests SET product_id = $3 WHERE user_id = $1 AND key = $2;

-- name: kept
-- Reads the request of a key, and its answer, which is repeated only after the synchronous standby has it.
SELECT
    fingerprint, product_id, status, tag, body,
    CASE
        WHEN current_setting('synchronous_standby_names') <> '' THEN pg_logical_emit_message(true, 'flashsale', '')
    END AS logged
FROM admin_requests
WHERE user_id = $1 AND key = $2;

-- name: keep
-- Keeps an answer unless one is there; gives the one that is kept.
UPDATE admin_requests
SET status = coalesce(status, $3::smallint), tag = coalesce(tag, $4::text), body = coalesce(body, $5::bytea)
WHERE user_id = $1 AND key = $2
RETURNING status, tag, body;
