-- The least order id that can be made at an instant: ids of version 7 begin with their time in milliseconds.
CREATE FUNCTION first_order_id_v1(_at timestamptz)
RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT (lpad(to_hex(floor(extract(EPOCH FROM _at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
