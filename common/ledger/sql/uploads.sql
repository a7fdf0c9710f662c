-- name: insert_upload
-- Behind the import's row, in its transaction: whoever sees the import sees that it waits.
WITH waiting AS (
    UPDATE imports
    SET not_before = 'infinity'
    WHERE id = %(import_id)s
    RETURNING id
)
INSERT INTO uploads (import_id, bucket, key)
SELECT id, %(bucket)s, %(key)s FROM waiting

-- name: note_upload_id
-- Of an import that has ended too: it tells what is to be broken off.
UPDATE uploads
SET upload_id = %(upload_id)s, touched_at = now()
WHERE import_id = %(import_id)s
RETURNING import_id

-- name: touch_upload
-- Bytes have come. No row where the import has ended: nobody waits for more of them.
UPDATE uploads AS u
SET touched_at = now()
FROM imports AS i
WHERE u.import_id = %(import_id)s AND u.done_at IS NULL AND i.id = u.import_id AND i.finished_at IS NULL
RETURNING u.import_id

-- name: note_upload_done
UPDATE uploads SET done_at = now() WHERE import_id = %(import_id)s AND done_at IS NULL RETURNING import_id

-- name: stop_waiting
-- The fence: an import that was ended, by its caller or by the sweep, is not begun by a body that comes too late.
UPDATE imports SET not_before = now(), sent_at = now() WHERE id = %(import_id)s AND state = 'pending' RETURNING id

-- name: find_upload
SELECT done_at IS NOT NULL AS done FROM uploads WHERE import_id = %(import_id)s

-- name: lock_awaited_upload
-- Keeps the body's last step and its end by somebody else apart.
SELECT import_id
FROM uploads
WHERE import_id = %(import_id)s
  AND done_at IS NULL
  AND touched_at <= now() - make_interval(secs => %(silent_seconds)s)
FOR UPDATE

-- name: silent_uploads
-- Bodies of which nothing came for so long, while their imports still wait.
SELECT u.import_id
FROM uploads AS u
JOIN imports AS i ON i.id = u.import_id
WHERE u.done_at IS NULL
  AND u.touched_at <= now() - make_interval(secs => %(silent_seconds)s)
  AND i.finished_at IS NULL

-- name: take_ended_uploads
-- What is to be deleted now. Marked as tried before it is tried: what cannot be deleted must not keep the others from it.
UPDATE uploads AS u
SET delete_after = now() + make_interval(secs => %(again_seconds)s)
WHERE u.import_id IN (
    SELECT e.import_id
    FROM uploads AS e
    JOIN imports AS i ON i.id = e.import_id
    WHERE i.finished_at IS NOT NULL AND e.delete_after <= now()
    ORDER BY e.delete_after
    LIMIT %(most)s)
RETURNING u.import_id, u.bucket, u.key, u.upload_id, u.done_at IS NOT NULL AS done,
          u.touched_at < now() - make_interval(secs => %(old_seconds)s) AS old

-- name: delete_upload
DELETE FROM uploads WHERE import_id = %(import_id)s
