-- name: end_holder
-- Ends the backend of a former holder. A worker stopped in the middle of a COPY keeps its uncommitted keys, and no
-- timeout of Postgres ends a COPY that waits for its client. Pid and start have to match: pids are used again.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE pid = %(pid)s AND backend_start = %(started)s AND pid <> pg_backend_pid()

-- name: end_expired_holders
-- The same for every chunk whose lease has ended, without waiting for its next claim: while a stopped worker holds the
-- chunk's row nobody can claim it, and while it holds keys that all others wait for nobody is free to.
-- MATERIALIZED and not one WHERE: there the planner is free to ask pg_terminate_backend first, of every backend.
WITH expired AS MATERIALIZED (
    SELECT DISTINCT a.pid
    FROM chunks AS c
    JOIN pg_stat_activity AS a ON a.pid = c.holder_pid AND a.backend_start = c.holder_started
    WHERE c.state = 'leased' AND c.lease_expires_at < now() AND a.pid <> pg_backend_pid()
)
SELECT pg_terminate_backend(pid) FROM expired
