-- name: insert_ranges
-- A source's ranges in one statement. None is sent yet: send_window picks those that are.
INSERT INTO chunks (import_id, source_ordinal, number, kind, start_offset, end_offset, bytes)
SELECT %(import_id)s, %(ordinal)s, %(number)s + n, 'load',
       n * %(chunk_bytes)s::bigint, least((n + 1) * %(chunk_bytes)s::bigint, %(extent)s),
       -- The object's own bytes, in proportion: cut off on both sides alike, so that the sum is the size.
       floor(least((n + 1) * %(chunk_bytes)s::numeric, %(extent)s) * %(size)s / %(extent)s)
       - floor(n * %(chunk_bytes)s::numeric * %(size)s / %(extent)s)
FROM generate_series(0, %(count)s - 1) AS n

-- name: insert_step
-- What has to be done before a source's ranges are known, or the rest of a walk.
-- One that has the queue of long ones is sent by whoever made it, or taken; the others have their turn in the window.
INSERT INTO chunks (import_id, source_ordinal, number, kind, long, start_offset, end_offset, bytes, sent_at)
VALUES (%(import_id)s, %(ordinal)s, %(number)s, %(kind)s, %(long)s, %(start)s, %(start)s, 0,
        CASE WHEN %(sent)s THEN now() END)
RETURNING id

-- name: insert_looks
INSERT INTO chunks (import_id, source_ordinal, number, kind, start_offset, end_offset, bytes)
SELECT %(import_id)s, n, n * %(stride)s, 'look', 0, 0, 0
FROM generate_series(0, %(count)s - 1) AS n

-- name: long_steps
SELECT id
FROM chunks
WHERE import_id = %(import_id)s AND source_ordinal = %(ordinal)s AND long AND state = 'waiting'
ORDER BY number

-- name: bytes_before
SELECT coalesce(sum(coalesce(bytes, end_offset - start_offset)), 0) AS bytes
FROM chunks
WHERE import_id = %(import_id)s AND source_ordinal = %(ordinal)s AND number < %(number)s

