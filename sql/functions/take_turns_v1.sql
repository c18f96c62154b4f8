-- Reserves the next free instants of an operation of a provider, _interval apart, at most _count and none later than
-- _horizon from now. Gives how many, and how long to wait for the first one (or for the next free one, if none).
-- The row's lock lasts for this statement; the calls are made after it.
CREATE FUNCTION take_turns_v1(
    _provider text, _operation text, _count integer, _interval interval, _horizon interval
)
RETURNS TABLE (granted integer, wait interval)
LANGUAGE plpgsql
AS $$
DECLARE
    _next timestamptz;
    _now timestamptz;
    _granted integer;
BEGIN
    INSERT INTO provider_turns (provider, operation, next_at)
    VALUES (_provider, _operation, clock_timestamp())
    ON CONFLICT DO NOTHING;
    SELECT t.next_at INTO _next
    FROM provider_turns AS t
    WHERE t.provider = _provider AND t.operation = _operation
    FOR NO KEY UPDATE;
    _now := clock_timestamp();
    _next := greatest(_next, _now);
    _granted := greatest(
        0,
        least(
            _count, floor(extract(EPOCH FROM _now + _horizon - _next) / extract(EPOCH FROM _interval))::integer + 1
        )
    );
    UPDATE provider_turns AS t
    SET next_at = _next + _granted * _interval
    WHERE t.provider = _provider AND t.operation = _operation AND _granted > 0;
    RETURN QUERY SELECT _granted, _next - _now;
END;
$$;
