-- name: lock_slots
-- One admission of a project at a time: the count below and the insert behind it must not be overtaken.
SELECT pg_advisory_xact_lock(hashtextextended('slots:' || %(project_id)s, 0))

-- name: active_imports
-- The imports that hold the project's slots, oldest first.
SELECT id, door
FROM imports
WHERE project_id = %(project_id)s AND state IN ('pending', 'planning', 'running', 'paused')
ORDER BY number

-- name: slots_in_use
-- The same of all projects.
SELECT project_id, array_agg(id::text) AS imports
FROM imports
WHERE state IN ('pending', 'planning', 'running', 'paused')
GROUP BY project_id

-- name: import_limit
SELECT import_limit FROM projects WHERE id = %(project_id)s

-- name: insert_import
INSERT INTO imports (id, project_id, collection_id, api_key_id, source, mapping, max_rejects, format, compression,
                     if_seen, door, most_bytes, asked, columns)
VALUES (%(id)s, %(project_id)s, %(collection_id)s, %(api_key_id)s, %(source)s, %(mapping)s, %(max_rejects)s,
        %(format)s, %(compression)s, %(if_seen)s, %(door)s, %(most_bytes)s, %(asked)s, %(columns)s)

-- name: insert_secret
INSERT INTO import_secrets (import_id, sealed, expires_at)
VALUES (%(import_id)s, %(sealed)s, now() + make_interval(days => %(days)s))

-- name: read_secret
SELECT sealed FROM import_secrets WHERE import_id = %(import_id)s AND expires_at > now()

-- name: read_import
SELECT id, number, project_id, collection_id, state, created_at, source, mapping, max_rejects, format, compression,
       if_seen, most_bytes, columns
FROM imports
WHERE id = %(import_id)s

-- name: claim_plan
-- Takes an import that nobody plans, or whose planner's lease has ended or whose planner's backend is gone.
-- SKIP LOCKED: whoever is claiming it at this moment has it.
WITH claimable AS (
    SELECT id, holder_pid, holder_started
    FROM imports
    WHERE id = %(import_id)s
      AND (state = 'pending'
           OR state = 'planning' AND (lease_expires_at < now() OR NOT holder_lives(holder_pid, holder_started)))
      AND not_before <= now()
    FOR UPDATE SKIP LOCKED
)
UPDATE imports AS i
SET state = 'planning',
    attempts = attempts + 1,
    lease_token = nextval('lease_tokens'),
    lease_expires_at = now() + make_interval(secs => %(lease_seconds)s),
    holder_pid = pg_backend_pid(),
    holder_started = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
FROM claimable
WHERE i.id = claimable.id
RETURNING i.id, i.number, i.project_id, i.collection_id, i.state, i.created_at, i.source, i.mapping, i.max_rejects,
          i.format, i.compression, i.if_seen, i.most_bytes, i.columns, i.lease_token, i.attempts, claimable.holder_pid AS former_pid, claimable.holder_started AS former_started

-- name: release_plan
-- Gives a plan back after a failure that passes; the sweep sends it again from not_before on.
UPDATE imports
SET lease_expires_at = now(), not_before = now() + make_interval(secs => %(delay_seconds)s),
    -- Who gave it back has gone on to other work; the next holder must not end its backend.
    holder_pid = NULL, holder_started = NULL
WHERE id = %(import_id)s AND state = 'planning' AND lease_token = %(lease_token)s

-- name: insert_sources
INSERT INTO sources (import_id, ordinal, bucket, key, region, size, etag)
SELECT %(import_id)s, ordinal - 1, bucket, key, region, size, etag
FROM unnest(%(buckets)s::text[], %(keys)s::text[], %(regions)s::text[], %(sizes)s::bigint[], %(etags)s::text[])
     WITH ORDINALITY AS s (bucket, key, region, size, etag, ordinal)
-- Again where a planner found an object of the wrong shape and died before it could say so.
ON CONFLICT (import_id, ordinal) DO UPDATE
    SET bucket = excluded.bucket, key = excluded.key, region = excluded.region, size = excluded.size,
        etag = excluded.etag, error_code = NULL, error_message = NULL

-- name: read_source
SELECT bucket, key, region, size, etag, layout, decoded_size
FROM sources
WHERE import_id = %(import_id)s AND ordinal = %(ordinal)s

-- name: describe_source
UPDATE sources
SET layout = coalesce(%(layout)s, layout), decoded_size = coalesce(%(decoded_size)s, decoded_size)
WHERE import_id = %(import_id)s AND ordinal = %(ordinal)s

-- name: insert_index
INSERT INTO source_indexes (import_id, ordinal, start_offset, content)
VALUES (%(import_id)s, %(ordinal)s, %(start)s, %(content)s)

