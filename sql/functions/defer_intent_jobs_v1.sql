-- Defers a job for each intent and gives the jobs' ids in the same order. Charges come before them.
CREATE FUNCTION defer_intent_jobs_v1(_order_ids uuid [], _numbers integer [])
RETURNS bigint []
LANGUAGE sql
AS $$
    SELECT procrastinate_defer_jobs_v1((
        SELECT array_agg(
            ROW(
                'payments', 'payments:intent', 5, NULL, NULL,
                jsonb_build_object('order_id', i.order_id, 'number', i.number), NULL
            )::procrastinate_job_to_defer_v1
            ORDER BY i.place
        )
        FROM unnest(_order_ids, _numbers) WITH ORDINALITY AS i (order_id, number, place)
    ))
$$;
