-- Defers one job for a batch of queued orders and gives its id. Orders come before payments: higher priority first.
CREATE FUNCTION defer_order_job_v1(_order_ids uuid [])
RETURNS bigint
LANGUAGE sql
AS $$
    SELECT (procrastinate_defer_jobs_v1(ARRAY[
        ROW(
            'orders', 'orders:process', 20, NULL, NULL,
            jsonb_build_object('order_ids', to_jsonb(_order_ids)), NULL
        )::procrastinate_job_to_defer_v1
    ]))[1]
$$;
