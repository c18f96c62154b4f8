-- Writes a refund that somebody asks for, and defers its job; the provider is called after the COMMIT. _amount_minor: NULL
-- means all that is left. A refund of all that is left moves the order to refund_pending. One refund of an order is
-- open at a time. Gives `requested` with the refund's number, or why nothing was changed: `unknown` (no such order),
-- `unpaid` (its status has nothing to refund), `under_way`, `disputed`, `too_much`, `part_restocked` (units go back only
-- with all of the money); and, before the refund, the status and what is left.
CREATE FUNCTION request_refund_v1(
    _order_id uuid,
    _amount_minor bigint,
    _restock boolean,
    _reason text,
    _requested_by uuid,
    _due interval
)
RETURNS TABLE (result text, number integer, status text, left_minor bigint, currency text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _status text;
    _left bigint;
    _currency text;
    _disputed boolean;
    _number integer;
BEGIN
    SELECT o.status, o.unit_price_minor * o.quantity - o.refunded_minor, o.currency, o.disputed
    INTO _status, _left, _currency, _disputed
    FROM orders AS o
    WHERE o.order_id = _order_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown', 0, '', 0::bigint, '';
        RETURN;
    END IF;
    RETURN QUERY
    SELECT r.result, 0, _status, _left, _currency
    FROM (
        SELECT CASE
            WHEN _status NOT IN ('confirmed', 'refund_pending') THEN 'unpaid'
            WHEN EXISTS (
                SELECT 1 FROM refunds AS f WHERE f.order_id = _order_id AND f.state = 'pending'
            ) THEN 'under_way'
            WHEN _disputed THEN 'disputed'
            WHEN _amount_minor > _left THEN 'too_much'
            WHEN _restock AND _amount_minor < _left THEN 'part_restocked'
        END AS result
    ) AS r
    WHERE r.result IS NOT NULL;
    IF FOUND THEN
        RETURN;
    END IF;
    INSERT INTO refunds AS f (
        order_id, number, refund_key, amount_minor, currency, restock, reason, requested_by, due_at, job_id
    )
    SELECT
        _order_id, n.number, _order_id || ':refund:' || n.number, coalesce(_amount_minor, _left), _currency, _restock,
        _reason, _requested_by, clock_timestamp() + _due, (defer_refund_jobs_v1(ARRAY[_order_id]))[1]
    FROM (
        SELECT coalesce(max(e.number), 0) + 1 AS number FROM refunds AS e WHERE e.order_id = _order_id
    ) AS n
    RETURNING f.number INTO _number;
    PERFORM settle_refunds_v1(_order_id);
    RETURN QUERY SELECT 'requested', _number, _status, _left, _currency;
END;
$$;
