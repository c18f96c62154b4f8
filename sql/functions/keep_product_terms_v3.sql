-- Keeps what a product was sold for, how, when and to whom how many: a row of product_terms for each change, with the
-- instant from which it holds, which is the product's updated_at. The product's lock is taken exclusively, so an order
-- that was made before that instant was made under the terms before.
CREATE FUNCTION keep_product_terms_v3()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF tg_op = 'UPDATE' THEN
        PERFORM pg_advisory_xact_lock(7000, new.product_id);
        new.updated_at := greatest(clock_timestamp(), old.updated_at + interval '1 microsecond');
    END IF;
    INSERT INTO product_terms (
        product_id, valid_from, name, price_minor, currency, allotment, payment_mode, payment_window_s,
        limit_per_buyer, limit_per, cooldown_s, starts_at, ends_at, paused
    )
    VALUES (
        new.product_id, new.updated_at, new.name, new.price_minor, new.currency, new.allotment, new.payment_mode,
        new.payment_window_s, new.limit_per_buyer, new.limit_per, new.cooldown_s, new.starts_at, new.ends_at, new.paused
    );
    RETURN new;
END;
$$;
