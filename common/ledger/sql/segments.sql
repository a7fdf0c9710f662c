-- name: insert_segment
INSERT INTO segments (id, project_id) VALUES (%(id)s, %(project_id)s)

-- name: lock_segment
-- Versions of a segment are numbered one after the other.
SELECT id FROM segments WHERE id = %(id)s AND project_id = %(project_id)s FOR UPDATE

-- name: insert_version
-- A version without a name has that of the one before it.
INSERT INTO segment_versions (segment_id, version, import_id, name)
SELECT %(id)s, coalesce(max(version), 0) + 1, %(import_id)s,
       coalesce(%(name)s, (array_agg(name ORDER BY version DESC))[1])
FROM segment_versions
WHERE segment_id = %(id)s

-- name: read_segments
-- A page, newest first, one more than asked for; or the one with the id. Each as of its latest version, or of one.
SELECT s.id, s.number, s.created_at, v.version, v.name, v.created_at AS modified_at, v.import_id, v.members, v.by_member,
       i.finished_at IS NOT NULL AND v.members IS NULL AS countable
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

-- name: count_members
-- The import's own receipt says how many; what a member says of each is counted from the rows, found by the BRIN index
-- on the import's number. No operator of json may meet an odd one.
SELECT i.imported + i.replaced AS members, b.by_member
FROM imports AS i
CROSS JOIN LATERAL (
    SELECT json_object_agg(said, events) AS by_member
    FROM (SELECT CASE WHEN odd THEN NULL ELSE payload ->> %(member)s END AS said, count(*) AS events
          FROM events
          WHERE collection_id = i.collection_id AND import_number = i.number
          GROUP BY 1) AS b
    WHERE said IS NOT NULL) AS b
WHERE i.id = %(import_id)s

-- name: note_members
UPDATE segment_versions
SET members = %(members)s, by_member = %(by_member)s
WHERE segment_id = %(id)s AND version = %(version)s AND members IS NULL

-- name: imports_of_segment
SELECT i.id, i.number
FROM segment_versions AS v
JOIN imports AS i ON i.id = v.import_id
WHERE v.segment_id = %(id)s AND i.project_id = %(project_id)s
  AND (%(before)s::bigint IS NULL OR i.number < %(before)s)
ORDER BY i.number DESC
LIMIT %(limit)s + 1
