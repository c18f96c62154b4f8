-- Refuses to change or delete rows of the trail, to its owner too.
CREATE FUNCTION keep_trail_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the trail cannot be changed' USING ERRCODE = 'insufficient_privilege';
END;
$$;
