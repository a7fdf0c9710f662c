-- Secrets that requests are signed with: whoever checks a signature has to make it too. Each is a row of api_keys, its
-- id the access key id, whose secret nothing hashes to: as master keys are.
CREATE TABLE key_pairs (
    id      text PRIMARY KEY REFERENCES api_keys,
    sealed  bytea                                   -- NULL: revoked
);

-- A project whose key pair made another owns it, and its key pairs open both.
ALTER TABLE projects
    ADD COLUMN owner_id uuid REFERENCES projects,
    -- what its maker calls it, like others perhaps; NULL: its name
    ADD COLUMN title text;
CREATE INDEX projects_by_owner ON projects (owner_id) WHERE owner_id IS NOT NULL;

-- What signed requests were answered that wrote something, for as long as somebody else may send them again.
CREATE TABLE answers (
    api_key_id  text NOT NULL REFERENCES api_keys,
    request     bytea NOT NULL,                     -- stands for one request
    status      smallint NOT NULL,
    body        bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (api_key_id, request)
);
CREATE INDEX answers_by_time ON answers (at);
