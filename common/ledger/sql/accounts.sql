-- name: lock_owner
-- One new project of an owner at a time. Not FOR UPDATE: every new import's foreign key would wait for it.
SELECT id FROM projects WHERE id = %(owner_id)s FOR NO KEY UPDATE

-- name: count_owned
SELECT count(*) AS owned FROM projects WHERE owner_id = %(owner_id)s

-- name: insert_owned
INSERT INTO projects (id, name, title, owner_id) VALUES (%(id)s, %(name)s, %(title)s, %(owner_id)s)

-- name: find_owned
-- The owner is its own, too.
SELECT id, name, coalesce(title, name) AS title, import_limit, created_at
FROM projects
WHERE id = %(id)s AND %(owner_id)s IN (id, owner_id)

-- name: list_owned
SELECT id, name, coalesce(title, name) AS title, import_limit, created_at
FROM projects
WHERE id = %(owner_id)s OR owner_id = %(owner_id)s
ORDER BY created_at, id
