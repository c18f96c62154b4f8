-- Records that the money of a pending refund was given back outside (provider `manual`), and defers the refund's job, which
-- sees the record. The same record again changes nothing. Gives the result, and the record that exists, if there is one:
--   recorded   the record exists from now on
--   repeated   the same record exists already
--   unknown    there is no such order or refund
--   other      the refund was recorded before, with another reference
--   elsewhere  the order was not paid by hand, so its provider gives the money back
--   ended      the refund is not pending
-- Locks the order.
CREATE FUNCTION record_refund_v1(
    _order_id uuid, _number integer, _reference text, _recorded_by uuid, _due interval
)
RETURNS TABLE (
    result text, state text, reference text, amount_minor bigint, currency text, recorded_by uuid,
    recorded_at timestamptz
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _refund refunds;
    _entry manual_entries;
    _result text;
BEGIN
    PERFORM 1 FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    SELECT r.* INTO _refund FROM refunds AS r WHERE r.order_id = _order_id AND r.number = _number;
    SELECT e.* INTO _entry FROM manual_entries AS e WHERE e.order_id = _order_id AND e.number = _number AND _number > 0;
    _result := CASE
        WHEN _refund.number IS NULL THEN 'unknown'
        WHEN _entry.reference = _reference THEN 'repeated'
        WHEN _entry.reference IS NOT NULL THEN 'other'
        WHEN NOT EXISTS (SELECT 1 FROM manual_entries AS e WHERE e.order_id = _order_id AND e.number = 0) THEN 'elsewhere'
        WHEN _refund.state <> 'pending' THEN 'ended'
    END;
    IF _result IS NULL THEN
        INSERT INTO manual_entries AS e (order_id, number, reference, amount_minor, currency, recorded_by)
        VALUES (_order_id, _number, _reference, _refund.amount_minor, _refund.currency, _recorded_by)
        RETURNING e.* INTO _entry;
        UPDATE refunds AS r
        SET due_at = clock_timestamp() + _due, job_id = (defer_refund_jobs_v1(ARRAY[_order_id]))[1]
        WHERE r.order_id = _order_id AND r.number = _number;
        _result := 'recorded';
    END IF;
    RETURN QUERY
    SELECT
        _result, _refund.state, _entry.reference, _entry.amount_minor, _entry.currency, _entry.recorded_by,
        _entry.recorded_at;
END;
$$;
