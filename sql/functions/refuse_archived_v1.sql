-- Refuses to change a product that is archived, by whatever statement.
CREATE FUNCTION refuse_archived_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'product % is archived', old.product_id
    USING ERRCODE = 'check_violation', CONSTRAINT = 'products_archived';
END;
$$;
