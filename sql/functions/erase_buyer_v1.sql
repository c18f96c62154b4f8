-- Erases what a buyer's account says of a person: its name, address and password, its e-mail root where products count
-- roots, and the e-mails about its orders, sent or not. Its tokens end. Orders and money stay. It runs with the rights of
-- the owner of the tables, because the database user of the API may change no address. Gives `erased` (also if it was
-- before), `open` (an order is not final, or its money is still moving; nothing was changed) or `unknown` (no account of a
-- buyer).
CREATE FUNCTION erase_buyer_v1(_user_id uuid)
RETURNS text
LANGUAGE sql
SECURITY DEFINER
-- Names are bound when the function is made; those of the triggers by the path that the revision gives the function. So no
-- search_path of a caller changes what it writes.
BEGIN ATOMIC
-- A lock that an order's foreign key waits for: an order is seen here, or finds the account erased.
SELECT u.user_id FROM users AS u WHERE u.user_id = $1 AND u.role = 'buyer' FOR UPDATE;
WITH account AS MATERIALIZED (
    SELECT u.user_id, 'erased-' || u.user_id || '@erased.invalid' AS tombstone, u.email
    FROM users AS u
    WHERE u.user_id = $1 AND u.role = 'buyer'
),
bought AS MATERIALIZED (
    SELECT
        o.order_id, o.product_id,
        o.due_at IS NOT NULL
        OR EXISTS (SELECT 1 FROM refunds AS r WHERE r.order_id = o.order_id AND r.due_at IS NOT NULL)
        OR EXISTS (SELECT 1 FROM payment_intents AS i WHERE i.order_id = o.order_id AND i.due_at IS NOT NULL)
            AS moves
    FROM orders AS o
    WHERE o.user_id = $1
),
erased AS MATERIALIZED (
    SELECT a.user_id, a.tombstone
    FROM account AS a
    WHERE a.email <> a.tombstone AND NOT EXISTS (SELECT 1 FROM bought AS b WHERE b.moves)
),
changed AS (
    UPDATE users AS u
    SET
        name = 'Erased', email = e.tombstone, email_key = NULL, password_hash = NULL,
        generation = u.generation + 1
    FROM erased AS e
    WHERE u.user_id = e.user_id
),
counted AS (
    UPDATE buyer_units AS n
    SET limit_id = limit_id_v1(NULL, e.tombstone)
    FROM erased AS e
    WHERE n.user_id = e.user_id AND n.limit_id IS NOT NULL
        AND n.product_id IN (SELECT b.product_id FROM bought AS b)
),
forgotten AS (
    DELETE FROM password_resets AS r USING erased AS e WHERE r.user_id = e.user_id
),
told AS (
    DELETE FROM outbox AS m
    USING erased AS e
    WHERE m.target_id = 'mail' AND m.order_id IN (SELECT b.order_id FROM bought AS b)
)
SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM account) THEN 'unknown'
    WHEN EXISTS (SELECT 1 FROM bought AS b WHERE b.moves) THEN 'open'
    ELSE 'erased'
END;
END;
