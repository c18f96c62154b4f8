-- Refuses a move that is not allowed, writes the event of one that is, and keeps version and updated_at.
CREATE FUNCTION guard_order_transition_v2()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT order_transition_allowed_v2(old.status, new.status) THEN
        RAISE EXCEPTION 'order % may not go from % to %', old.order_id, old.status, new.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'orders_transition';
    END IF;
    new.version := old.version + 1;
    new.updated_at := clock_timestamp();
    INSERT INTO order_events (order_id, version, status, at)
    VALUES (new.order_id, new.version, new.status, new.updated_at);
    RETURN new;
END;
$$;
