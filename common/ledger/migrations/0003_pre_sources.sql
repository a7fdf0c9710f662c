-- Every source and format. Defaults are what the code before this took: one object of uncompressed NDJSON.

ALTER TABLE imports
    -- as asked for; 'auto' is found by looking at each object
    ADD COLUMN format text NOT NULL DEFAULT 'ndjson' CHECK (format IN ('auto', 'ndjson', 'csv', 'json')),
    ADD COLUMN compression text NOT NULL DEFAULT 'none'
        CHECK (compression IN ('auto', 'none', 'gzip', 'zstd', 'bzip2')),
    ADD COLUMN if_seen text NOT NULL DEFAULT 'import' CHECK (if_seen IN ('import', 'refuse')),
    -- the latest that completed and took one of the same objects, found by the plan
    ADD COLUMN previous_import uuid;

ALTER TABLE sources
    -- what looking at it has found; NULL until then
    ADD COLUMN layout json,
    -- bytes once decompressed, where somebody has gone through all of it
    ADD COLUMN decoded_size bigint,
    -- why it cannot be read to its end; the import fails with the first of these once all else is done
    ADD COLUMN error_code text,
    ADD COLUMN error_message text;
CREATE INDEX sources_by_object ON sources (bucket, key, etag);

-- Where a gzip can be entered: an index for each stretch of its text, so that nobody has to read all of it for a
-- chunk (16 MB for 8 GiB). Deleted when its import ends.
CREATE TABLE source_indexes (
    import_id     uuid NOT NULL REFERENCES imports ON DELETE CASCADE,
    ordinal       integer NOT NULL,
    start_offset  bigint NOT NULL,
    content       bytea NOT NULL,
    PRIMARY KEY (import_id, ordinal, start_offset)
);

ALTER TABLE chunks
    -- load: the lines of an exact range. look: decide how to go on with a source. scan: go through all of a source
    -- before its ranges can be cut. walk: load from start_offset on until it is enough; the rest is another chunk.
    ADD COLUMN kind text NOT NULL DEFAULT 'load' CHECK (kind IN ('load', 'look', 'scan', 'walk')),
    -- whether it reads so much at a stretch that it has a queue of its own
    ADD COLUMN long boolean NOT NULL DEFAULT false,
    -- its share of the object's bytes; NULL: end_offset - start_offset. Offsets are those of the decompressed object.
    ADD COLUMN bytes bigint,
    -- lines of text that its lines took up; NULL: one each
    ADD COLUMN text_lines bigint;
