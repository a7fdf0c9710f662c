-- name: begin_push
-- A push has its place among the imports: in a collection that replaces the larger number wins.
SELECT nextval(pg_get_serial_sequence('imports', 'number')) AS number, now() AS at

-- name: insert_push
INSERT INTO pushes (number, project_id, collection_id, api_key_id, events, replaced, duplicates, bytes, first_time,
                    last_time)
VALUES (%(number)s, %(project_id)s, %(collection_id)s, %(api_key_id)s, %(events)s, %(replaced)s, %(duplicates)s,
        %(bytes)s, %(first_time)s, %(last_time)s)

-- name: note_deletion
-- What a collection holds is the sum of what its imports and pushes brought: less some events, and their bytes.
INSERT INTO pushes (number, project_id, collection_id, api_key_id, events, replaced, duplicates, bytes)
VALUES (%(number)s, %(project_id)s, %(collection_id)s, %(api_key_id)s, -%(events)s::bigint, 0, 0, -%(bytes)s::bigint)

-- name: keep_pushed
-- The first committed stays. Sorted by key, as every writer to this table: two that share ids wait for each other in
-- one order only.
INSERT INTO events (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
SELECT %(collection_id)s, p.event_id, %(number)s, 0, p.place, p.time, p.odd, p.payload::json
FROM unnest(%(ids)s::uuid[], %(places)s::bigint[], %(times)s::timestamptz[], %(odd)s::boolean[], %(payloads)s::text[])
     AS p (event_id, place, time, odd, payload)
ORDER BY p.event_id
ON CONFLICT ON CONSTRAINT events_identity DO NOTHING
RETURNING event_id

-- name: insert_or_lock_pushed
-- Of a collection that replaces: stores events whose id is free and locks the rows in the place of the others. A locked
-- row does not change any more, so the next statement sees whose it was and how long; a look of before may be outdated.
-- WHERE false: the row is locked, but not written, and not returned.
INSERT INTO events AS e (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
SELECT %(collection_id)s, p.event_id, %(number)s, 0, p.place, p.time, p.odd, p.payload::json
FROM unnest(%(ids)s::uuid[], %(places)s::bigint[], %(times)s::timestamptz[], %(odd)s::boolean[], %(payloads)s::text[])
     AS p (event_id, place, time, odd, payload)
ORDER BY p.event_id
ON CONFLICT ON CONSTRAINT events_identity DO UPDATE SET odd = e.odd WHERE false
RETURNING event_id

-- name: replace_pushed
-- Takes the place of the rows, locked by now, that have a smaller number, and tells how large each was. Rows of a larger
-- one stay: that import or push is later, whoever commits first.
WITH earlier AS MATERIALIZED (
    SELECT p.event_id, p.place, p.time, p.odd, p.payload, known.size AS former_bytes
    FROM unnest(%(ids)s::uuid[], %(places)s::bigint[], %(times)s::timestamptz[], %(odd)s::boolean[],
                %(payloads)s::text[]) AS p (event_id, place, time, odd, payload)
    CROSS JOIN LATERAL (
        SELECT k.import_number, octet_length(k.payload::text) AS size
        FROM events AS k
        WHERE k.collection_id = %(collection_id)s AND k.event_id = p.event_id
        LIMIT 1) AS known
    WHERE known.import_number < %(number)s
), placed AS (
    INSERT INTO events AS e
        (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
    SELECT %(collection_id)s, event_id, %(number)s, 0, place, time, odd, payload::json
    FROM earlier
    ON CONFLICT ON CONSTRAINT events_identity DO UPDATE
        SET import_number = excluded.import_number, source_ordinal = excluded.source_ordinal,
            byte_offset = excluded.byte_offset, time = excluded.time, odd = excluded.odd, payload = excluded.payload
)
SELECT event_id, former_bytes FROM earlier

-- name: fold_pushes
-- One row in the place of a collection's many. One statement, so that nobody ever sees a push twice or not at all.
WITH crowded AS (
    SELECT collection_id FROM pushes GROUP BY collection_id HAVING count(*) > %(most)s
), folded AS (
    DELETE FROM pushes AS p
    USING crowded AS c
    WHERE p.collection_id = c.collection_id
    RETURNING p.*
)
INSERT INTO pushes (number, project_id, collection_id, requests, events, replaced, duplicates, bytes, first_time,
                    last_time, created_at)
SELECT max(number), project_id, collection_id, sum(requests), sum(events), sum(replaced), sum(duplicates), sum(bytes),
       min(first_time), max(last_time), max(created_at)
FROM folded
GROUP BY project_id, collection_id
