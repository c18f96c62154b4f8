-- Trigger of product_live: notes when the free units rose, from none and from fewer than one order may hold.
-- A refusal that said "sold out" before stays true: accept_orders_v2 makes no order of an older proposal with its key.
CREATE FUNCTION note_raised_stock_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    new.raised_at := clock_timestamp();
    IF old.free = 0 THEN
        new.above_zero_at := new.raised_at;
    END IF;
    RETURN new;
END;
$$;
