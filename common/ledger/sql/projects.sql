-- name: insert_project
INSERT INTO projects (id, name) VALUES (%(id)s, %(name)s)

-- name: find_project
SELECT id FROM projects WHERE name = %(name)s

-- name: insert_key
INSERT INTO api_keys (id, project_id, secret_sha256, scopes) VALUES (%(id)s, %(project_id)s, %(secret_sha256)s, %(scopes)s)

-- name: find_key
-- Live keys only; whether the secret is right is compared in constant time by the caller.
SELECT k.id, k.project_id, p.name AS project_name, p.import_limit, k.secret_sha256, k.scopes
FROM api_keys AS k
JOIN projects AS p ON p.id = k.project_id
WHERE k.id = %(id)s
  AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > now())
