-- Trigger of buyer_units, for accepts of releases that know no e-mail roots (accept_orders_v2 and before; they do not
-- write limit_id): holds them to the limit per root. A row that it keeps away is a buyer who has reached the limit.
CREATE FUNCTION limit_older_accepts_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _product products;
    _held record;
BEGIN
    SELECT * INTO _product FROM products WHERE product_id = new.product_id;
    new.limit_id := NULL;
    IF _product.limit_per = 'email_root' THEN
        SELECT h.limit_id, h.units INTO _held FROM hold_email_roots_v1(new.product_id, ARRAY[new.user_id]) AS h;
        IF _held.units + new.units > _product.limit_per_buyer THEN
            RETURN NULL;
        END IF;
        new.limit_id := _held.limit_id;
    END IF;
    RETURN new;
END;
$$;
