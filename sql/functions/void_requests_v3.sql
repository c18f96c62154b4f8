-- Gives proposals up: afterwards no accept can make an order of a void one. Waits for inserts in flight, _patience for
-- all of them (NULL: lock_timeout). Gives each id with what it is: `order` or `void`; an id whose insert is still in
-- flight is left out, and keeps no other one waiting. _order_ids is sorted. A void row that is deleted meanwhile is so old
-- that no accept takes its id: void.
CREATE FUNCTION void_requests_v3(_order_ids uuid [], _patience interval)
RETURNS TABLE (order_id uuid, kind text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    -- So many are waited for one by one, 10 ms each; with more of them in flight the others are left out too.
    _most constant integer := 100;
    _held uuid[] := '{}';
    _id uuid;
BEGIN
    IF _patience IS NOT NULL THEN
        PERFORM set_config('lock_timeout', ceil(extract(EPOCH FROM _patience) * 1000)::text, true);
    END IF;
    BEGIN
        INSERT INTO requests (order_id, kind)
        SELECT i, 'void' FROM unnest(_order_ids) AS i
        ON CONFLICT DO NOTHING;
    EXCEPTION
        WHEN lock_not_available THEN
            PERFORM set_config('lock_timeout', '10', true);
            FOREACH _id IN ARRAY _order_ids LOOP
                IF cardinality(_held) >= _most THEN
                    _held := _held || _id;
                    CONTINUE;
                END IF;
                BEGIN
                    INSERT INTO requests (order_id, kind) VALUES (_id, 'void') ON CONFLICT DO NOTHING;
                EXCEPTION
                    WHEN lock_not_available THEN
                        _held := _held || _id;
                END;
            END LOOP;
    END;
    RETURN QUERY
    SELECT i.order_id, coalesce(r.kind, 'void')
    FROM unnest(_order_ids) AS i (order_id)
    LEFT JOIN requests AS r ON i.order_id = r.order_id
    WHERE i.order_id <> ALL(_held);
END;
$$;
