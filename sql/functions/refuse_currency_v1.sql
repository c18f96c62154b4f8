-- Refuses a product in a currency that is not known. A product that had one before this check stays paused.
CREATE FUNCTION refuse_currency_v1()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT currency_known_v1(new.currency) THEN
        RAISE EXCEPTION 'nothing is sold in the currency %', new.currency
        USING ERRCODE = 'check_violation', CONSTRAINT = 'products_currency_known', TABLE = 'products';
    END IF;
    RETURN new;
END;
$$;
