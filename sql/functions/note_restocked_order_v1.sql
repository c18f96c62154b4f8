-- Adds the units of an order that a refund released to the sum of its product.
CREATE FUNCTION note_restocked_order_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO product_restocks AS s (product_id, units) VALUES (new.product_id, new.quantity)
    ON CONFLICT (product_id) DO UPDATE SET units = s.units + excluded.units;
    RETURN NULL;
END;
$$;
