-- The buyer pays: an order that waits for its buyer gets a payment job, once. From then on it can neither expire nor
-- be cancelled. Gives whether a payment was asked for now.
CREATE FUNCTION request_payment_v1(_order_id uuid, _due interval)
RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE orders
    SET pay_requested_at = clock_timestamp()
    WHERE order_id = _order_id AND status = 'awaiting_payment' AND payment_mode = 'by_buyer'
        AND pay_requested_at IS NULL AND due_at > clock_timestamp();
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE orders
    SET due_at = clock_timestamp() + _due, job_id = (defer_payment_jobs_v1(ARRAY[_order_id]))[1]
    WHERE order_id = _order_id;
    RETURN true;
END;
$$;
