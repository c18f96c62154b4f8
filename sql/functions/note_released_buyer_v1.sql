-- Trigger of buyer_units: notes when a buyer's units fell. A refusal that said "limit reached" before stays true:
-- accept_orders_v2 makes no order of an older proposal with its key.
CREATE FUNCTION note_released_buyer_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    new.released_at := clock_timestamp();
    RETURN new;
END;
$$;
