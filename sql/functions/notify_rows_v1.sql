-- Notifies a channel of rows, each of them JSON of at most 500 bytes, as arrays of under 8,000 bytes, which is the most
-- that a notification may have: however many rows there are, none fails and each listener hears of all of them.
CREATE FUNCTION notify_rows_v1(_channel text, _rows text [])
RETURNS void
LANGUAGE sql
AS $$
    SELECT pg_notify(_channel, '[' || string_agg(chunk.json, ',' ORDER BY chunk.place) || ']')
    FROM (
        SELECT r.json, r.place, sum(octet_length(r.json) + 1) OVER (ORDER BY r.place) / 7000 AS number
        FROM unnest(_rows) WITH ORDINALITY AS r (json, place)
    ) AS chunk
    GROUP BY chunk.number
$$;
