-- An order ended: the intent that paid it is captured, and what else the provider holds for it is due, to be cancelled
-- or given back. The intent that paid is the one that begin_payments_v4 names: the one that got furthest.
CREATE FUNCTION note_ended_order_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    _paid_by integer;
BEGIN
    IF new.status = 'confirmed' THEN
        SELECT i.number INTO _paid_by FROM payment_intents AS i
        WHERE i.order_id = new.order_id AND i.state IN ('open', 'authorized', 'captured') AND i.problem IS NULL
        ORDER BY intent_rank_v1(i.state) DESC, i.number DESC
        LIMIT 1;
    END IF;
    UPDATE payment_intents AS i
    SET
        state = CASE WHEN i.number = _paid_by THEN 'captured' ELSE i.state END,
        due_at = CASE WHEN i.number = _paid_by THEN NULL ELSE clock_timestamp() END,
        updated_at = CASE WHEN i.number = _paid_by THEN clock_timestamp() ELSE i.updated_at END,
        looks = 0
    WHERE i.order_id = new.order_id AND i.state NOT IN ('cancelled', 'refunded');
    RETURN NULL;
END;
$$;
