-- name: lock_registry
-- Two that register things of a project must not both find room for the last one.
SELECT pg_advisory_xact_lock(hashtextextended('registry:' || %(project_id)s, 0))

-- name: insert_things
-- One may have been registered by somebody else since it was looked for.
INSERT INTO registered (project_id, kind, id)
SELECT %(project_id)s, t.kind, t.id
FROM unnest(%(kinds)s::text[], %(ids)s::text[]) AS t (kind, id)
ON CONFLICT DO NOTHING

-- name: count_things
SELECT count(*) AS count FROM registered WHERE project_id = %(project_id)s

-- name: find_thing
SELECT 1 FROM registered WHERE project_id = %(project_id)s AND kind = %(kind)s AND id = %(id)s

-- name: read_things
SELECT kind, id FROM registered WHERE project_id = %(project_id)s

-- name: list_things
SELECT kind, id, created_at
FROM registered
WHERE project_id = %(project_id)s AND (%(kind)s::text IS NULL OR kind = %(kind)s)
ORDER BY kind, created_at, id

-- name: delete_thing
DELETE FROM registered WHERE project_id = %(project_id)s AND kind = %(kind)s AND id = %(id)s
