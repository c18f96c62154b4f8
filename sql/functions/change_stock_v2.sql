-- Adds to the free count of products, raises their versions and notifies. Takes the row locks of product_live in id
-- order, so it must be the last statement before COMMIT. _product_ids is sorted and without repetition. _hands: the
-- unit that a claim ended with, for each product; NULL leaves what is there.
CREATE FUNCTION change_stock_v2(_product_ids integer [], _deltas integer [], _hands integer [] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    _rows text[] := '{}';
    _free integer;
    _version bigint;
BEGIN
    FOR i IN 1 .. cardinality(_product_ids) LOOP
        UPDATE product_live
        SET free = free + _deltas[i], version = version + 1, claim_hand = coalesce(_hands[i], claim_hand)
        WHERE product_id = _product_ids[i]
        RETURNING free, version INTO STRICT _free, _version;
        _rows := _rows || json_build_array(_product_ids[i], _free, _version)::text;
    END LOOP;
    PERFORM notify_rows_v1('flashsale_stock', _rows);
END;
$$;
