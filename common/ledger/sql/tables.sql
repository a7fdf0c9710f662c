-- name: read_columns
SELECT mapping, columns FROM collections WHERE id = %(collection_id)s

-- name: lock_columns
-- One after the other, so that the first rows of a table name all of its rows one way. Whoever only holds the collection
-- does not wait for this.
SELECT mapping, columns FROM collections WHERE id = %(collection_id)s FOR NO KEY UPDATE

-- name: write_columns
UPDATE collections SET mapping = %(mapping)s, columns = %(columns)s WHERE id = %(collection_id)s

-- name: count_tables
SELECT count(*) AS total FROM collections WHERE project_id = %(project_id)s AND deleted_at IS NULL

-- name: page_tables
-- No LIKE: none of its wildcards can slip in.
WITH found AS MATERIALIZED (
    SELECT name
    FROM collections
    WHERE project_id = %(project_id)s AND deleted_at IS NULL
      AND (%(containing)s::text IS NULL OR strpos(lower(name), lower(%(containing)s)) > 0)
)
SELECT (SELECT count(*) FROM found) AS total,
       ARRAY(SELECT name FROM found ORDER BY name OFFSET %(offset)s LIMIT %(size)s) AS names

-- name: size_of_tables_columns
SELECT coalesce(sum(octet_length(columns::text)), 0) AS bytes
FROM collections
WHERE project_id = %(project_id)s AND deleted_at IS NULL AND name = ANY (%(names)s::text[])

-- name: describe_tables
SELECT c.id, c.name, c.mapping, c.columns,
       greatest((SELECT max(i.finished_at) FROM imports AS i
                 WHERE i.collection_id = c.id AND i.finished_at IS NOT NULL),
                (SELECT max(p.created_at) FROM pushes AS p WHERE p.collection_id = c.id)) AS changed_at
FROM collections AS c
WHERE c.project_id = %(project_id)s AND c.deleted_at IS NULL AND c.name = ANY (%(names)s::text[])

-- name: one_snapshot
-- Of all that this transaction reads: a page, and how many rows there are.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- name: count_rows
SELECT count(*) AS total
FROM events
WHERE collection_id = %(collection_id)s AND event_id BETWEEN %(low)s AND %(high)s
  AND (%(since)s::timestamptz IS NULL OR time >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR time <= %(until)s)

-- name: read_rows
-- The first row of a page is looked for by its id alone, from the nearer end; Postgres goes through all that is skipped.
SELECT event_id, time, payload::text AS payload
FROM events
WHERE collection_id = %(collection_id)s AND event_id <= %(high)s
  AND (%(since)s::timestamptz IS NULL OR time >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR time <= %(until)s)
  AND event_id >= CASE WHEN %(before)s::bigint <= %(behind)s::bigint
      THEN (SELECT event_id
            FROM events
            WHERE collection_id = %(collection_id)s AND event_id BETWEEN %(low)s AND %(high)s
              AND (%(since)s::timestamptz IS NULL OR time >= %(since)s)
              AND (%(until)s::timestamptz IS NULL OR time <= %(until)s)
            ORDER BY event_id
            OFFSET %(before)s::bigint
            LIMIT 1)
      ELSE (SELECT event_id
            FROM events
            WHERE collection_id = %(collection_id)s AND event_id BETWEEN %(low)s AND %(high)s
              AND (%(since)s::timestamptz IS NULL OR time >= %(since)s)
              AND (%(until)s::timestamptz IS NULL OR time <= %(until)s)
            ORDER BY event_id DESC
            OFFSET %(behind)s::bigint
            LIMIT 1) END
ORDER BY event_id
LIMIT %(most)s

-- name: delete_rows
-- In the order of the key, as every writer to this table: the session walks by it.
WITH gone AS (
    DELETE FROM events
    WHERE collection_id = %(collection_id)s AND event_id BETWEEN %(low)s AND %(high)s
      AND (%(since)s::timestamptz IS NULL OR time >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR time <= %(until)s)
    RETURNING octet_length(payload::text) + 1 AS size
)
SELECT count(*) AS rows, coalesce(sum(size), 0)::bigint AS bytes FROM gone
