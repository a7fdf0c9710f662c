-- name: lock_export_places
-- One admission of a project at a time, as with imports: the count below must not be overtaken.
SELECT pg_advisory_xact_lock(hashtextextended('exports:' || %(project_id)s, 0))

-- name: active_exports
SELECT id FROM exports WHERE project_id = %(project_id)s AND state IN ('pending', 'running') ORDER BY number

-- name: insert_export
INSERT INTO exports (id, project_id, collection_id, api_key_id, spec)
VALUES (%(id)s, %(project_id)s, %(collection_id)s, %(api_key_id)s, %(spec)s)

-- name: insert_export_secret
INSERT INTO export_secrets (export_id, sealed, expires_at)
VALUES (%(export_id)s, %(sealed)s, now() + make_interval(days => %(days)s))

-- name: read_export_secret
SELECT sealed FROM export_secrets WHERE export_id = %(export_id)s AND expires_at > now()

-- name: claim_export
-- Takes an export that nobody writes, or whose writer's lease has ended or whose snapshot's backend is gone.
-- SKIP LOCKED: whoever is claiming it at this moment has it.
WITH claimable AS (
    SELECT id, holder_pid, holder_started
    FROM exports
    WHERE id = %(export_id)s
      AND (state = 'pending'
           OR state = 'running' AND (lease_expires_at < now() OR NOT holder_lives(holder_pid, holder_started)))
      AND not_before <= now()
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE exports AS x
SET state = 'running',
    started_at = coalesce(started_at, now()),
    attempts = attempts + 1,
    lease_token = nextval('lease_tokens'),
    lease_expires_at = now() + make_interval(secs => %(lease_seconds)s),
    holder_pid = pg_backend_pid(),
    holder_started = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),
    attempt_started_at = now(), snapshot_at = NULL,
    events_total = NULL, bytes_total = NULL, events_done = 0, bytes_done = 0
FROM claimable
WHERE x.id = claimable.id
RETURNING x.id, x.project_id, x.collection_id, x.created_at, x.spec, x.attempts, x.lease_token,
          claimable.holder_pid AS former_pid, claimable.holder_started AS former_started

-- name: begin_snapshot
-- Everything the attempt reads is one snapshot: what the count says is what the COPY gives.
-- Its last lines wait for S3 when the COPY is over: for longer than a session may be idle in a transaction otherwise.
-- That of a writer who was stopped there ends with its lease.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL idle_in_transaction_session_timeout = 0

-- name: read_snapshot
SELECT pid, backend_start AS started, clock_timestamp() AS at
FROM pg_stat_activity
WHERE pid = pg_backend_pid()

-- name: note_snapshot
-- From now on the lease lives as long as the backend that holds the snapshot.
UPDATE exports
SET holder_pid = %(pid)s, holder_started = %(started)s, snapshot_at = %(at)s
WHERE id = %(export_id)s AND lease_token = %(lease_token)s AND state = 'running'
RETURNING id

-- name: note_totals
UPDATE exports
SET events_total = %(events)s, bytes_total = %(bytes)s
WHERE id = %(export_id)s AND lease_token = %(lease_token)s AND state = 'running'
RETURNING id

-- name: count_exported
-- The condition stands for what a query asks for, here and below.
SELECT count(*) FILTER (WHERE %(whole)s OR NOT odd) AS events,
       count(*) FILTER (WHERE NOT (%(whole)s OR NOT odd)) AS odd,
       coalesce(sum(octet_length(payload::text) + 1) FILTER (WHERE %(whole)s OR NOT odd), 0)::bigint AS bytes
FROM events
WHERE /* selection */ true

-- name: count_filled
-- The same with the bytes of each member that a payload lacks; an empty object has no comma before the first of them.
SELECT count(*) FILTER (WHERE %(whole)s OR NOT odd) AS events,
       count(*) FILTER (WHERE NOT (%(whole)s OR NOT odd)) AS odd,
       coalesce(sum(octet_length(payload::text) + 1
           + CASE WHEN odd THEN 0 ELSE
                 CASE WHEN payload ->> %(id_name)s::text IS NULL THEN %(id_bytes)s::bigint ELSE 0 END
                 + CASE WHEN payload ->> %(time_name)s::text IS NULL THEN %(time_bytes)s::bigint ELSE 0 END
                 - CASE WHEN payload::text ~ '^[ \t\r]*[{][ \t\r]*[}]' THEN 1 ELSE 0 END
             END) FILTER (WHERE %(whole)s OR NOT odd), 0)::bigint AS bytes
