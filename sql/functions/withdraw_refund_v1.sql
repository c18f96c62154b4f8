-- Takes a pending refund back that nobody began to make: no call of it may have been made, and no operator recorded its
-- money. The order is what it was before, and its units stay with it. Gives:
--   withdrawn  it failed, with the problem `withdrawn`
--   repeated   it was withdrawn before
--   unknown    there is no such order or refund
--   ended      it is not pending
--   begun      a call may have been made, or the money was recorded as given back
-- Locks the order.
CREATE FUNCTION withdraw_refund_v1(_order_id uuid, _number integer)
RETURNS TABLE (result text, state text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _refund refunds;
    _result text;
BEGIN
    PERFORM 1 FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    SELECT r.* INTO _refund FROM refunds AS r WHERE r.order_id = _order_id AND r.number = _number;
    _result := CASE
        WHEN _refund.number IS NULL THEN 'unknown'
        WHEN _refund.state = 'failed' AND _refund.problem = 'withdrawn' THEN 'repeated'
        WHEN _refund.state <> 'pending' THEN 'ended'
        WHEN _refund.sent OR EXISTS (
            SELECT 1 FROM manual_entries AS e WHERE e.order_id = _order_id AND e.number = _number
        ) THEN 'begun'
        ELSE 'withdrawn'
    END;
    IF _result = 'withdrawn' THEN
        UPDATE refunds AS r
        SET state = 'failed', problem = 'withdrawn', finished_at = clock_timestamp(), due_at = NULL, job_id = NULL
        WHERE r.order_id = _order_id AND r.number = _number;
        PERFORM settle_refunds_v1(_order_id);
    END IF;
    RETURN QUERY SELECT _result, _refund.state;
END;
$$;