-- name: read_index
SELECT content
FROM source_indexes
WHERE import_id = %(import_id)s AND ordinal = %(ordinal)s AND start_offset <= %(offset)s
ORDER BY start_offset DESC
LIMIT 1

-- name: delete_indexes
DELETE FROM source_indexes WHERE import_id = %(import_id)s

-- name: fail_source
-- Once: whoever comes second finds the source failed and its chunks closed.
UPDATE sources
SET error_code = %(code)s, error_message = %(message)s
WHERE import_id = %(import_id)s AND ordinal = %(ordinal)s AND error_code IS NULL
RETURNING ordinal

-- name: note_previous
-- The latest import of the collection that completed and took one of these very objects.
UPDATE imports AS mine
SET previous_import = (
    SELECT i.id
    FROM unnest(%(buckets)s::text[], %(keys)s::text[], %(etags)s::text[]) AS o (bucket, key, etag)
    JOIN sources AS s ON s.bucket = o.bucket AND s.key = o.key AND s.etag = o.etag
    JOIN imports AS i ON i.id = s.import_id
    WHERE i.collection_id = mine.collection_id AND i.state IN ('completed', 'completed_with_errors')
    ORDER BY i.number DESC
    LIMIT 1)
WHERE mine.id = %(import_id)s
RETURNING previous_import

-- name: renew_plan
UPDATE imports
SET lease_expires_at = now() + make_interval(secs => %(lease_seconds)s)
WHERE id = %(import_id)s AND state = 'planning' AND lease_token = %(lease_token)s
RETURNING id

-- name: set_mapping
UPDATE imports
SET mapping = %(mapping)s
WHERE id = %(import_id)s AND state = 'planning' AND lease_token = %(lease_token)s

-- name: start_import
-- The plan's commit: no row where another planner holds the lease, or the import was ended meanwhile.
UPDATE imports
SET state = 'running', started_at = now(), bytes_total = %(bytes_total)s, chunks_total = %(chunks_total)s
WHERE id = %(import_id)s AND state = 'planning' AND lease_token = %(lease_token)s
RETURNING id

-- name: settle_import
-- The last one out turns off the light, and anybody may try: the state makes it happen once. Whether there were too
-- many rejects is decided here too: who noticed it first may have died, or be late. An object that could not be read
-- has waited for the others until here.
UPDATE imports AS i
SET (state, error_code, error_message) = (
        SELECT CASE WHEN f.code IS NOT NULL THEN 'failed' WHEN t.rejected > 0 THEN 'completed_with_errors'
                    ELSE 'completed' END,
               f.code, f.message
        FROM (SELECT sum(c.rejected) AS rejected FROM chunks AS c WHERE c.import_id = i.id) AS t
        LEFT JOIN LATERAL (
            SELECT %(code)s, %(message)s, -1 WHERE t.rejected > i.max_rejects
            UNION ALL
            SELECT error_code,
                   CASE WHEN (SELECT count(*) FROM sources WHERE import_id = i.id) > 1
                        THEN key || ': ' || error_message ELSE error_message END,
                   ordinal
            FROM sources
            WHERE import_id = i.id AND error_code IS NOT NULL
            ORDER BY 3
            LIMIT 1) AS f (code, message) ON true),
    finished_at = now()
WHERE i.id = %(import_id)s
  AND i.state = 'running'
  AND NOT EXISTS (SELECT FROM chunks AS c WHERE c.import_id = i.id AND c.state <> 'done')
RETURNING project_id

-- name: cancel_import
-- Waits for chunks in the middle of their last statement (milliseconds); none can commit afterwards (P7).
UPDATE imports
SET state = 'cancelled', finished_at = now()
WHERE id = %(import_id)s AND project_id = %(project_id)s
  AND state IN ('pending', 'planning', 'running', 'paused')
RETURNING project_id

-- name: fail_import
UPDATE imports
SET state = 'failed', finished_at = now(), error_code = %(code)s, error_message = %(message)s
WHERE id = %(import_id)s AND state IN ('pending', 'planning', 'running', 'paused')
RETURNING project_id

-- name: copy_totals
-- After an end, in the same transaction but as a statement of its own: its snapshot is younger than the chunks that
-- the end had to wait for.
UPDATE imports
SET (bytes_done, lines, imported, replaced, duplicates, rejected, blank, stored_bytes, first_time, last_time) = (
    SELECT coalesce(sum(coalesce(bytes, end_offset - start_offset)), 0), coalesce(sum(lines), 0), coalesce(sum(imported), 0),
           coalesce(sum(replaced), 0), coalesce(sum(duplicates), 0), coalesce(sum(rejected), 0), coalesce(sum(blank), 0),
           -- Nobody measured what the code of before stored.
           CASE WHEN coalesce(bool_and(stored_bytes IS NOT NULL OR imported + replaced = 0), true)
                THEN coalesce(sum(stored_bytes), 0) END,
           min(first_time), max(last_time)
    FROM chunks AS c
    WHERE c.import_id = %(import_id)s AND c.state = 'done')
