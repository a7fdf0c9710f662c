-- Segments: named sets of what imports brought. Each import that defines one makes a version of it.

CREATE TABLE segments (
    id          uuid PRIMARY KEY,
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- the order among segments
    project_id  uuid NOT NULL REFERENCES projects,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX segments_of_project ON segments (project_id, number);

CREATE TABLE segment_versions (
    segment_id  uuid NOT NULL REFERENCES segments,
    version     integer NOT NULL,
    import_id   uuid NOT NULL UNIQUE REFERENCES imports,
    name        text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    -- Counted when the import has ended, once: a later import may take the place of its events.
    members     bigint,
    by_member   json,            -- how many of them have which text in the member that they are counted by
    PRIMARY KEY (segment_id, version)
);
