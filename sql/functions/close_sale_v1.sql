-- Ends a sale now: no order is accepted from here on, and orders that were accepted stay payable. Takes the product's lock
-- exclusively, so no accept is half way. Gives `closed`, or why nothing was changed: `ended`, `not_started`, `unknown`.
CREATE FUNCTION close_sale_v1(_product_id integer)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    _now timestamptz;
    _starts_at timestamptz;
    _ends_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(7000, _product_id);
    _now := clock_timestamp();
    SELECT p.starts_at, p.ends_at INTO _starts_at, _ends_at FROM products AS p WHERE p.product_id = _product_id;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF _ends_at <= _now THEN
        RETURN 'ended';
    ELSIF _starts_at >= _now THEN
        RETURN 'not_started';
    END IF;
    UPDATE products SET ends_at = _now, updated_at = _now WHERE product_id = _product_id;
    PERFORM pg_notify('flashsale_products', _product_id::text);
    RETURN 'closed';
END;
$$;
