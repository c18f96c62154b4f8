-- What the addresses of one mailbox have in common, of an address in its key form (email_key): without the tag after a
-- plus, and with the letters only where Google says that dots do not matter.
CREATE FUNCTION email_root_v1(_email_key text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT CASE
        WHEN a.domain IN ('gmail.com', 'googlemail.com') THEN replace(a.name, '.', '') || '@gmail.com'
        ELSE a.name || '@' || a.domain
    END
    FROM (
        SELECT
            regexp_replace(regexp_replace(_email_key, '@[^@]*$', ''), '^([^+]+)[+].*$', '\1') AS name,
            substring(_email_key FROM '[^@]*$') AS domain
    ) AS a;
$$;
