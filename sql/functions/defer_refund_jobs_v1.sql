-- Defers one refund job per order and gives the job ids in the order of _order_ids.
CREATE FUNCTION defer_refund_jobs_v1(_order_ids uuid [])
RETURNS bigint []
LANGUAGE sql
AS $$
    SELECT procrastinate_defer_jobs_v1((
        SELECT array_agg(
            ROW(
                'payments', 'payments:refund', 10, NULL, NULL,
                jsonb_build_object('order_id', i.order_id), NULL
            )::procrastinate_job_to_defer_v1
            ORDER BY i.place
        )
        FROM unnest(_order_ids) WITH ORDINALITY AS i (order_id, place)
    ))
$$;
