-- Writes a webhook down and defers its job, once per event; a job that is lost is made again after _due. One that speaks
-- of no intent is only noted. Gives whether it is new.
CREATE FUNCTION take_webhook_v1(_provider text, _event_id text, _type text, _reference text, _due interval)
RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO webhook_events (provider, event_id, type, reference, due_at, taken_at)
    VALUES (
        _provider, _event_id, _type, _reference,
        CASE WHEN _reference IS NOT NULL THEN clock_timestamp() + _due END,
        CASE WHEN _reference IS NULL THEN clock_timestamp() END
    )
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF _reference IS NOT NULL THEN
        PERFORM defer_event_jobs_v1(ARRAY[_provider], ARRAY[_event_id], ARRAY[_reference]);
    END IF;
    RETURN true;
END;
$$;
