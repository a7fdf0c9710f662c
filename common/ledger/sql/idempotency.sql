-- name: hold_key
SELECT pg_advisory_xact_lock(hashtextextended('key:' || %(project_id)s || ':' || %(key)s, 0))

-- name: insert_idempotency_key
-- Waits for a request with the same key that is under way. No row: the key has made something within its day.
INSERT INTO idempotency_keys AS k (project_id, key, fingerprint, import_id)
VALUES (%(project_id)s, %(key)s, %(fingerprint)s, %(import_id)s)
ON CONFLICT (project_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, import_id = excluded.import_id, created_at = excluded.created_at
WHERE k.created_at < now() - interval '24 hours'
RETURNING k.import_id

-- name: read_idempotency_key
SELECT fingerprint, import_id FROM idempotency_keys WHERE project_id = %(project_id)s AND key = %(key)s

-- name: delete_old_idempotency_keys
DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours'

-- name: forget_key_of_broken_upload
-- Whose body never came to its end was never told that it made an import.
DELETE FROM idempotency_keys AS k
USING uploads AS u
WHERE k.import_id = %(import_id)s AND u.import_id = k.import_id AND u.done_at IS NULL

-- name: has_made_export
SELECT EXISTS (
    SELECT FROM export_keys
    WHERE project_id = %(project_id)s AND key = %(key)s AND created_at >= now() - interval '24 hours') AS made
