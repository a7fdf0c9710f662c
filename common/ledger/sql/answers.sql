-- name: hold_request
-- Keeps others with the same request waiting until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('answer:' || %(api_key_id)s || ':' || encode(%(request)s, 'hex'), 0))

-- name: find_answer
SELECT status, body FROM answers WHERE api_key_id = %(api_key_id)s AND request = %(request)s

-- name: insert_answer
INSERT INTO answers (api_key_id, request, status, body) VALUES (%(api_key_id)s, %(request)s, %(status)s, %(body)s)

-- name: delete_old_answers
-- Twice as long as a signer's clock may be off: one that is ahead is good for that long.
DELETE FROM answers WHERE at < now() - %(keep)s::interval
