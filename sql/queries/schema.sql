-- name: read_schema
-- Every object that the code relies on, with a digest of its definition: tables, columns, constraints, indexes, triggers,
-- functions and enums of the current schema. What belongs to an extension is left out.
WITH here AS (
    SELECT n.oid, quote_ident(n.nspname) || '.' AS prefix FROM pg_namespace AS n WHERE n.nspname = current_schema()
),

tables AS (
    SELECT c.oid, c.relname, c.relpersistence::text, c.relrowsecurity, c.relkind::text
    FROM pg_class AS c
    INNER JOIN here AS h ON c.relnamespace = h.oid
    WHERE c.relkind IN ('r', 'p', 'c', 'v') AND c.relname <> 'alembic_version'
),

objects AS (
    SELECT
        'table' AS kind,
        t.relname::text AS name,
        concat_ws(' ', t.relkind, t.relpersistence, t.relrowsecurity) AS definition
    FROM tables AS t
    UNION ALL
    SELECT
        'column',
        t.relname || '.' || a.attname,
        concat_ws(
            ' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text, a.attgenerated::text,
            pg_get_expr(d.adbin, d.adrelid)
        )
    FROM tables AS t
    INNER JOIN pg_attribute AS a ON t.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    UNION ALL
    -- NOT NULL is a constraint from Postgres 18 on; it is told with the column, and a constraint trigger with the triggers.
    SELECT 'constraint', t.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
    FROM tables AS t
    INNER JOIN pg_constraint AS k ON t.oid = k.conrelid AND k.contype NOT IN ('n', 't')
    UNION ALL
    SELECT 'index', i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid)
    FROM tables AS t
    INNER JOIN pg_index AS i ON t.oid = i.indrelid
    UNION ALL
    -- Without parentheses: a comparison of rows has others once it was dumped and restored.
    SELECT
        'trigger',
        t.relname || '.' || g.tgname,
        concat_ws(' ', translate(pg_get_triggerdef(g.oid), '()', ''), g.tgenabled::text)
    FROM tables AS t
    INNER JOIN pg_trigger AS g ON t.oid = g.tgrelid AND NOT g.tgisinternal
    UNION ALL
    SELECT
        'function',
        p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
        concat_ws(
            ' ', p.prokind::text, l.lanname, p.provolatile::text, p.proisstrict, p.prosecdef,
            replace(p.proconfig::text, rtrim(h.prefix, '.') || ',', ''),
            pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prosrc, pg_get_function_sqlbody(p.oid)
        )
    FROM pg_proc AS p
    INNER JOIN here AS h ON p.pronamespace = h.oid
    INNER JOIN pg_language AS l ON p.prolang = l.oid
    LEFT JOIN pg_depend AS e ON e.classid = 'pg_proc'::regclass AND p.oid = e.objid AND e.deptype = 'e'
    WHERE e.objid IS NULL
    UNION ALL
    SELECT 'enum', y.typname::text, string_agg(v.enumlabel, ' ' ORDER BY v.enumsortorder)
    FROM pg_type AS y
    INNER JOIN here AS h ON y.typnamespace = h.oid
    INNER JOIN pg_enum AS v ON y.oid = v.enumtypid
    GROUP BY y.typname
)

SELECT
    o.kind || ' ' || replace(o.name, h.prefix, '') AS name,
    left(encode(sha256(convert_to(replace(o.definition, h.prefix, ''), 'UTF8')), 'hex'), 16) AS digest
FROM objects AS o
CROSS JOIN here AS h
ORDER BY name;

-- name: read_revision
-- The newest migration that the database has; the table is not there before the first.
SELECT a.version_num FROM alembic_version AS a;