-- name: send_window
-- Marks chunks as sent until the import has its window of them; one in any case for the turn of a chunk just done.
UPDATE chunks
SET sent_at = now()
WHERE id IN (
    SELECT id
    FROM chunks
    WHERE import_id = %(import_id)s AND state = 'waiting' AND NOT long AND sent_at IS NULL AND not_before <= now()
    ORDER BY number
    LIMIT greatest(%(least)s, %(window)s - (
        SELECT count(*) FROM chunks
        WHERE import_id = %(import_id)s AND state <> 'done' AND sent_at IS NOT NULL AND NOT long))
    FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id, number

-- name: claim_chunk
-- Takes the chunk of a message if nobody holds it: waiting, or its lease has ended, or its holder's backend is gone.
-- SKIP LOCKED: whoever is claiming or committing it at this moment has it. (Or the sweep or a renewal locks it for an
-- instant: that costs a message, which the sweep makes good.)
WITH claimable AS (
    SELECT c.id, c.holder_pid, c.holder_started
    FROM chunks AS c
    JOIN imports AS i ON i.id = c.import_id
    WHERE c.id = %(chunk_id)s
      AND i.state = 'running'
      AND c.not_before <= now()
      AND (c.state = 'waiting'
           OR c.state = 'leased' AND (c.lease_expires_at < now() OR NOT holder_lives(c.holder_pid, c.holder_started)))
    FOR NO KEY UPDATE OF c SKIP LOCKED
)
UPDATE chunks AS c
SET state = 'leased',
    attempts = attempts + 1,
    lease_token = nextval('lease_tokens'),
    lease_expires_at = now() + make_interval(secs => %(lease_seconds)s),
    leased_at = now(),
    holder_pid = pg_backend_pid(),
    holder_started = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
FROM claimable
WHERE c.id = claimable.id
RETURNING c.id, c.import_id, c.source_ordinal, c.number, c.start_offset, c.end_offset, c.attempts, c.lease_token,
          c.kind, c.long, claimable.holder_pid AS former_pid, claimable.holder_started AS former_started

-- name: next_claimable
-- The import's first chunk that nobody holds, for a message whose own chunk is taken. Only a look: the claim decides.
-- Long ones are for walkers, which take no others.
-- None where its own chunk is done: that was sent twice, and whoever loaded it has sent the next. Served all the same,
-- one message too many would be one turn more for its import until it ends.
SELECT c.id
FROM chunks AS c
JOIN imports AS i ON i.id = c.import_id
WHERE (c.import_id, c.long) = (SELECT import_id, long FROM chunks WHERE id = %(chunk_id)s AND state <> 'done')
  AND i.state = 'running'
  AND c.state <> 'done'
  AND c.not_before <= now()
  AND (c.state = 'waiting' OR c.lease_expires_at < now() OR NOT holder_lives(c.holder_pid, c.holder_started))
ORDER BY c.number
LIMIT 1

-- name: renew_lease
-- Up to a ceiling for each attempt; no row where the lease is another's by now.
UPDATE chunks
SET lease_expires_at = least(now() + make_interval(secs => %(lease_seconds)s),
                             leased_at + make_interval(secs => %(ceiling_seconds)s))
WHERE id = %(chunk_id)s AND lease_token = %(lease_token)s AND state = 'leased'
RETURNING id

-- name: release_chunk
-- Gives a chunk back: after a failure that passes (the attempt counts), or at a graceful stop (it does not).
UPDATE chunks
SET state = 'waiting',
    attempts = attempts - CASE WHEN %(attempt_counts)s THEN 0 ELSE 1 END,
    lease_expires_at = NULL,
    sent_at = NULL,
    not_before = now() + make_interval(secs => %(delay_seconds)s),
    -- Who gave it back has gone on to other work; the next holder must not end its backend.
    holder_pid = NULL,
    holder_started = NULL
WHERE id = %(chunk_id)s AND lease_token = %(lease_token)s AND state = 'leased'

-- name: holds_chunk
SELECT id FROM chunks WHERE id = %(chunk_id)s AND lease_token = %(lease_token)s AND state = 'leased'

-- name: finish_chunk
-- The chunk's entry in the ledger. No row where the token is not the latest: a zombie's, and all is rolled back.
UPDATE chunks
SET state = 'done', done_at = clock_timestamp(), lease_expires_at = NULL,
    lines = %(lines)s, imported = %(imported)s, replaced = %(replaced)s, duplicates = %(duplicates)s,
    rejected = %(rejected)s, blank = %(blank)s, text_lines = %(text_lines)s,
    stored_bytes = %(stored_bytes)s, first_time = %(first_time)s, last_time = %(last_time)s,
    end_offset = coalesce(%(end)s, end_offset), bytes = coalesce(%(bytes)s, bytes)
WHERE id = %(chunk_id)s AND lease_token = %(lease_token)s AND state = 'leased'
RETURNING (extract(epoch FROM done_at) * 1000)::bigint AS done_ms, coalesce(bytes, end_offset - start_offset) AS bytes

-- name: close_source
-- The open chunks of a source that cannot be read are done, with nothing in them. Their holders cannot commit: the
-- token is gone.
UPDATE chunks
SET state = 'done', done_at = clock_timestamp(), lease_token = NULL, lease_expires_at = NULL, bytes = 0
WHERE import_id = %(import_id)s AND source_ordinal = %(ordinal)s AND state <> 'done'

-- name: fence
-- Last before COMMIT: no chunk of an import that was ended or paused can commit, and no end can overtake a commit.
-- Last, because share locks overtake a waiting UPDATE: taken first, eight workers kept a cancel waiting for 12 s.
SELECT id FROM imports WHERE id = %(import_id)s AND state = 'running' FOR SHARE

-- name: extend
-- The same for a commit that adds chunks.
UPDATE imports SET chunks_total = chunks_total + %(added)s WHERE id = %(import_id)s AND state = 'running' RETURNING id

-- name: look_at_fence
-- The same without the lock, before the work: saves it where the fence would refuse it.
SELECT id FROM imports WHERE id = %(import_id)s AND state = 'running'

-- name: is_committed
-- What became of a COMMIT whose answer was lost.
SELECT state = 'done' AND lease_token = %(lease_token)s AS committed FROM chunks WHERE id = %(chunk_id)s

-- name: send_next
-- Picks the chunk that follows the window, that of the long ones or that of all others, and marks it as sent, in the
-- commit of the chunk just done.
UPDATE chunks
SET sent_at = now()
WHERE id = (
    SELECT id
    FROM chunks
    WHERE import_id = %(import_id)s AND state = 'waiting' AND long = %(long)s
      AND sent_at IS NULL AND not_before <= now()
    ORDER BY number
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id

-- name: send_chunks_again
-- Of each running import, the chunks of its window (its first open ones, or its first open long ones) that nobody holds
-- and that were never sent or sent long ago. How many are missing is known, not which: the oldest, since a queue gives
-- out what came first. In the order of their numbers, the import that was least far got all, and one whose messages were
-- lost got none for good.
-- What was never sent, or sent very long ago, is no guess and asks for no room: a message may be missing that is not
-- among the oldest, or be hidden by one too many of another import.
-- Candidates are not locked: a claim skips a locked row, and would find nothing to do. The mark is a hint, so a race
-- costs a message.
WITH due AS (
    SELECT c.id, c.sent_at, row_number() OVER (ORDER BY c.sent_at NULLS FIRST, c.number, i.number) AS place
    FROM imports AS i
    CROSS JOIN LATERAL (
        SELECT id, number, state, sent_at, not_before, lease_expires_at, holder_pid, holder_started
        FROM chunks
        WHERE import_id = i.id AND state <> 'done' AND long = %(long)s
        ORDER BY number
        LIMIT %(window)s) AS c
    WHERE i.state = 'running'
      AND c.not_before <= now()
      AND (c.sent_at IS NULL OR c.sent_at < now() - make_interval(secs => %(resend_seconds)s))
      AND (c.state = 'waiting' OR c.lease_expires_at < now() OR NOT holder_lives(c.holder_pid, c.holder_started))
), lost AS (
    SELECT id
    FROM due
    WHERE place <= %(room)s OR sent_at IS NULL OR sent_at < now() - make_interval(secs => %(lost_seconds)s)
    ORDER BY place
    LIMIT %(most)s
)
UPDATE chunks
SET sent_at = now()
WHERE id IN (SELECT id FROM chunks WHERE id IN (SELECT id FROM lost) FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id

-- name: read_progress
-- One row a committed chunk: absolute values.
SELECT number, coalesce(bytes, end_offset - start_offset) AS bytes, lines, imported, replaced, duplicates, rejected, blank,
       (extract(epoch FROM done_at) * 1000)::bigint AS done_ms
FROM chunks
WHERE import_id = %(import_id)s AND state = 'done'

-- name: insert_chunk_duplicates
INSERT INTO chunk_duplicates (chunk_id, owner_number, lines)
SELECT %(chunk_id)s, owner_number, lines
FROM unnest(%(owners)s::bigint[], %(lines)s::bigint[]) AS d (owner_number, lines)
