-- The buyer asks for the money of an order back: all that is left of it, and the units are sold again once it is back.
-- Gives the same as request_refund_v1, and further: `unknown` if the order is not the buyer's, `not_offered` if the product
-- does not allow it. Asked again, gives the refund of before, unless that failed.
CREATE FUNCTION request_own_refund_v1(_order_id uuid, _user_id uuid, _due interval)
RETURNS TABLE (result text, number integer, status text, left_minor bigint, currency text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    _status text;
    _currency text;
    _offered boolean;
    _newest refunds;
BEGIN
    SELECT o.status, o.currency, p.refundable_by_buyer INTO _status, _currency, _offered
    FROM orders AS o
    INNER JOIN products AS p ON o.product_id = p.product_id
    WHERE o.order_id = _order_id AND o.user_id = _user_id
    FOR NO KEY UPDATE OF o;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown', 0, '', 0::bigint, '';
        RETURN;
    END IF;
    IF NOT _offered THEN
        RETURN QUERY SELECT 'not_offered', 0, _status, 0::bigint, _currency;
        RETURN;
    END IF;
    IF _status IN ('refund_pending', 'refunded') THEN
        SELECT r.* INTO _newest FROM refunds AS r WHERE r.order_id = _order_id ORDER BY r.number DESC LIMIT 1;
        IF _newest.requested_by = _user_id THEN
            RETURN QUERY SELECT 'requested', _newest.number, _status, 0::bigint, _currency;
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
    SELECT r.result, r.number, r.status, r.left_minor, r.currency
    FROM request_refund_v1(_order_id, NULL, true, 'the buyer asked for it', _user_id, _due) AS r;
END;
$$;
