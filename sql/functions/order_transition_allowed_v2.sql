-- Whether an order may move from one status to another: the same table as flashsale.domain.orders.TRANSITIONS.
CREATE FUNCTION order_transition_allowed_v2(_from text, _to text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (_from, _to) IN (
        ('queued', 'processing'),
        ('queued', 'failed'),
        ('processing', 'awaiting_payment'),
        ('processing', 'failed'),
        ('awaiting_payment', 'processing_payment'),
        ('awaiting_payment', 'expired'),
        ('awaiting_payment', 'cancelled'),
        ('awaiting_payment', 'failed'),
        ('processing_payment', 'confirmed'),
        ('processing_payment', 'payment_failed'),
        ('processing_payment', 'payment_unknown'),
        ('payment_unknown', 'confirmed'),
        ('payment_unknown', 'payment_failed'),
        ('confirmed', 'refund_pending'),
        ('refund_pending', 'confirmed'),
        ('refund_pending', 'refunded')
    )
$$;
