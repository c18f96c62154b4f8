-- Writes that a try of a refund brought no refund home. _outcome: `refused` ends the refund (the provider says that
-- nothing happened under its key, and nothing will); `unknown` and `unsent` (with it _sent: whether a call of an earlier
-- try may have been made) leave it pending, due after _retry_after. Only the newest try counts. Gives the state of the
-- refund.
CREATE FUNCTION miss_refund_v1(
    _order_id uuid,
    _number integer,
    _attempt integer,
    _outcome text,
    _sent boolean,
    _problem text,
    _retry_after interval
)
RETURNS text
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM 1 FROM orders AS o WHERE o.order_id = _order_id FOR NO KEY UPDATE;
    UPDATE refunds
    SET
        state = CASE WHEN _outcome = 'refused' THEN 'failed' ELSE state END,
        sent = CASE WHEN _outcome = 'unsent' THEN _sent ELSE sent END,
        problem = _problem,
        finished_at = CASE WHEN _outcome = 'refused' THEN clock_timestamp() END,
        due_at = CASE WHEN _outcome <> 'refused' THEN clock_timestamp() + _retry_after END,
        job_id = NULL
    WHERE order_id = _order_id AND number = _number AND attempt = _attempt AND state = 'pending';
    IF FOUND AND _outcome = 'refused' THEN
        PERFORM settle_refunds_v1(_order_id);
    END IF;
    RETURN (SELECT r.state FROM refunds AS r WHERE r.order_id = _order_id AND r.number = _number);
END;
$$;
