-- Brings the rows of a product's units nearer to its allotment: makes up to _most rows of units that have none, or
-- deletes up to _most free rows that are too many. Gives how many were made (negative: deleted). Locks the pool's row
-- until COMMIT, so that two callers never make the same units; takes no product lock, because the free count, which
-- everybody else goes by, stays as it is.
CREATE FUNCTION tend_units_v1(_product_id integer, _most integer)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    _unmade integer;
    _made integer := 0;
BEGIN
    SELECT o.unmade INTO _unmade FROM unit_pools AS o WHERE o.product_id = _product_id FOR NO KEY UPDATE;
    IF _unmade > 0 THEN
        _made := least(_unmade, _most);
        -- In a statement after the lock: it sees the rows of whoever held it before.
        INSERT INTO units (product_id, unit_no)
        SELECT _product_id, m.highest + n
        FROM generate_series(1, _made) AS n
        CROSS JOIN (
            SELECT coalesce(max(u.unit_no), 0) AS highest FROM units AS u WHERE u.product_id = _product_id
        ) AS m;
    ELSIF _unmade < 0 THEN
        WITH spare AS (
            SELECT f.unit_no FROM units AS f
            WHERE f.product_id = _product_id AND f.order_id IS NULL
            ORDER BY f.unit_no DESC
            LIMIT least(-_unmade, _most)
            FOR UPDATE SKIP LOCKED
        ),
        gone AS (
            DELETE FROM units AS u
            USING spare AS s
            WHERE u.product_id = _product_id AND u.unit_no = s.unit_no
            RETURNING 1
        )
        SELECT -count(*) INTO _made FROM gone;
    END IF;
    IF _made <> 0 THEN
        UPDATE unit_pools SET unmade = unmade - _made WHERE product_id = _product_id;
    END IF;
    RETURN _made;
END;
$$;
