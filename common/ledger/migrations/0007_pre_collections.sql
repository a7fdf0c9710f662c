-- Collections are listed with what they hold, and deleted.

ALTER TABLE collections
    -- A deleted one keeps its number, until the sweep has deleted its events and for good, under a name that no caller
    -- can have. This is the one that they knew.
    ADD COLUMN former_name text,
    ADD COLUMN deleted_at timestamptz,
    -- how far the sweep has come; nothing is stored under a deleted number, so nothing can come to stand before it
    ADD COLUMN emptied_to uuid,
    ADD COLUMN emptied_at timestamptz;
CREATE INDEX collections_to_empty ON collections (id) WHERE deleted_at IS NOT NULL AND emptied_at IS NULL;
CREATE INDEX collections_of_before ON collections (project_id, former_name) WHERE former_name IS NOT NULL;

-- What a chunk has stored: bytes with a line break each, less those of the rows whose place it took, and the times
-- between which they lie. NULL where the code of before committed it: nobody has measured then.
ALTER TABLE chunks
    ADD COLUMN stored_bytes bigint,
    ADD COLUMN first_time timestamptz,
    ADD COLUMN last_time timestamptz;

-- Copied from the chunks when the import ends, like its receipt.
ALTER TABLE imports
    ADD COLUMN stored_bytes bigint,
    ADD COLUMN first_time timestamptz,
    ADD COLUMN last_time timestamptz;
-- The listing adds up what a collection's imports came to: from this index alone.
CREATE INDEX imports_ended ON imports (collection_id) INCLUDE (imported, replaced, stored_bytes, first_time, last_time)
    WHERE finished_at IS NOT NULL;

-- A project's events as a table to read from: what is granted on it grants nothing else. Views take no parameters, so
-- each project has one. security_barrier: a condition of the reader's is not asked about the rows of others.
CREATE FUNCTION events_view(project uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'events_of_' || replace(project::text, '-', '')
$$;

CREATE FUNCTION create_events_view(project uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(events_view(project)) IS NULL THEN
        EXECUTE format(
            'CREATE VIEW %I (collection, id, time, payload) WITH (security_barrier) AS'
            ' SELECT c.name, e.event_id, e.time, e.payload'
            ' FROM collections AS c JOIN events AS e ON e.collection_id = c.id'
            ' WHERE c.project_id = %L AND c.deleted_at IS NULL',
            events_view(project), project);
    END IF;
END
$$;

CREATE FUNCTION grant_events_view(project uuid, reader text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM create_events_view(project);
    EXECUTE format('GRANT SELECT ON %I TO %I', events_view(project), reader);
END
$$;

DO $$ BEGIN PERFORM create_events_view(id) FROM projects; END $$;
