-- Returns the values of a row that the other row does not have, without those of the columns _but; NULL: there are none.
CREATE FUNCTION changed_values_v1(_row jsonb, _other jsonb, _but text [])
RETURNS jsonb
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT jsonb_object_agg(e.key, e.value)
    FROM jsonb_each(_row) AS e
    WHERE e.key <> ALL(_but) AND (_other -> e.key) IS DISTINCT FROM e.value;
$$;
