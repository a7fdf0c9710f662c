-- Keys that have to be known, and not only told right from wrong: callers encrypt other keys with them. Each is a row of
-- api_keys too, whose secret nothing hashes to: so whatever names a key, or ends one, need not know that there are two
-- kinds.
CREATE TABLE master_keys (
    id          text PRIMARY KEY REFERENCES api_keys,
    project_id  uuid NOT NULL REFERENCES projects,
    sealed      bytea,                          -- NULL: revoked
    strict      boolean NOT NULL DEFAULT false  -- takes only keys whose IV is a MAC of what they say
);

-- They are looked for by the project that a request names.
CREATE INDEX master_keys_by_project ON master_keys (project_id);
