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

-- name: insert_or_lock_suspects
-- Stores suspects whose id is free, and locks the rows that others may have to give way to. A locked row does not change
-- any more, so the next statement sees whose it was and how long. ON CONFLICT DO UPDATE alone does not tell (RETURNING
-- knows a row as it was from Postgres 18 on), and a look of before may be outdated: another chunk of this import may
-- have come between, and the line would count twice. Where all were free (met = fresh) there is no next statement.
-- Candidates are those that nothing has, and those before whose row they come: where the import keeps, the later line of
-- its own; where it replaces, whatever stands before. The others need no lock: a row's position moves that way only.
-- One pass over the keys in their order, whether free or not, so that writers wait for each other in one order only.
-- WHERE false: the row is locked, but not written, and not returned.
-- The join is LATERAL with a LIMIT so that every suspect is looked up by its whole key, whatever the statistics say. As
-- a plain join, for a collection younger than the last ANALYZE the planner expected one row, kept all of them, and went
-- through 300,000 for each of 30,000 suspects: minutes.
WITH candidates AS MATERIALIZED (
    SELECT s.event_id, s.byte_offset, s.time, s.odd, s.payload
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
), inserted AS (
    INSERT INTO events AS e
        (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
    SELECT %(collection_id)s, event_id, %(import_number)s, %(source_ordinal)s, byte_offset, time, odd, payload::json
    FROM candidates
    ORDER BY event_id
    ON CONFLICT ON CONSTRAINT events_identity DO UPDATE SET odd = e.odd WHERE false
    RETURNING e.time, octet_length(e.payload::text) AS size
)
SELECT count(*) AS fresh, (SELECT count(*) FROM candidates) AS met,
       (coalesce(sum(size), 0) + count(*))::bigint AS size, min(time) AS first, max(time) AS last
FROM inserted

-- name: replace_locked
-- Suspects take the place of the rows, locked by now, that have to give way: of this import, or of earlier ones.
-- As an INSERT, since that looks each row up by its key on every version; an UPDATE .. FROM may be planned as a join.
WITH eligible AS MATERIALIZED (
    SELECT s.event_id, s.byte_offset, s.time, s.odd, s.payload, known.import_number AS former,
           octet_length(known.payload::text) AS former_size
    FROM suspects AS s
    CROSS JOIN LATERAL (
        SELECT k.import_number, k.source_ordinal, k.byte_offset, k.payload
        FROM events AS k
        WHERE k.collection_id = %(collection_id)s AND k.event_id = s.event_id
        LIMIT 1) AS known
    WHERE CASE WHEN %(replaces)s
               THEN (known.import_number, known.source_ordinal, known.byte_offset)
                    < (%(import_number)s, %(source_ordinal)s, s.byte_offset)
               ELSE known.import_number = %(import_number)s
                    AND (known.source_ordinal, known.byte_offset) > (%(source_ordinal)s, s.byte_offset) END
), placed AS (
    INSERT INTO events AS e
        (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
    SELECT %(collection_id)s, event_id, %(import_number)s, %(source_ordinal)s, byte_offset, time, odd, payload::json
    FROM eligible
    ON CONFLICT ON CONSTRAINT events_identity DO UPDATE
        SET import_number = excluded.import_number, source_ordinal = excluded.source_ordinal,
            byte_offset = excluded.byte_offset, time = excluded.time, odd = excluded.odd, payload = excluded.payload
)
SELECT count(*) FILTER (WHERE former < %(import_number)s) AS replaced,
       coalesce(sum(octet_length(payload) - former_size), 0)::bigint AS size, min(time) AS first, max(time) AS last
FROM eligible

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
