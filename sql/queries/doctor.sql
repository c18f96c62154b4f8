-- name: read_server
-- Versions, limits and durability of the server, its clock, and the connections of its clients.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    clock_timestamp() AS now,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS read_only,
    current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true), '0')::integer AS connections_max,
    (SELECT count(*) FROM pg_stat_activity AS a WHERE a.backend_type = 'client backend') AS connections,
    current_setting('fsync')::boolean AS fsync,
    current_setting('full_page_writes')::boolean AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS standby_names;

-- name: read_roles
-- The roles of the processes ($1) that exist, and whether one is a superuser, may make roles, or owns a table.
SELECT
    r.rolname::text AS role,
    r.rolsuper OR r.rolcreaterole OR r.rolbypassrls OR EXISTS (
        SELECT 1 FROM pg_class AS c
        INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
        WHERE n.nspname = current_schema() AND c.relowner = r.oid
    ) AS too_mighty
FROM pg_roles AS r
WHERE r.rolname = ANY($1::text[]);

-- name: automatic_products
-- Reads the products that are sold, now or later, and whose orders a payment worker charges.
SELECT product_id FROM products
WHERE payment_mode = 'automatic' AND NOT paused AND coalesce(ends_at > clock_timestamp(), true)
ORDER BY product_id;

-- name: read_rights
-- The rights of the roles $1 on the tables and functions of the current schema.
SELECT r.rolname::text AS role, p.privilege, c.relname::text AS object
FROM pg_roles AS r
CROSS JOIN pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid AND n.nspname = current_schema()
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p (privilege)
WHERE
    r.rolname = ANY($1::text[]) AND c.relkind IN ('r', 'p')
    AND CASE
        WHEN p.privilege IN ('DELETE', 'TRUNCATE') THEN has_table_privilege(r.oid, c.oid, p.privilege)
        ELSE has_any_column_privilege(r.oid, c.oid, p.privilege)
    END
UNION
SELECT r.rolname::text, 'EXECUTE', f.proname::text
FROM pg_roles AS r
CROSS JOIN pg_proc AS f
INNER JOIN pg_namespace AS n ON f.pronamespace = n.oid AND n.nspname = current_schema()
LEFT JOIN pg_depend AS e ON e.classid = 'pg_proc'::regclass AND f.oid = e.objid AND e.deptype = 'e'
WHERE r.rolname = ANY($1::text[]) AND e.objid IS NULL AND has_function_privilege(r.oid, f.oid, 'EXECUTE');
