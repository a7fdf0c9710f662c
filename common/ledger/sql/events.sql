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

-- name: place_suspects
-- Suspects whose id is free are stored; one that stands before the stored line of the same import displaces it (P3).
-- What another import stored stays. The join keeps known duplicates from being locked one by one (ON CONFLICT locks
-- even what it does not change); the conflict clause catches what was committed since. Sorted by key, as every writer
-- here: two chunks that share ids then wait for each other in one order only.
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
       OR known.import_number = %(import_number)s
          AND (known.source_ordinal, known.byte_offset) > (%(source_ordinal)s, s.byte_offset)
    ORDER BY s.event_id
    ON CONFLICT ON CONSTRAINT events_identity DO UPDATE
        SET source_ordinal = excluded.source_ordinal, byte_offset = excluded.byte_offset, time = excluded.time,
            odd = excluded.odd, payload = excluded.payload
        WHERE e.import_number = excluded.import_number
          AND (e.source_ordinal, e.byte_offset) > (excluded.source_ordinal, excluded.byte_offset)
    RETURNING e.xmax = 0 AS fresh
)
SELECT count(*) FILTER (WHERE fresh) AS fresh FROM placed

-- name: insert_or_lock_suspects
-- Of an import that replaces: stores suspects whose id is free, and locks the rows in the place of the others. A locked
-- row does not change any more, so the next statement sees whose it was. ON CONFLICT DO UPDATE alone does not tell
-- (RETURNING knows a row as it was from Postgres 18 on), and a look of before may be outdated: another chunk of this
-- import may have come between, and the line would count twice. The price, against one pass that counts wrongly: the
-- second upload of the same 40,000 events took 1.5 to 2 times as long.
-- One pass over the keys in their order, whether free or not, so that writers wait for each other in one order only.
-- WHERE false: the row is locked, but not written, and not returned.
-- What is known to stand behind its suspect needs no lock: under this rule a row's position only grows.
WITH inserted AS (
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
       OR (known.import_number, known.source_ordinal, known.byte_offset)
          < (%(import_number)s, %(source_ordinal)s, s.byte_offset)
    ORDER BY s.event_id
    ON CONFLICT ON CONSTRAINT events_identity DO UPDATE SET odd = e.odd WHERE false
    RETURNING 1
)
SELECT count(*) AS fresh FROM inserted

-- name: replace_locked
-- Suspects take the place of the rows, locked by now, that stand before them: of earlier imports, or of this one.
-- As an INSERT, since that looks each row up by its key on every version; an UPDATE .. FROM may be planned as a join.
WITH later AS MATERIALIZED (
    SELECT s.event_id, s.byte_offset, s.time, s.odd, s.payload, known.import_number AS former
    FROM suspects AS s
    CROSS JOIN LATERAL (
        SELECT k.import_number, k.source_ordinal, k.byte_offset
        FROM events AS k
        WHERE k.collection_id = %(collection_id)s AND k.event_id = s.event_id
        LIMIT 1) AS known
    WHERE (known.import_number, known.source_ordinal, known.byte_offset)
          < (%(import_number)s, %(source_ordinal)s, s.byte_offset)
), placed AS (
    INSERT INTO events AS e
        (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)
    SELECT %(collection_id)s, event_id, %(import_number)s, %(source_ordinal)s, byte_offset, time, odd, payload::json
    FROM later
    ON CONFLICT ON CONSTRAINT events_identity DO UPDATE
        SET import_number = excluded.import_number, source_ordinal = excluded.source_ordinal,
            byte_offset = excluded.byte_offset, time = excluded.time, odd = excluded.odd, payload = excluded.payload
)
SELECT count(*) FILTER (WHERE former < %(import_number)s) AS replaced FROM later

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
