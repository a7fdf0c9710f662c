-- name: insert_segment
INSERT INTO segments (id, project_id) VALUES (%(id)s, %(project_id)s)

-- name: lock_segment
-- Versions of a segment are numbered one after the other.
SELECT id FROM segments WHERE id = %(id)s AND project_id = %(project_id)s FOR UPDATE

-- name: insert_version
-- A version without a name has that of the one before it.
INSERT INTO segment_versions (segment_id, version, import_id, name, counted_by)
SELECT %(id)s, coalesce(max(version), 0) + 1, %(import_id)s,
       coalesce(%(name)s, (array_agg(name ORDER BY version DESC))[1]), %(counted_by)s
FROM segment_versions
WHERE segment_id = %(id)s

-- name: read_segments
-- A page, newest first, one more than asked for; or the one with the id. Each as of its latest version, or of one.
SELECT s.id, s.number, s.created_at, v.version, v.name, v.created_at AS modified_at, v.import_id, v.by_member,
       coalesce(v.members, CASE WHEN i.finished_at IS NOT NULL THEN i.imported + i.replaced END) AS members
FROM segments AS s
CROSS JOIN LATERAL (
    SELECT *
    FROM segment_versions AS v
    WHERE v.segment_id = s.id AND (%(version)s::integer IS NULL OR v.version = %(version)s)
    ORDER BY v.version DESC
    LIMIT 1) AS v
JOIN imports AS i ON i.id = v.import_id
WHERE s.project_id = %(project_id)s
  AND (%(id)s::uuid IS NULL OR s.id = %(id)s)
  AND (%(before)s::bigint IS NULL OR s.number < %(before)s)
ORDER BY s.number DESC
LIMIT %(limit)s + 1

-- name: bound_counting
SELECT set_config('statement_timeout', %(milliseconds)s::text, true)

-- name: count_members
-- The import's own receipt says how many; what a member says of each is counted from the rows, found by the BRIN index
-- on the import's number. No operator of json may meet an odd one. The member is the caller's: a hundred texts of 64
-- characters are enough for whoever counts, and more of them would be in every answer.
UPDATE segment_versions AS v
SET members = i.imported + i.replaced,
    by_member = (
        -- A condition on what it says would be asked of each row, and each payload be read twice.
        SELECT json_object_agg(said, events) FILTER (WHERE said IS NOT NULL)
        FROM (SELECT CASE WHEN odd THEN NULL ELSE left(payload ->> v.counted_by, 64) END AS said, count(*) AS events
              FROM events
              WHERE collection_id = i.collection_id AND import_number = i.number
              GROUP BY 1
              ORDER BY 2 DESC, 1
              LIMIT 100) AS b)
FROM imports AS i
WHERE v.import_id = %(import_id)s AND i.id = v.import_id AND v.members IS NULL AND i.finished_at IS NOT NULL

-- name: leave_uncounted
UPDATE segment_versions AS v
SET members = i.imported + i.replaced
FROM imports AS i
WHERE v.import_id = %(import_id)s AND i.id = v.import_id AND v.members IS NULL AND i.finished_at IS NOT NULL

-- name: uncounted_imports
SELECT i.id
FROM segment_versions AS v
JOIN imports AS i ON i.id = v.import_id
WHERE v.members IS NULL AND i.finished_at IS NOT NULL
ORDER BY i.number

-- name: imports_of_segment
SELECT i.id, i.number
FROM segment_versions AS v
JOIN imports AS i ON i.id = v.import_id
WHERE v.segment_id = %(id)s AND i.project_id = %(project_id)s
  AND (%(before)s::bigint IS NULL OR i.number < %(before)s)
ORDER BY i.number DESC
LIMIT %(limit)s + 1
