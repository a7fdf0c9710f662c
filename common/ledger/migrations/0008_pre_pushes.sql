-- What was pushed into a collection: a row for each request, which the sweep folds together where they are many. The
-- listing of collections sums them, as it sums the receipts of imports.
CREATE TABLE pushes (
    number        bigint PRIMARY KEY,               -- drawn from that of imports; of folded rows the largest
    project_id    uuid NOT NULL REFERENCES projects,
    collection_id integer NOT NULL REFERENCES collections,
    api_key_id    text REFERENCES api_keys,         -- NULL: rows of several requests
    requests      bigint NOT NULL DEFAULT 1,
    events        bigint NOT NULL,                  -- rows that were not there before
    replaced      bigint NOT NULL,                  -- rows whose place was taken
    duplicates    bigint NOT NULL,
    bytes         bigint NOT NULL,                  -- by which the stored payloads grew, with a line break for each row
    first_time    timestamptz,                      -- of what was stored; NULL where nothing was
    last_time     timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX pushes_of_collection ON pushes (collection_id);
