-- name: need_room
-- Sorts half a megabyte, which does not fit into the least of sort memory: a server whose disk is full fails here.
SELECT count(*) FROM (SELECT repeat(n::text, 100) AS filling FROM generate_series(1, 2500) AS n ORDER BY 1) AS sorted;
