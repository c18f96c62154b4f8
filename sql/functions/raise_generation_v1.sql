-- Raises an account's generation when its role or its password changes, by whatever statement, so that tokens which were
-- issued before end; and never lets it fall.
CREATE FUNCTION raise_generation_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    new.generation := greatest(new.generation, old.generation + 1);
    RETURN new;
END;
$$;