WHERE id = %(import_id)s

-- name: delete_secret
DELETE FROM import_secrets WHERE import_id = %(import_id)s

-- name: holds_plan
SELECT id FROM imports WHERE id = %(import_id)s AND state = 'planning' AND lease_token = %(lease_token)s

-- name: too_many_rejects
-- Whether the import has more rejects than it may.
SELECT sum(c.rejected) > i.max_rejects AS too_many
FROM imports AS i
JOIN chunks AS c ON c.import_id = i.id
WHERE i.id = %(import_id)s
GROUP BY i.id

-- name: read_statuses
-- Locks of tables are taken as they are mentioned: chunks before imports, as writers do. The other way round this met a
-- migration of both in a deadlock. (Nobody refers to the first line, so nothing is read by it.)
WITH mentioned AS (SELECT FROM chunks)
SELECT i.id, i.number, i.state, coalesce(l.former_name, l.name) AS collection, i.source, i.mapping, i.created_at, i.started_at, i.finished_at,
       now() AS read_at, i.bytes_total, i.chunks_total, i.error_code, i.error_message, i.api_key_id, i.project_id,
       i.format, i.compression, i.previous_import, i.asked, i.columns,
       (SELECT v.segment_id FROM segment_versions AS v WHERE v.import_id = i.id) AS segment_id,
       i.bytes_done, i.lines, i.imported, i.replaced, i.duplicates, i.rejected, i.blank,
       (SELECT count(*) FROM chunks AS c
        WHERE c.import_id = i.id AND c.state = 'leased' AND i.state = 'running') AS chunks_running,
       i.chunks_total - (SELECT count(*) FROM chunks AS c
                         WHERE c.import_id = i.id AND c.state <> 'done') AS chunks_done,
       (SELECT json_agg(json_build_array(h.state, h.at) ORDER BY h.number)
        FROM import_history AS h WHERE h.import_id = i.id) AS history
FROM imports AS i
JOIN collections AS l ON l.id = i.collection_id
WHERE i.id = ANY (%(ids)s::uuid[]) AND i.project_id = %(project_id)s

-- name: size_of_columns
SELECT coalesce(sum(octet_length(columns::text)), 0) AS bytes
FROM imports
WHERE id = ANY (%(ids)s::uuid[]) AND project_id = %(project_id)s

-- name: list_imports
-- One page, newest first; one row more than asked for tells that there is a next. Also of deleted collections.
SELECT id, number
FROM imports
WHERE project_id = %(project_id)s
  AND (%(before)s::bigint IS NULL OR number < %(before)s)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
  AND (%(collection)s::text IS NULL OR collection_id IN (
        SELECT id FROM collections WHERE project_id = %(project_id)s AND %(collection)s IN (name, former_name)))
ORDER BY number DESC
LIMIT %(limit)s + 1

-- name: page_imports
-- A numbered page, in one of several orders, and how many imports there are; of equals the earlier one comes first. A
-- page of the opposite order is looked for from its other end.
WITH found AS MATERIALIZED (
    SELECT i.id, i.number,
           row_number() OVER (ORDER BY CASE WHEN %(by)s = 'id' THEN i.id END,
                                       CASE WHEN %(by)s = 'collection' THEN coalesce(l.former_name, l.name) END,
                                       CASE %(by)s
                                           WHEN 'created' THEN i.created_at
                                           WHEN 'changed' THEN (SELECT max(h.at)
                                                                FROM import_history AS h WHERE h.import_id = i.id) END,
                                       i.number) AS place
    FROM imports AS i
    JOIN collections AS l ON l.id = i.collection_id
    WHERE i.project_id = %(project_id)s
      AND (%(since)s::timestamptz IS NULL OR i.created_at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR i.created_at <= %(until)s)
      AND (%(collection)s::text IS NULL OR %(collection)s IN (l.name, l.former_name))
), counted AS (
    SELECT count(*) AS total FROM found
)
SELECT c.total,
       ARRAY(SELECT f.id::text
             FROM found AS f
             WHERE CASE WHEN %(descending)s THEN c.total - f.place ELSE f.place - 1 END
                   BETWEEN %(offset)s AND %(offset)s + %(size)s - 1
             ORDER BY CASE WHEN %(descending)s THEN -f.place ELSE f.place END) AS ids
FROM counted AS c

