-- name: end_holder
-- Ends the backend of a former holder. A worker stopped in the middle of a COPY keeps its uncommitted keys, and no
-- timeout of Postgres ends a COPY that waits for its client. Pid and start have to match: pids are used again.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE pid = %(pid)s AND backend_start = %(started)s AND pid <> pg_backend_pid()
