-- Carries the totals of final orders forward: over up to _limit orders behind the mark that are older than _settled,
-- and up to _limit stragglers that ended longer ago than that. Orders that are still open when the mark passes them
-- become stragglers. Gives how many orders were looked at; fewer than _limit: nothing is left to carry.
--
-- Exact at every commit: one statement moves orders into the totals, so that each order is counted once, on one
-- snapshot. The lock keeps other carryings and orders that leave a final state (note_reopened_order_v1) away. No order
-- appears behind the mark, because accepts refuse ids that are older than _settled.
CREATE FUNCTION carry_orders_v2(_settled interval, _limit integer)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    _before constant timestamptz := clock_timestamp() - _settled;
    _mark uuid;
    _end uuid;
    _passed integer;
    _ended integer;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 0);
    SELECT m.order_id INTO STRICT _mark FROM order_mark AS m;
    SELECT count(*), (array_agg(s.order_id ORDER BY s.order_id DESC))[1] INTO _passed, _end
    FROM (
        SELECT o.order_id FROM orders AS o
        WHERE o.order_id > _mark AND o.order_id < first_order_id_v1(_before)
        ORDER BY o.order_id
        LIMIT _limit
    ) AS s;
    IF _passed < _limit THEN
        _end := greatest(_mark, first_order_id_v1(_before));
    END IF;
    WITH passed AS MATERIALIZED (
        SELECT o.order_id, o.product_id, o.status, o.currency, o.quantity, o.unit_price_minor, o.due_at
        FROM orders AS o
        WHERE o.order_id > _mark AND o.order_id <= _end
    ),
    ended AS MATERIALIZED (
        SELECT o.order_id, o.product_id, o.status, o.currency, o.quantity, o.unit_price_minor, s.counted
        FROM order_stragglers AS s
        -- OFFSET 0: each straggler is looked up, however many Postgres guesses that there are.
        CROSS JOIN LATERAL (SELECT f.* FROM orders AS f WHERE f.order_id = s.order_id OFFSET 0) AS o
        WHERE o.due_at IS NULL AND o.updated_at < _before
        LIMIT _limit
    ),
    opened AS (
        INSERT INTO order_stragglers (order_id)
        SELECT p.order_id FROM passed AS p WHERE p.due_at IS NOT NULL
    ),
    closed AS (
        DELETE FROM order_stragglers WHERE order_id IN (SELECT e.order_id FROM ended AS e) RETURNING order_id
    ),
    moved AS (
        SELECT p.product_id, p.status, p.currency, 1 AS orders, p.quantity, p.unit_price_minor
        FROM passed AS p WHERE p.due_at IS NULL
        UNION ALL
        SELECT e.product_id, e.status, e.currency, 1, e.quantity, e.unit_price_minor FROM ended AS e
        UNION ALL
        SELECT e.product_id, e.counted, e.currency, -1, e.quantity, e.unit_price_minor
        FROM ended AS e WHERE e.counted IS NOT NULL
    ),
    totals AS (
        INSERT INTO order_totals AS t (product_id, status, currency, orders, units, value_minor)
        SELECT
            m.product_id, m.status, m.currency, sum(m.orders), sum(m.orders * m.quantity),
            sum(m.orders * m.quantity * m.unit_price_minor)
        FROM moved AS m
        GROUP BY m.product_id, m.status, m.currency
        ON CONFLICT (product_id, status, currency) DO UPDATE
        SET
            orders = t.orders + excluded.orders,
            units = t.units + excluded.units,
            value_minor = t.value_minor + excluded.value_minor
    )
    SELECT count(*) INTO _ended FROM closed;
    UPDATE order_mark SET order_id = _end WHERE order_id <> _end;
    RETURN greatest(_passed, _ended);
END;
$$;
