-- How far an intent is: of two states the one with the higher rank is the later one, whatever order they are heard in.
-- Money that was captured is never forgotten, and an intent whose secret nobody has stays lost until it is cancelled.
CREATE FUNCTION intent_rank_v1(_state text)
RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT array_position(
        ARRAY['opening', 'open', 'lost', 'authorized', 'cancelled', 'captured', 'refunded'], _state
    )
$$;