-- name: list_errors
-- Rejected lines in the order of the objects and their lines, from a position on. The line's index in its object is
-- known once every earlier chunk is done; until then it is counted and not yet listed (no index is ever wrong, and
-- nothing turns up before the position of who reads page by page). Behind a chunk that was closed, since its object
-- could not be read there, it is never known: nobody has counted those lines. Such a chunk is done without a token.
WITH positions AS (
    SELECT id, number, source_ordinal,
           (sum(coalesce(text_lines, lines)) OVER within - coalesce(text_lines, lines))::bigint AS first_line,
           bool_and(state = 'done') OVER earlier
               AND NOT bool_or(state = 'done' AND lease_token IS NULL) OVER within AS known
    FROM chunks
    WHERE import_id = %(import_id)s
    WINDOW earlier AS (ORDER BY number), within AS (PARTITION BY source_ordinal ORDER BY number)
)
SELECT p.number AS chunk, r.line, s.key, p.first_line + r.line AS index, r.byte_offset, r.length, r.code
FROM positions AS p
JOIN rejects AS r ON r.chunk_id = p.id
    AND r.line > CASE WHEN p.number = %(after_chunk)s THEN %(after_line)s::bigint ELSE -1 END
JOIN sources AS s ON s.import_id = %(import_id)s AND s.ordinal = p.source_ordinal
WHERE p.known AND p.number >= %(after_chunk)s
ORDER BY p.number, r.line
LIMIT %(limit)s + 1

-- name: read_rejected
SELECT c.number AS chunk, r.line, r.body
FROM unnest(%(chunks)s::integer[], %(lines)s::bigint[]) AS asked (chunk, line)
JOIN chunks AS c ON c.import_id = %(import_id)s AND c.number = asked.chunk
JOIN rejects AS r ON r.chunk_id = c.id AND r.line = asked.line

-- name: read_objects
-- The first objects of imports, as their planners and those who looked at them left them.
SELECT i.id AS import_id, s.key, s.size, s.layout, s.error_code, s.error_message,
       EXISTS (SELECT FROM chunks AS c
               WHERE c.import_id = i.id AND c.source_ordinal = s.ordinal AND c.state <> 'done') AS open
FROM unnest(%(ids)s::uuid[]) AS i (id)
CROSS JOIN LATERAL (
    SELECT ordinal, key, size, layout, error_code, error_message
    FROM sources
    WHERE import_id = i.id
    ORDER BY ordinal
    LIMIT %(limit)s) AS s
ORDER BY i.id, s.ordinal

-- name: count_pieces
SELECT s.import_id, count(*) AS total, count(s.error_code) AS failed,
       count(*) FILTER (WHERE s.error_code IS NULL AND o.source_ordinal IS NULL) AS completed,
       array_agg(DISTINCT s.layout ->> 'format') FILTER (WHERE s.layout IS NOT NULL) AS formats,
       array_agg(DISTINCT s.layout ->> 'compression') FILTER (WHERE s.layout IS NOT NULL) AS compressions
FROM sources AS s
LEFT JOIN (SELECT DISTINCT import_id, source_ordinal
           FROM chunks
           WHERE import_id = ANY (%(ids)s::uuid[]) AND state <> 'done') AS o
       ON o.import_id = s.import_id AND o.source_ordinal = s.ordinal
WHERE s.import_id = ANY (%(ids)s::uuid[])
GROUP BY s.import_id

-- name: send_plans_again
-- Pending imports whose message was lost, and plans whose planner is gone. SKIP LOCKED: being claimed is being well.
UPDATE imports
SET sent_at = now()
WHERE id IN (
    SELECT id
    FROM imports
    WHERE (state = 'pending'
           OR state = 'planning' AND (lease_expires_at < now() OR NOT holder_lives(holder_pid, holder_started)))
      AND not_before <= now()
      AND sent_at < now() - make_interval(secs => %(resend_seconds)s)
    ORDER BY number
    LIMIT %(room)s
    FOR UPDATE SKIP LOCKED)
RETURNING id

-- name: unsettled_imports
-- Running imports without an open chunk: whoever committed the last one died before it could settle.
SELECT id
FROM imports AS i
WHERE i.state = 'running' AND NOT EXISTS (SELECT FROM chunks AS c WHERE c.import_id = i.id AND c.state <> 'done')

-- name: running_imports
SELECT i.id,
       i.chunks_total - (SELECT count(*) FROM chunks AS c
                         WHERE c.import_id = i.id AND c.state <> 'done') AS chunks_done
FROM imports AS i
WHERE i.state = 'running'

-- name: expired_secrets
-- Active imports whose credentials have reached the end of their days.
SELECT i.id
FROM imports AS i
JOIN import_secrets AS s ON s.import_id = i.id
WHERE s.expires_at <= now() AND i.state IN ('pending', 'planning', 'running', 'paused')

-- name: delete_stale_secrets
DELETE FROM import_secrets AS s
USING imports AS i
WHERE i.id = s.import_id AND i.finished_at IS NOT NULL
