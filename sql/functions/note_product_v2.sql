-- Writes to the trail what was changed of a product, by whatever statement; the epoch, which each load of the gate
-- raises, and the version, which each change raises, are no change.
CREATE FUNCTION note_product_v2()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _but constant text [] := '{product_id,epoch,version,created_at,updated_at}';
    _old constant jsonb := CASE WHEN tg_op = 'UPDATE' THEN to_jsonb(old) END;
    _new constant jsonb := changed_values_v1(to_jsonb(new), _old, _but);
BEGIN
    IF _new IS NOT NULL THEN
        PERFORM note_action_v1(
            lower(tg_op) || ' products', 'product/' || new.product_id, changed_values_v1(_old, to_jsonb(new), _but), _new
        );
    END IF;
    RETURN NULL;
END;
$$;
