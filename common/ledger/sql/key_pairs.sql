-- name: insert_key_pair
INSERT INTO key_pairs (id, sealed) VALUES (%(id)s, %(sealed)s)

-- name: find_key_pair
-- Live ones only, and the time that signatures are compared with.
SELECT k.id, k.project_id, p.name AS project_name, p.import_limit, k.secret_sha256, k.scopes,
       coalesce(k.last_used_at < now() - interval '1 minute', true) AS use_is_due,
       s.sealed, now() AS at
FROM key_pairs AS s
JOIN api_keys AS k ON k.id = s.id
JOIN projects AS p ON p.id = k.project_id
WHERE s.id = %(id)s
  AND s.sealed IS NOT NULL
  AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > now())