FROM events
WHERE /* selection */ true

-- name: copy_payloads
COPY (
    SELECT payload
    FROM events
    WHERE /* selection */ true AND (odd OR NOT %(odd_only)s)
) TO STDOUT (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')

-- name: copy_with_mark
COPY (
    SELECT payload, CASE WHEN odd THEN 't' END
    FROM events
    WHERE /* selection */ true AND (odd OR NOT %(odd_only)s)
) TO STDOUT (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')

-- name: copy_with_identity
COPY (
    SELECT payload, CASE WHEN odd THEN 't' END, shown_id(event_id, (SELECT hash_key FROM identity_key)),
           to_char(time, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    FROM events
    WHERE /* selection */ true AND (odd OR NOT %(odd_only)s)
) TO STDOUT (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')

-- name: read_few
-- Cut before they are sorted: of a large collection no more is read than tells that it is too large.
SELECT payload::text AS payload, odd, shown_id(event_id, (SELECT hash_key FROM identity_key)) AS event_id,
       to_char(time, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS iso_time
FROM (SELECT * FROM events WHERE /* selection */ true LIMIT %(most)s::bigint + 1) AS few
ORDER BY time, event_id

-- name: has_many_odd
SELECT 1 AS many FROM events WHERE /* selection */ true AND odd OFFSET %(most)s LIMIT 1

-- name: read_few_judged
-- Odd ones are judged by who reads this, so that they cannot be cut here.
SELECT payload::text AS payload, odd, shown_id(event_id, (SELECT hash_key FROM identity_key)) AS event_id,
       to_char(time, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS iso_time
FROM (
    (SELECT * FROM events WHERE /* selection */ true AND NOT odd LIMIT %(most)s::bigint + 1)
    UNION ALL
    (SELECT * FROM events WHERE /* selection */ true AND odd)) AS few
ORDER BY time, event_id

-- name: renew_export
-- Where something moved since the last time: rows came, bytes left, or Postgres is at work on the statement and does not
-- wait for us (a filter that finds nothing for minutes; a count). Not by a timer alone: an attempt that hangs loses it.
-- No row where it is another's by now, or the export has ended.
UPDATE exports AS x
SET events_done = %(events)s, bytes_done = %(bytes)s,
    lease_expires_at = CASE
        WHEN %(moved)s OR EXISTS (
            SELECT FROM pg_stat_activity AS a
            WHERE a.pid = x.holder_pid AND a.backend_start = x.holder_started
              AND a.state = 'active' AND a.wait_event IS DISTINCT FROM 'ClientWrite')
        THEN now() + make_interval(secs => %(lease_seconds)s)
        ELSE x.lease_expires_at END
WHERE x.id = %(export_id)s AND x.lease_token = %(lease_token)s AND x.state = 'running'
RETURNING x.id

-- name: cancel_statement
SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %(pid)s AND backend_start = %(started)s

-- name: insert_object
-- Before S3 hears of it. No row where the export is another's by now, or has ended.
INSERT INTO export_objects (export_id, lease_token, number, key)
SELECT id, lease_token, %(number)s, %(key)s
FROM exports
WHERE id = %(export_id)s AND lease_token = %(lease_token)s AND state = 'running'
FOR SHARE
RETURNING number

-- name: note_upload
UPDATE export_objects
SET upload_id = %(upload_id)s
WHERE export_id = %(export_id)s AND lease_token = %(lease_token)s AND number = %(number)s
RETURNING number

-- name: note_sealing
-- The fence in front of the one request that makes an object: FOR SHARE waits for a cancel that is under way.
UPDATE export_objects AS o
SET state = 'sealing'
FROM (SELECT id FROM exports
      WHERE id = %(export_id)s AND lease_token = %(lease_token)s AND state = 'running'
      FOR SHARE) AS x
WHERE o.export_id = x.id AND o.lease_token = %(lease_token)s AND o.number = %(number)s
RETURNING o.number

-- name: note_written
UPDATE export_objects
SET state = 'written', events = %(events)s, bytes = %(bytes)s, sha256 = %(sha256)s
WHERE export_id = %(export_id)s AND lease_token = %(lease_token)s AND number = %(number)s
RETURNING number

-- name: complete_export
-- What earlier attempts could not take back is left to the sweep.
UPDATE exports AS x
SET state = 'completed', finished_at = now(),
    events_total = %(events)s, events_done = %(events)s, bytes_total = %(bytes)s, bytes_done = %(bytes)s,
    clean_at = CASE WHEN EXISTS (
        SELECT FROM export_objects AS o WHERE o.export_id = x.id AND o.lease_token <> x.lease_token) THEN now() END
WHERE x.id = %(export_id)s AND x.lease_token = %(lease_token)s AND x.state = 'running'
RETURNING x.id

-- name: is_completed
SELECT EXISTS (
    SELECT FROM exports
    WHERE id = %(export_id)s AND lease_token = %(lease_token)s AND state = 'completed') AS completed

-- name: lock_export
-- In front of an end, as a statement of its own: the snapshot of that one then has the object that a writer, which holds
-- the row FOR SHARE meanwhile, is noting. Without it the end saw nothing to take back, and deleted the credentials.
SELECT id FROM exports WHERE id = %(export_id)s FOR NO KEY UPDATE

-- name: fail_export
UPDATE exports AS x
SET state = 'failed', finished_at = now(), error_code = %(code)s, error_message = %(message)s,
    clean_at = CASE WHEN EXISTS (SELECT FROM export_objects AS o WHERE o.export_id = x.id) THEN now() END
WHERE x.id = %(export_id)s AND x.state IN ('pending', 'running')
  AND (%(lease_token)s::bigint IS NULL OR x.lease_token = %(lease_token)s)
RETURNING x.id

-- name: cancel_export
UPDATE exports AS x
SET state = 'cancelled', finished_at = now(),
    clean_at = CASE WHEN EXISTS (SELECT FROM export_objects AS o WHERE o.export_id = x.id) THEN now() END
WHERE x.id = %(export_id)s AND x.project_id = %(project_id)s AND x.state IN ('pending', 'running')
RETURNING x.id

-- name: delete_needless_secret
-- Of an export that has ended: as soon as nothing of it has to be taken out of the bucket any more.
DELETE FROM export_secrets AS s
USING exports AS x
WHERE s.export_id = %(export_id)s AND x.id = s.export_id AND x.finished_at IS NOT NULL AND x.clean_at IS NULL

-- name: has_export_ended
SELECT id FROM exports WHERE id = %(export_id)s AND finished_at IS NOT NULL

-- name: has_been_given_up
SELECT id FROM exports WHERE id = %(export_id)s AND state IN ('failed', 'cancelled')

-- name: release_export
-- Gives the export back: after a failure that passes (the attempt counts), or at a graceful stop (it does not).
UPDATE exports
SET attempts = attempts - CASE WHEN %(attempt_counts)s THEN 0 ELSE 1 END,
    lease_expires_at = now(), not_before = now() + make_interval(secs => %(delay_seconds)s),
    -- Who gave it back has gone on to other work; the next holder must not end its backend.
    holder_pid = NULL, holder_started = NULL
WHERE id = %(export_id)s AND lease_token = %(lease_token)s AND state = 'running'

-- name: list_leftovers
-- What is in the bucket, or may be, and shall not: all of an export that did not complete, and of earlier attempts. An
-- attempt writes under the same keys as the one before it: where the last has completed, what stands there is its own.
SELECT o.lease_token, o.number, o.key, o.upload_id,
       o.state <> 'begun' AND NOT (x.state = 'completed' AND EXISTS (
           SELECT FROM export_objects AS k
           WHERE k.export_id = x.id AND k.lease_token = x.lease_token AND k.key = o.key)) AS stands
FROM export_objects AS o
JOIN exports AS x ON x.id = o.export_id
WHERE o.export_id = %(export_id)s
  AND (x.state IN ('failed', 'cancelled') OR o.lease_token <> x.lease_token)
  AND (%(number)s::integer IS NULL OR (o.lease_token, o.number) = (%(lease_token)s, %(number)s))
ORDER BY o.lease_token, o.number

-- name: forget_leftover
DELETE FROM export_objects
WHERE export_id = %(export_id)s AND lease_token = %(lease_token)s AND number = %(number)s

-- name: note_clean
-- Nothing is left, or nothing can be done about it any more.
UPDATE exports SET clean_at = NULL WHERE id = %(export_id)s AND finished_at IS NOT NULL RETURNING id

-- name: take_to_clean
-- Marked as tried before it is tried: what cannot be deleted must not keep the others from it.
UPDATE exports AS x
SET clean_at = now() + make_interval(secs => %(again_seconds)s)
WHERE x.id IN (
    SELECT id FROM exports
    WHERE clean_at <= now() AND finished_at IS NOT NULL
    ORDER BY clean_at
    LIMIT %(most)s
    FOR UPDATE SKIP LOCKED)
RETURNING x.id, x.project_id, x.collection_id, x.created_at, x.spec

-- name: clean_soon
UPDATE exports SET clean_at = now() WHERE id = ANY (%(export_ids)s::uuid[]) AND clean_at IS NOT NULL

-- name: read_export_status
SELECT x.id, x.number, x.state, x.spec, x.project_id, x.created_at, x.started_at, x.finished_at,
       now() AS read_at, x.attempt_started_at, x.snapshot_at, x.events_total, x.bytes_total, x.events_done,
       x.bytes_done, x.error_code, x.error_message, x.api_key_id,
       (SELECT json_agg(json_build_array(h.state, h.at) ORDER BY h.number)
        FROM export_history AS h WHERE h.export_id = x.id) AS history,
       CASE WHEN x.state = 'completed' THEN (
           SELECT json_agg(json_build_array(o.number, o.key, o.events, o.bytes, o.sha256) ORDER BY o.number)
           FROM export_objects AS o
           WHERE o.export_id = x.id AND o.lease_token = x.lease_token) END AS objects
FROM exports AS x
WHERE x.id = %(export_id)s AND x.project_id = %(project_id)s

-- name: list_exports
-- One page, newest first; one row more than asked for tells that there is a next.
SELECT id, number
FROM exports
WHERE project_id = %(project_id)s
  AND (%(before)s::bigint IS NULL OR number < %(before)s)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
  AND (%(collection)s::text IS NULL OR spec ->> 'collection' = %(collection)s)
ORDER BY number DESC
LIMIT %(limit)s + 1

-- name: is_export_waiting
-- Whether any exporter could start something. What a dead one holds counts from the end of its lease on.
SELECT EXISTS (
    SELECT FROM exports
    WHERE not_before <= now() AND (state = 'pending' OR state = 'running' AND lease_expires_at < now())) AS waiting

-- name: is_export_in_work
-- Whether any exporter is at work.
SELECT EXISTS (
    SELECT FROM exports
    WHERE state = 'running' AND lease_expires_at >= now() AND holder_lives(holder_pid, holder_started)) AS in_work

-- name: count_due_exports
SELECT count(*) AS due
FROM exports
WHERE not_before <= now()
  AND (state = 'pending'
       OR state = 'running' AND (lease_expires_at < now() OR NOT holder_lives(holder_pid, holder_started)))

-- name: send_exports_again
-- Exports whose message was lost, and those whose writer is gone.
UPDATE exports
SET sent_at = now()
WHERE id IN (
    SELECT id
    FROM exports
    WHERE (state = 'pending'
           OR state = 'running' AND (lease_expires_at < now() OR NOT holder_lives(holder_pid, holder_started)))
      AND not_before <= now()
      AND sent_at < now() - make_interval(secs => %(resend_seconds)s)
    ORDER BY number
    LIMIT %(room)s
    FOR UPDATE SKIP LOCKED)
RETURNING id

-- name: end_expired_writers
-- Backends whose attempt has lost its lease: a stopped writer would keep its snapshot, and dead rows with it.
WITH expired AS MATERIALIZED (
    SELECT a.pid
    FROM exports AS x
    JOIN pg_stat_activity AS a ON a.pid = x.holder_pid AND a.backend_start = x.holder_started
    WHERE x.state = 'running' AND x.lease_expires_at < now() AND a.pid <> pg_backend_pid()
)
SELECT pg_terminate_backend(pid) FROM expired

-- name: expired_export_secrets
SELECT x.id
FROM exports AS x
JOIN export_secrets AS s ON s.export_id = x.id
WHERE s.expires_at <= now() AND x.state IN ('pending', 'running')

-- name: delete_stale_export_secrets
DELETE FROM export_secrets AS s
USING exports AS x
WHERE x.id = s.export_id AND x.finished_at IS NOT NULL AND (x.clean_at IS NULL OR s.expires_at <= now())
