-- Archives a product, which is paused for ever with that, under its exclusive lock. Gives `archived`, or why nothing was
-- changed: `before` (it is archived), `on_sale` (buyers can order now), `orders` (an order is not final), `refunds` (a
-- refund is pending), `unknown`.
CREATE FUNCTION archive_product_v1(_product_id integer)
RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    _now timestamptz;
    _product products;
BEGIN
    PERFORM pg_advisory_xact_lock(7000, _product_id);
    _now := clock_timestamp();
    SELECT * INTO _product FROM products AS p WHERE p.product_id = _product_id;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF _product.archived_at IS NOT NULL THEN
        RETURN 'before';
    ELSIF NOT _product.paused
        AND coalesce(_product.starts_at <= _now, true)
        AND coalesce(_product.ends_at > _now, true) THEN
        RETURN 'on_sale';
    ELSIF EXISTS (SELECT 1 FROM orders AS o WHERE o.due_at IS NOT NULL AND o.product_id = _product_id) THEN
        RETURN 'orders';
    ELSIF EXISTS (
        SELECT 1 FROM refunds AS r
        INNER JOIN orders AS o ON r.order_id = o.order_id
        WHERE r.state = 'pending' AND o.product_id = _product_id
    ) THEN
        RETURN 'refunds';
    END IF;
    UPDATE products SET archived_at = _now, paused = true, updated_at = _now WHERE product_id = _product_id;
    PERFORM pg_notify('flashsale_products', _product_id::text);
    RETURN 'archived';
END;
$$;
