-- Defers a job for each webhook and gives the jobs' ids in the same order. Of webhooks about one intent one job runs at a
-- time: the others find that it took theirs too.
CREATE FUNCTION defer_event_jobs_v1(_providers text [], _event_ids text [], _references text [])
RETURNS bigint []
LANGUAGE sql
AS $$
    SELECT procrastinate_defer_jobs_v1((
        SELECT array_agg(
            ROW(
                'payments', 'payments:event', 10, 'event:' || e.provider || ':' || e.reference, NULL,
                jsonb_build_object('provider', e.provider, 'event_id', e.event_id), NULL
            )::procrastinate_job_to_defer_v1
            ORDER BY e.place
        )
        FROM unnest(_providers, _event_ids, _references) WITH ORDINALITY AS e (provider, event_id, reference, place)
    ))
$$;
