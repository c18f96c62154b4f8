-- The form under which an address is one account, for addresses that were registered before there was one; what
-- flashsale.domain.emails makes of nearly all of them: it also folds case as Unicode does, and knows IDNA.
CREATE FUNCTION email_key_v1(_email text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT lower(normalize(_email, NFKC));
$$;
