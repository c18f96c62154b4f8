-- name: waiting_targets
-- Lists the targets that have a message that is due.
SELECT t.target_id, t.url, t.secret
FROM outbox_targets AS t
WHERE EXISTS (SELECT 1 FROM outbox AS o WHERE o.target_id = t.target_id AND o.due_at <= statement_timestamp());

-- name: claim_messages
-- Begins a try of up to $2 messages of target $1 that are due: each is due again in $3, should the process die. A message
-- of an order waits for those of the same order before it. The number of tries begun fences the end of this one.
UPDATE outbox AS o
SET due_at = clock_timestamp() + $3::interval, attempts = o.attempts + 1
WHERE o.message_id IN (
    SELECT c.message_id
    FROM outbox AS c
    WHERE
        c.target_id = $1 AND c.due_at <= statement_timestamp()
        AND NOT EXISTS (
            SELECT 1
            FROM outbox AS e
            WHERE
                e.order_id = c.order_id AND e.target_id = c.target_id
                AND (e.order_version, e.back_minor, e.failed) < (c.order_version, c.back_minor, c.failed)
                AND e.due_at IS NOT NULL
        )
    ORDER BY c.due_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
RETURNING o.message_id, o.event, o.order_id, o.facts, o.created_at, o.attempts;

-- name: buyer_addresses
-- Gives the e-mail address of the buyer of each order of $1.
SELECT o.order_id, u.email
FROM orders AS o
INNER JOIN users AS u ON o.user_id = u.user_id
WHERE o.order_id = ANY($1::uuid []);

-- name: end_message
-- Ends a message whose try number $2 was the last one, with outcome $3 and, if it is dead, why.
UPDATE outbox
SET due_at = NULL, outcome = $3, ended_at = clock_timestamp(), problem = $4
WHERE message_id = $1 AND attempts = $2 AND due_at IS NOT NULL;

-- name: postpone_message
-- Lets a message wait for $3 after its try number $2 failed; it is dead instead if it tried for $5.
UPDATE outbox
SET
    due_at = CASE WHEN coalesce(resent_at, created_at) > clock_timestamp() - $5::interval THEN clock_timestamp() + $3::interval END,
    outcome = CASE WHEN coalesce(resent_at, created_at) > clock_timestamp() - $5::interval THEN NULL ELSE 'dead' END,
    ended_at = CASE WHEN coalesce(resent_at, created_at) > clock_timestamp() - $5::interval THEN NULL ELSE clock_timestamp() END,
    problem = $4
WHERE message_id = $1 AND attempts = $2 AND due_at IS NOT NULL
RETURNING outcome;

-- name: give_up_messages
-- Ends up to $3 due messages of target $1 that have waited for $2: the target was away, so that some were never tried.
UPDATE outbox AS o
SET
    due_at = NULL, outcome = 'dead', ended_at = clock_timestamp(),
    problem = coalesce(o.problem, 'The target was away all the time.')
WHERE o.message_id IN (
    SELECT c.message_id
    FROM outbox AS c
    WHERE
        c.target_id = $1 AND c.due_at <= statement_timestamp()
        AND coalesce(c.resent_at, c.created_at) <= statement_timestamp() - $2::interval
    ORDER BY c.due_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
RETURNING o.order_id;

-- name: tell_buyers
-- Lets the buyers be told of events $1 by e-mail.
INSERT INTO outbox_targets (target_id, events) VALUES ('mail', $1)
ON CONFLICT (target_id) DO UPDATE SET events = excluded.events, wanted_since = excluded.wanted_since
WHERE outbox_targets.events <> excluded.events;

-- name: add_endpoint
-- Adds endpoint $1 at URL $2, whose messages secret $3 signs, for events $4, if there are fewer than $5 targets.
INSERT INTO outbox_targets (target_id, url, secret, events)
SELECT $1, $2, $3, $4
WHERE (SELECT count(*) FROM outbox_targets) < $5
RETURNING target_id;

-- name: list_targets
-- Lists the targets with the number of messages that wait, that are dead, and the last problem.
SELECT
    t.target_id, t.url, t.events, t.created_at,
    count(o.message_id) FILTER (WHERE o.due_at IS NOT NULL) AS waiting,
    count(o.message_id) FILTER (WHERE o.outcome = 'dead') AS dead,
    (array_agg(o.problem ORDER BY o.created_at DESC) FILTER (WHERE o.problem IS NOT NULL))[1] AS problem
FROM outbox_targets AS t
LEFT JOIN outbox AS o ON t.target_id = o.target_id AND (o.due_at IS NOT NULL OR o.outcome = 'dead')
GROUP BY t.target_id
ORDER BY t.created_at;

-- name: remove_endpoint
-- Removes target $1; its messages go with it.
WITH gone AS (
    DELETE FROM outbox_targets WHERE target_id = $1 RETURNING target_id
),
messages AS (
    DELETE FROM outbox WHERE target_id IN (SELECT g.target_id FROM gone AS g)
)
SELECT g.target_id FROM gone AS g;

-- name: dead_messages
-- Lists up to $2 dead messages, the newest first; of target $1 unless that is NULL.
SELECT o.message_id, o.target_id, o.event, o.order_id, o.product_id, o.created_at, o.ended_at, o.attempts, o.problem
FROM outbox AS o
WHERE o.outcome = 'dead' AND ($1::text IS NULL OR o.target_id = $1)
ORDER BY o.ended_at DESC
LIMIT $2;

-- name: resend_messages
-- Makes ended messages due again: message $1, or, if that is NULL, the dead ones of target $2. A message tries as long as
-- a new one does. A product's message is left out while a newer one waits.
UPDATE outbox AS o
SET due_at = clock_timestamp(), outcome = NULL, ended_at = NULL, resent_at = clock_timestamp()
WHERE
    o.due_at IS NULL
    AND (o.message_id = $1 OR ($1 IS NULL AND o.target_id = $2 AND o.outcome = 'dead'))
    AND (
        o.order_id IS NOT NULL OR NOT EXISTS (
            SELECT 1
            FROM outbox AS w
            WHERE
                w.product_id = o.product_id AND w.target_id = o.target_id AND w.order_id IS NULL
                AND (w.due_at IS NOT NULL OR ($1 IS NULL AND w.outcome = 'dead' AND w.message_id > o.message_id))
        )
    )
RETURNING o.message_id;
