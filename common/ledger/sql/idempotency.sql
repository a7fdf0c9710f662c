-- name: hold_key
SELECT pg_advisory_xact_lock(hashtextextended('key:' || %(project_id)s || ':' || %(key)s, 0))

-- name: find_made
-- One row at the most: whoever writes one holds the key and has found none. Ids as the model spells them.
SELECT fingerprint, made
FROM (SELECT project_id, key, created_at, fingerprint, replace(import_id::text, '-', '') AS made FROM idempotency_keys
      UNION ALL
      SELECT project_id, key, created_at, fingerprint, replace(export_id::text, '-', '') FROM export_keys
      UNION ALL
      SELECT project_id, key, created_at, fingerprint, verdicts::text FROM push_keys) AS keys
WHERE project_id = %(project_id)s AND key = %(key)s AND created_at >= now() - interval '24 hours'

-- name: note_import
-- A row that is there already is past its day.
INSERT INTO idempotency_keys AS k (project_id, key, fingerprint, import_id)
VALUES (%(project_id)s, %(key)s, %(fingerprint)s, %(made)s)
ON CONFLICT (project_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, import_id = excluded.import_id, created_at = excluded.created_at

-- name: note_export
INSERT INTO export_keys AS k (project_id, key, fingerprint, export_id)
VALUES (%(project_id)s, %(key)s, %(fingerprint)s, %(made)s)
ON CONFLICT (project_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, export_id = excluded.export_id, created_at = excluded.created_at

-- name: note_push
INSERT INTO push_keys AS k (project_id, key, fingerprint, verdicts)
VALUES (%(project_id)s, %(key)s, %(fingerprint)s, %(made)s)
ON CONFLICT (project_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, verdicts = excluded.verdicts, created_at = excluded.created_at

-- name: delete_old_import_keys
DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours'

-- name: delete_old_export_keys
DELETE FROM export_keys WHERE created_at < now() - interval '24 hours'

-- name: delete_old_push_keys
DELETE FROM push_keys WHERE created_at < now() - interval '24 hours'

-- name: forget_key_of_broken_upload
-- Whose body never came to its end was never told that it made an import.
DELETE FROM idempotency_keys AS k
USING uploads AS u
WHERE k.import_id = %(import_id)s AND u.import_id = k.import_id AND u.done_at IS NULL
