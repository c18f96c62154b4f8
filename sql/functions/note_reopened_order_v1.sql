-- Notes an order that leaves a final state (a refund begins) although the totals count it in that state. Waits for a
-- carrying of the totals in progress: afterwards it is known whether the totals count the order.
CREATE FUNCTION note_reopened_order_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7002, 0);
    -- An order that is there already is not counted, or is counted in an earlier state.
    INSERT INTO order_stragglers (order_id, counted)
    SELECT new.order_id, old.status FROM order_mark AS m WHERE new.order_id <= m.order_id
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END;
$$;
