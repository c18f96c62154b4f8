-- Creates a product with its live row and the pool of its units, none of which has a row yet; gives its id.
CREATE FUNCTION create_product_v6(
    _name text,
    _price_minor bigint,
    _currency text,
    _allotment integer,
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
    INSERT INTO products (
        name, price_minor, currency, allotment, payment_mode, payment_window_s, limit_per_buyer, limit_per, cooldown_s,
        refundable_by_buyer, starts_at, ends_at
    )
    VALUES (
        _name, _price_minor, _currency, _allotment, _payment_mode, _payment_window_s, _limit_per_buyer, _limit_per, _cooldown_s,
        _refundable_by_buyer, _starts_at, _ends_at
    )
    RETURNING product_id INTO _product_id;
    INSERT INTO unit_pools (product_id, unmade) VALUES (_product_id, _allotment);
    INSERT INTO product_live (product_id, free) VALUES (_product_id, _allotment);
    PERFORM pg_notify('flashsale_products', _product_id::text);
    RETURN _product_id;
END;
$$;
