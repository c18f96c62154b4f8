-- Creates the product that another cell's product becomes here, with the units that left there: once for each move,
-- however often it is called. Gives its id.
CREATE FUNCTION enter_cell_v1(
    _move_id uuid,
    _from_product_id integer,
    _paused boolean,
    _name text,
    _price_minor bigint,
    _currency text,
    _units integer,
    _payment_mode text,
    _payment_window_s integer,
    _limit_per_buyer integer,
    _limit_per text,
    _cooldown_s integer,
    _refundable_by_buyer boolean,
    _starts_at timestamptz,
    _ends_at timestamptz
)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    _product_id integer;
BEGIN
    -- A repetition waits for the first call, and then sees its row.
    LOCK TABLE product_arrivals IN SHARE ROW EXCLUSIVE MODE;
    SELECT a.product_id INTO _product_id FROM product_arrivals AS a WHERE a.move_id = _move_id;
    IF FOUND THEN
        RETURN _product_id;
    END IF;
    _product_id := create_product_v6(
        _name, _price_minor, _currency, _units, _payment_mode, _payment_window_s, _limit_per_buyer, _limit_per,
        _cooldown_s, _refundable_by_buyer, _starts_at, _ends_at
    );
    IF _paused THEN
        UPDATE products SET paused = true WHERE product_id = _product_id;
    END IF;
    INSERT INTO product_arrivals (product_id, move_id, from_product_id, units)
    VALUES (_product_id, _move_id, _from_product_id, _units);
    RETURN _product_id;
END;
$$;
