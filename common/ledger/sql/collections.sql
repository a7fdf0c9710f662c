-- name: find_collection
SELECT id, name, mapping
FROM collections
WHERE project_id = %(project_id)s AND name = %(name)s AND deleted_at IS NULL

-- name: hold_collection
-- The same, and nobody deletes it before this transaction ends. Whoever waits here for a deletion finds nothing: the
-- row is looked at anew then, and has another name. Readers and writers do not wait for each other.
SELECT id, name, mapping
FROM collections
WHERE project_id = %(project_id)s AND name = %(name)s AND deleted_at IS NULL
FOR KEY SHARE

-- name: ensure_collection
-- A collection has the mapping of the import that made it, or of the first one since collections have any: the lock on
-- the row decides which that is. Where there is one this changes nothing; DO NOTHING would return no row.
-- Whoever waits here for a deletion makes a new collection: the row that was in the way has another name then.
INSERT INTO collections AS l (project_id, name, mapping)
VALUES (%(project_id)s, %(name)s, %(mapping)s)
ON CONFLICT (project_id, name) DO UPDATE SET mapping = coalesce(l.mapping, excluded.mapping)
RETURNING id, name, mapping

-- name: lock_collection
-- Waits for whoever holds it: those who are about to insert a job of it.
SELECT id
FROM collections
WHERE project_id = %(project_id)s AND name = %(name)s AND deleted_at IS NULL
FOR UPDATE

-- name: jobs_of_collection
-- Those that are active, oldest first. To be asked after lock_collection, by a statement of its own: its snapshot then
-- has the jobs of those whom the lock waited for.
SELECT 'import' AS kind, id, created_at
FROM imports
WHERE project_id = %(project_id)s AND collection_id = %(collection_id)s
  AND state IN ('pending', 'planning', 'running', 'paused')
UNION ALL
SELECT 'export', id, created_at
FROM exports
WHERE collection_id = %(collection_id)s AND state IN ('pending', 'running')
ORDER BY created_at, id

-- name: delete_collection
-- No caller's name has a slash.
UPDATE collections
SET former_name = name, name = '/deleted/' || id, deleted_at = now()
WHERE id = %(collection_id)s

-- name: collections_to_empty
SELECT id FROM collections WHERE deleted_at IS NOT NULL AND emptied_at IS NULL ORDER BY id

-- name: walk_by_key
-- Rows are gone through in the order of the unique key and no other, whatever the statistics say.
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off

-- name: empty_collection
-- Deletes the next events of a deleted collection and notes how far that came. From there on, not from its beginning:
-- while somebody reads an old snapshot, what is deleted stays in the index, and every round would go through all of it.
-- Nobody writes under its number any more, so a row is still where it was seen.
WITH goner AS MATERIALIZED (
    SELECT e.ctid AS place, e.event_id
    FROM events AS e
    WHERE e.collection_id = %(collection_id)s
      AND e.event_id > coalesce((SELECT emptied_to FROM collections WHERE id = %(collection_id)s),
                                '00000000-0000-0000-0000-000000000000')
    ORDER BY e.event_id
    LIMIT %(most)s
), gone AS (
    -- By their places alone: with the collection's number beside them the planner may go through all of it.
    DELETE FROM events WHERE ctid = ANY (ARRAY(SELECT place FROM goner))
)
UPDATE collections
SET emptied_to = (SELECT event_id FROM goner ORDER BY event_id DESC LIMIT 1)
WHERE id = %(collection_id)s AND EXISTS (SELECT FROM goner)
RETURNING (SELECT count(*) FROM goner) AS count

-- name: note_emptied
UPDATE collections SET emptied_at = now() WHERE id = %(collection_id)s AND emptied_at IS NULL

-- name: list_collections
-- One page in the order of names; one row more than asked for tells that there is a next. Or those of some names.
-- Sums over what the ledger says of imports that ended, and over the chunks of those under way: no event is looked at.
-- One statement and so one snapshot, in which a chunk's rows and its entry are there together or not at all.
SELECT c.name, c.created_at, t.events,
       CASE WHEN t.measured THEN t.bytes END AS bytes,
       CASE WHEN t.measured THEN t.first_time END AS first_time,
       CASE WHEN t.measured THEN t.last_time END AS last_time,
       EXISTS (SELECT FROM pg_index AS x
               WHERE x.indexrelid = to_regclass('events_time_' || c.id) AND x.indisvalid) AS time_index
FROM (SELECT id, name, created_at
      FROM collections
      WHERE project_id = %(project_id)s AND deleted_at IS NULL
        AND (%(after)s::text IS NULL OR name > %(after)s)
        AND (%(names)s::text[] IS NULL OR name = ANY (%(names)s::text[]))
      ORDER BY name
      LIMIT %(limit)s + 1) AS c
CROSS JOIN LATERAL (
    SELECT coalesce(sum(events), 0)::bigint AS events, coalesce(sum(bytes), 0)::bigint AS bytes,
           min(first_time) AS first_time, max(last_time) AS last_time,
           coalesce(bool_and(bytes IS NOT NULL OR written = 0), true) AS measured
    FROM (
        SELECT imported AS events, imported + replaced AS written, stored_bytes AS bytes, first_time, last_time
        FROM imports
        WHERE collection_id = c.id AND finished_at IS NOT NULL
        UNION ALL
        SELECT k.imported, k.imported + k.replaced, k.stored_bytes, k.first_time, k.last_time
        FROM imports AS i
        JOIN chunks AS k ON k.import_id = i.id
        WHERE i.project_id = %(project_id)s AND i.collection_id = c.id
          AND i.state IN ('pending', 'planning', 'running', 'paused') AND k.state = 'done'
        UNION ALL
        SELECT events, events + replaced, bytes, first_time, last_time
        FROM pushes
        WHERE collection_id = c.id
    ) AS parts
) AS t
ORDER BY c.name

-- name: read_clock
SELECT now() AS now

-- name: last_of_walk
-- Where a page has to end that has looked at so many events; no row where there are fewer.
SELECT event_id
FROM events
WHERE collection_id = %(collection_id)s AND event_id > %(after)s
ORDER BY event_id
OFFSET %(most)s - 1
LIMIT 1

-- name: read_events
-- The condition stands for what a query asks for.
SELECT event_id, time, odd, payload::text AS payload
FROM events
WHERE collection_id = %(collection_id)s AND event_id > %(after)s
  AND (%(upto)s::uuid IS NULL OR event_id <= %(upto)s)
  AND /* selection */ true
ORDER BY event_id

-- name: find_event
SELECT event_id, time, payload::text AS payload
FROM events
WHERE collection_id = %(collection_id)s AND event_id = %(event_id)s

-- name: delete_event
DELETE FROM events
WHERE collection_id = %(collection_id)s AND event_id = %(event_id)s
RETURNING event_id, time, payload::text AS payload

-- name: create_time_index
-- The number is no text of a caller's.
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_time_%(collection_id)s ON events (time)
WHERE collection_id = %(collection_id)s

-- name: drop_time_index
DROP INDEX CONCURRENTLY IF EXISTS events_time_%(collection_id)s
