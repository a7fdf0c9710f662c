-- name: try_turn
SELECT pg_try_advisory_lock(%(lock)s) AS mine

-- name: is_broken
-- Whether there is an index of that name that nobody finished, or is building.
SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(%(name)s) AND NOT indisvalid) AS broken
