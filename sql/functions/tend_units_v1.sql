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
    _spare integer[];
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
        _spare := ARRAY(
            SELECT u.unit_no FROM units AS u
            WHERE u.product_id = _product_id AND u.order_id IS NULL
            ORDER BY u.unit_no DESC
            LIMIT least(-_unmade, _most)
            FOR UPDATE SKIP LOCKED
        );
        -- By number, not by a join: statistics may know nothing of this product, and each of its rows would be
        -- compared with each of these.
        DELETE FROM units WHERE product_id = _product_id AND unit_no = ANY(_spare);
        _made := -cardinality(_spare);
    END IF;
    IF _made <> 0 THEN
        UPDATE unit_pools SET unmade = unmade - _made WHERE product_id = _product_id;
    END IF;
    RETURN _made;
END;
$$;
