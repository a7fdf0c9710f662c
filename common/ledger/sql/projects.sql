-- name: has_tables
-- Whether this database was ever migrated.
SELECT to_regclass('api_keys') IS NOT NULL AS found

-- name: ensure_project
-- Does nothing, but for a lock on the row, where the project exists; DO NOTHING would return no id.
INSERT INTO projects (id, name) VALUES (%(id)s, %(name)s)
ON CONFLICT (name) DO UPDATE SET name = excluded.name
RETURNING id

-- name: create_events_view
-- Does nothing where there is one. The row of the project is locked by whoever creates it.
SELECT create_events_view(%(id)s)

-- name: grant_events_view
-- Makes the view where a version of before made the project.
SELECT grant_events_view(%(id)s, %(reader)s)

-- name: find_project
-- By id or by name: no name may look like an id.
SELECT id, name, import_limit, created_at, events_view(id) AS view FROM projects WHERE id = %(id)s OR name = %(name)s

-- name: list_projects
SELECT id, name, import_limit, created_at, events_view(id) AS view FROM projects ORDER BY name

-- name: set_import_limit
UPDATE projects SET import_limit = %(import_limit)s WHERE id = %(id)s

-- name: lock_keys
-- One new key of a project at a time. Not FOR UPDATE: every new import's foreign key would wait for it.
SELECT id FROM projects WHERE id = %(id)s FOR NO KEY UPDATE

-- name: live_keys
-- Of one kind, the one unused for longest first.
SELECT k.id
FROM api_keys AS k
WHERE k.project_id = %(project_id)s AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
  AND CASE WHEN EXISTS (SELECT FROM master_keys AS m WHERE m.id = k.id) THEN 'master'
           WHEN EXISTS (SELECT FROM key_pairs AS s WHERE s.id = k.id) THEN 'pair'
           ELSE 'key' END = %(kind)s
ORDER BY coalesce(last_used_at, created_at), id

-- name: insert_key
-- Expires at a time, or after a while by the database's clock, or never.
INSERT INTO api_keys (id, project_id, secret_sha256, scopes, expires_at)
VALUES (%(id)s, %(project_id)s, %(secret_sha256)s, %(scopes)s,
        coalesce(%(expires_at)s::timestamptz, now() + %(expires_after)s::interval))
RETURNING coalesce(expires_at <= now(), false) AS expired

-- name: insert_master_key
INSERT INTO master_keys (id, project_id, sealed, strict) VALUES (%(id)s, %(project_id)s, %(sealed)s, %(strict)s)

-- name: list_keys
SELECT k.id, k.scopes, k.created_at, k.expires_at, k.last_used_at,
       CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'
            WHEN k.expires_at <= now() THEN 'expired'
            ELSE 'live' END AS state,
       CASE WHEN m.strict THEN 'strict master'
            WHEN m.id IS NOT NULL THEN 'master'
            WHEN s.id IS NOT NULL THEN 'pair'
            ELSE 'key' END AS kind
FROM api_keys AS k
LEFT JOIN master_keys AS m ON m.id = k.id
LEFT JOIN key_pairs AS s ON s.id = k.id
WHERE k.project_id = %(project_id)s
ORDER BY k.created_at, k.id

-- name: revoke_key
-- The first revocation counts; a second one changes nothing. What is sealed of the key is known no longer.
WITH forgotten AS (UPDATE master_keys SET sealed = NULL WHERE id = %(id)s),
     forgotten_too AS (UPDATE key_pairs SET sealed = NULL WHERE id = %(id)s)
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %(id)s RETURNING revoked_at

-- name: find_key
-- Live keys only; whether the secret is right is compared in constant time by the caller.
SELECT k.id, k.project_id, p.name AS project_name, p.import_limit, k.secret_sha256, k.scopes,
       coalesce(k.last_used_at < now() - interval '1 minute', true) AS use_is_due
FROM api_keys AS k
JOIN projects AS p ON p.id = k.project_id
WHERE k.id = %(id)s
  AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > now())

-- name: find_master_keys
-- A project's live ones, the oldest first.
SELECT k.id, k.project_id, p.name AS project_name, p.import_limit, k.secret_sha256, k.scopes,
       coalesce(k.last_used_at < now() - interval '1 minute', true) AS use_is_due,
       m.sealed, m.strict
FROM master_keys AS m
JOIN api_keys AS k ON k.id = m.id
JOIN projects AS p ON p.id = m.project_id
WHERE m.project_id = %(project_id)s
  AND m.sealed IS NOT NULL
  AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > now())
ORDER BY k.created_at, k.id

-- name: lock_sealed_master_keys
-- Nobody revokes one before the commit.
SELECT id, project_id::text AS owner, sealed FROM master_keys WHERE sealed IS NOT NULL ORDER BY id FOR UPDATE

-- name: replace_sealed_master_key
UPDATE master_keys SET sealed = %(sealed)s WHERE id = %(id)s

-- name: lock_sealed_pairs
SELECT id, id AS owner, sealed FROM key_pairs WHERE sealed IS NOT NULL ORDER BY id FOR UPDATE

-- name: replace_sealed_pair
UPDATE key_pairs SET sealed = %(sealed)s WHERE id = %(id)s

-- name: only_if_at_once
SET LOCAL lock_timeout = '50ms'; SET LOCAL synchronous_commit = off

-- name: note_use
-- Once a minute for each key: a write a request would make one row the hottest of the database. Who holds it at this
-- moment is noting the same use or revoking the key, and is not waited for.
UPDATE api_keys
SET last_used_at = now()
WHERE id = (
    SELECT id
    FROM api_keys
    WHERE id = %(id)s AND coalesce(last_used_at < now() - interval '1 minute', true)
    FOR NO KEY UPDATE SKIP LOCKED)
