-- name: copy_events
COPY events (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
FROM STDIN (FORMAT binary)

-- name: copy_rejects
COPY rejects (chunk_id, line, byte_offset, length, code, body) FROM STDIN (FORMAT binary)

-- name: create_suspects
-- A session's own table, emptied by each commit: ON COMMIT DROP would bloat the catalogue.
-- The payload is text here, so that it is parsed once, on its way into events.
CREATE TEMPORARY TABLE IF NOT EXISTS suspects (
    event_id    uuid NOT NULL,
    byte_offset bigint NOT NULL,
    time        timestamptz NOT NULL,
    odd         boolean NOT NULL,
    lines       integer NOT NULL,
    payload     text NOT NULL
) ON COMMIT DELETE ROWS

-- name: empty_suspects
TRUNCATE suspects

-- name: plan_by_key
-- Suspects are looked up one by one in what may be a large table: no reading of all of it, whatever its statistics say.
-- (Before Postgres 18 this puts estimates over every threshold of the JIT compiler, 0.55 s a statement: the session has
-- it off.)
SET LOCAL enable_seqscan = off

-- name: copy_suspects
COPY suspects (event_id, byte_offset, time, odd, lines, payload) FROM STDIN (FORMAT binary)

-- name: count_taken_from_nothing
-- What place_suspects adds to: what there was of rows whose place was taken, until this transaction ends.
SET LOCAL penstock.taken_bytes = 0; SET LOCAL penstock.taken_own = 0

-- name: place_suspects
-- Suspects whose id is free are stored, and those take the place of the stored row before which they come: where the
-- import keeps, the later line of its own (P3); where it replaces, whatever stands before. The join keeps the others
-- from being locked one by one (ON CONFLICT locks even what it does not change); the conflict clause catches what was
-- committed since. Sorted by key, as every writer here: two chunks that share ids then wait for each other in one order
-- only.
-- Whose the former row was and how long is known while it is locked, and only here: a look of before may be outdated
-- (another chunk of this import may have come between, and the line would count twice), and RETURNING knows a row as it
-- was from Postgres 18 on. So SET, which is evaluated once for each row that is taken, adds it to settings of this
-- transaction: 0.5 to 0.8 us of CPU a row taken. Locking them all by a statement of its own, and then reading them,
-- took 3.4 to 4.6 us more.
-- The join is LATERAL with a LIMIT so that every suspect is looked up by its whole key, whatever the statistics say. As
-- a plain join, for a collection younger than the last ANALYZE the planner expected one row, kept all of them, and went
-- through 300,000 for each of 30,000 suspects: minutes.
WITH placed AS (
    INSERT INTO events AS e
        (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
    SELECT %(collection_id)s, s.event_id, %(import_number)s, %(source_ordinal)s, s.byte_offset, s.time, s.odd,
           s.payload::json
    FROM suspects AS s
    LEFT JOIN LATERAL (
        SELECT k.event_id, k.import_number, k.source_ordinal, k.byte_offset
        FROM events AS k
        WHERE k.collection_id = %(collection_id)s AND k.event_id = s.event_id
        LIMIT 1) AS known ON true
    WHERE known.event_id IS NULL
       OR CASE WHEN %(replaces)s
               THEN (known.import_number, known.source_ordinal, known.byte_offset)
                    < (%(import_number)s, %(source_ordinal)s, s.byte_offset)
               ELSE known.import_number = %(import_number)s
                    AND (known.source_ordinal, known.byte_offset) > (%(source_ordinal)s, s.byte_offset) END
    ORDER BY s.event_id
    ON CONFLICT ON CONSTRAINT events_identity DO UPDATE
        SET import_number = excluded.import_number, source_ordinal = excluded.source_ordinal,
            byte_offset = excluded.byte_offset, time = excluded.time, payload = excluded.payload,
            odd = CASE WHEN set_config('penstock.taken_bytes', (current_setting('penstock.taken_bytes')::bigint
                                                                + octet_length(e.payload::text) + 1)::text, true) <> ''
                        AND CASE WHEN %(replaces)s AND e.import_number = excluded.import_number
                                 THEN set_config('penstock.taken_own', (current_setting('penstock.taken_own')::bigint
                                                                        + 1)::text, true) <> ''
                                 ELSE true END
                       THEN excluded.odd END
        WHERE CASE WHEN %(replaces)s
                   THEN (e.import_number, e.source_ordinal, e.byte_offset)
                        < (excluded.import_number, excluded.source_ordinal, excluded.byte_offset)
                   ELSE e.import_number = excluded.import_number
                        AND (e.source_ordinal, e.byte_offset) > (excluded.source_ordinal, excluded.byte_offset) END
    RETURNING e.xmax = 0 AS fresh
)
SELECT count(*) FILTER (WHERE fresh) AS fresh, count(*) FILTER (WHERE NOT fresh) AS taken FROM placed

-- name: read_taken
-- Of all rows whose place this transaction took: bytes with a line break each, and, where the import replaces, how many
-- were its own.
SELECT current_setting('penstock.taken_bytes')::bigint AS bytes, current_setting('penstock.taken_own')::bigint AS own

-- name: count_owners
-- For each other import that owns rows our suspects met: how many lines were dropped for it.
SELECT e.import_number AS owner_number, sum(s.lines)::bigint AS lines
FROM suspects AS s
CROSS JOIN LATERAL (
    SELECT k.import_number
    FROM events AS k
    WHERE k.collection_id = %(collection_id)s AND k.event_id = s.event_id
    LIMIT 1) AS e
WHERE e.import_number <> %(import_number)s
GROUP BY e.import_number

-- name: count_owners_and_measure
-- The same, where some suspects were placed: and for this import how much of the suspects stands there, bytes with a
-- line break each, and between which times. Where none was, it would be 0.3 us a suspect for nothing.
SELECT e.import_number AS owner_number, sum(s.lines)::bigint AS lines,
       (sum(octet_length(s.payload)) + count(*))::bigint AS size, min(s.time) AS first, max(s.time) AS last
FROM suspects AS s
CROSS JOIN LATERAL (
    SELECT k.import_number, k.source_ordinal, k.byte_offset
    FROM events AS k
    WHERE k.collection_id = %(collection_id)s AND k.event_id = s.event_id
    LIMIT 1) AS e
WHERE e.import_number <> %(import_number)s
   OR (e.source_ordinal, e.byte_offset) = (%(source_ordinal)s, s.byte_offset)
GROUP BY e.import_number
