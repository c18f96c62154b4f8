-- Locks up to _wanted free units of a product for the caller's orders, under the shared product lock, and gives their
-- numbers in the order in which to take them. Rows that others lock are passed over. If rows are short and the
-- allotment has units without a row, makes a block of them. Fewer than _wanted: the rest is claimed by others, whose
-- COMMIT nobody knows, or sold; product_live.free, read after this, tells.
-- Lock order: units_pools after the buyers' counts and before units, and only while rows are short or too many.
CREATE FUNCTION claim_units_v1(_product_id integer, _wanted integer)
RETURNS integer []
LANGUAGE plpgsql
AS $$
DECLARE
    -- What a claim makes if the pool is empty: 1,000 rows take some 10 ms, for which others of the product wait.
    _block constant integer := 1000;
    _hand integer;
    _from integer;
    _free integer;
    _unmade integer;
    _most integer;
    _locked integer[] := '{}';
BEGIN
    SELECT l.claim_hand, l.free, coalesce(o.unmade, 0) INTO STRICT _hand, _free, _unmade
    FROM product_live AS l
    LEFT JOIN unit_pools AS o ON l.product_id = o.product_id
    WHERE l.product_id = _product_id;
    IF _unmade < 0 THEN
        -- More free rows than units: row locks alone would sell the rows that are too many. One claim at a time, of no
        -- more than the free count, until they are deleted. Only set_allotment_v2 begins this, under the exclusive lock.
        PERFORM 1 FROM unit_pools AS o WHERE o.product_id = _product_id FOR NO KEY UPDATE;
        SELECT l.free INTO STRICT _free FROM product_live AS l WHERE l.product_id = _product_id;
    END IF;
    _most := least(_wanted, _free);

    -- On from where the last claim ended: claimed units stay in the index until vacuum, and a search that begins with
    -- the first unit walks over all of them.
    FOR _look IN 1 .. 3 LOOP
        _from := coalesce(_locked[cardinality(_locked)], _hand);
        _locked := _locked || ARRAY(
            SELECT u.unit_no
            FROM units AS u
            WHERE u.product_id = _product_id AND u.order_id IS NULL AND u.unit_no > _from
            ORDER BY u.unit_no
            LIMIT _most - cardinality(_locked)
            FOR NO KEY UPDATE SKIP LOCKED
        );
        EXIT WHEN cardinality(_locked) >= _most OR _unmade <= 0;
        IF _look = 1 THEN
            -- Somebody may be making rows: wait for that, and look again before making more.
            PERFORM 1 FROM unit_pools AS o WHERE o.product_id = _product_id FOR NO KEY UPDATE;
        ELSIF _look = 2 THEN
            PERFORM tend_units_v1(_product_id, greatest(_most - cardinality(_locked), _block));
        END IF;
    END LOOP;
    -- Every unit has a row, and those behind the last claim are too few: round to the first one.
    IF cardinality(_locked) < _most THEN
        _locked := _locked || ARRAY(
            SELECT u.unit_no
            FROM units AS u
            WHERE u.product_id = _product_id AND u.order_id IS NULL AND u.unit_no <= _hand
            ORDER BY u.unit_no
            LIMIT _most - cardinality(_locked)
            FOR NO KEY UPDATE SKIP LOCKED
        );
    END IF;
    RETURN _locked;
END;
$$;
