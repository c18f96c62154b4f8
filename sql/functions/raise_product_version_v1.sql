-- Trigger of products: counts a change of what is shown of a product, and tells the live hubs of it, whatever statement
-- made it.
CREATE FUNCTION raise_product_version_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    new.version := old.version + 1;
    PERFORM pg_notify('flashsale_products', new.product_id::text);
    RETURN new;
END;
$$;
