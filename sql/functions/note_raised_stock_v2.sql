-- Trigger of product_live: notes when the free units rose, for each quantity that was too much before and is not now.
-- A refusal that said "sold out" before stays true: no accept makes an order of an older proposal with its key. The
-- columns of product_live are read by accept_orders_v2: the same for one unit, and for more whatever the quantity.
CREATE FUNCTION note_raised_stock_v2()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    -- What one order may hold: QUANTITY_MAX.
    _most constant integer := 100;
    _now constant timestamptz := clock_timestamp();
    _rise constant timestamptz[] := array_fill(_now, ARRAY[least(new.free, _most) - old.free]);
BEGIN
    new.raised_at := _now;
    IF old.free = 0 THEN
        new.above_zero_at := _now;
    END IF;
    UPDATE stock_raises
    SET raised_at[old.free + 1 : least(new.free, _most)] = _rise
    WHERE product_id = new.product_id;
    IF NOT FOUND THEN
        INSERT INTO stock_raises (product_id, raised_at)
        VALUES (
            new.product_id,
            array_fill('epoch'::timestamptz, ARRAY[old.free])
            || _rise
            || array_fill('epoch'::timestamptz, ARRAY[_most - least(new.free, _most)])
        );
    END IF;
    RETURN new;
END;
$$;
