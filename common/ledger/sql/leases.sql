-- name: end_holder
-- Ends the backend of a former holder. A worker stopped in the middle of a COPY keeps its uncommitted keys, and no
-- timeout of Postgres ends a COPY that waits for its client. Pid and start have to match: pids are used again.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE pid = %(pid)s AND backend_start = %(started)s AND pid <> pg_backend_pid()

-- name: end_expired_holders
-- The same for every chunk and plan whose lease has ended, without waiting for its next claim: while a stopped worker
-- holds the row nobody can claim it, and while it holds keys that all others wait for nobody is free to.
-- MATERIALIZED and not one WHERE: there the planner is free to ask pg_terminate_backend first, of every backend.
WITH expired AS MATERIALIZED (
    SELECT DISTINCT a.pid
    FROM (SELECT holder_pid, holder_started FROM chunks WHERE state = 'leased' AND lease_expires_at < now()
          UNION ALL
          SELECT holder_pid, holder_started FROM imports WHERE state = 'planning' AND lease_expires_at < now()) AS h
    JOIN pg_stat_activity AS a ON a.pid = h.holder_pid AND a.backend_start = h.holder_started
    WHERE a.pid <> pg_backend_pid()
)
SELECT pg_terminate_backend(pid) FROM expired

-- name: is_work_waiting
-- Whether any worker could start something: a plan, or a chunk of a running import's window, due and held by nobody.
-- Or whether any walker could: a long chunk. Long ones and all others have windows, and queues, of their own. (No index
-- parts them: where 100,000 chunks of the other kind are open in one import, each look takes 20 ms, else less than 1.)
-- Of the window only: chunks behind it wait for those before them, and a worker may well have none to do. Every worker
-- asks all the time, so what a dead worker holds counts from the end of its lease on: asked whether its backend lives,
-- 100 imports with 800 chunks in work took 12 ms; so 0.7.
SELECT EXISTS (
           SELECT FROM imports
           WHERE NOT %(long)s AND not_before <= now() AND (state = 'pending' OR state = 'planning' AND lease_expires_at < now()))
    OR EXISTS (
           SELECT FROM imports AS i
           CROSS JOIN LATERAL (
               SELECT state, not_before, lease_expires_at
               FROM chunks
               WHERE import_id = i.id AND state <> 'done' AND long = %(long)s
               ORDER BY number
               LIMIT %(window)s) AS c
           WHERE i.state = 'running'
             AND c.not_before <= now()
             AND (c.state = 'waiting' OR c.lease_expires_at < now())) AS waiting

-- name: count_due
-- How many plans and chunks any worker could start, or how many long chunks any walker: as above, and what a dead worker
-- holds. As many messages should be in their queues.
SELECT (SELECT count(*)
        FROM imports
        WHERE NOT %(long)s AND not_before <= now()
          AND (state = 'pending'
               OR state = 'planning' AND (lease_expires_at < now() OR NOT holder_lives(holder_pid, holder_started))))
     + (SELECT count(*)
        FROM imports AS i
        CROSS JOIN LATERAL (
            SELECT state, not_before, lease_expires_at, holder_pid, holder_started
            FROM chunks
            WHERE import_id = i.id AND state <> 'done' AND long = %(long)s
            ORDER BY number
            LIMIT %(window)s) AS c
        WHERE i.state = 'running'
          AND c.not_before <= now()
          AND (c.state = 'waiting'
               OR c.lease_expires_at < now() OR NOT holder_lives(c.holder_pid, c.holder_started))) AS due

-- name: is_walked
-- Whether a long chunk, of whatever import, is in work.
SELECT EXISTS (
    SELECT FROM chunks WHERE state = 'leased' AND long AND holder_lives(holder_pid, holder_started)) AS walked
