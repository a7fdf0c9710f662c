-- The house: projects, imports, chunks, events. Postgres 14 or newer, no extensions.

-- Whose data it is.
CREATE TABLE projects (
    id            uuid PRIMARY KEY,
    name          text NOT NULL UNIQUE,
    import_limit  integer CHECK (import_limit > 0),  -- NULL: the service's own setting
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- Keys are kept as SHA-256 of 256 random bits: nothing to guess, so nothing gained by a slow hash.
CREATE TABLE api_keys (
    id            text PRIMARY KEY,
    project_id    uuid NOT NULL REFERENCES projects,
    secret_sha256 bytea NOT NULL,
    scopes        text[] NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);

-- The key of the hash that makes event ids of id strings. Drawn once, here, and never rotated: another key would
-- make other ids of the same strings. 244 random bits of the server's strong generator (pgcrypto is no part of
-- every Postgres that we run on).
CREATE TABLE identity_key (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    hash_key      bytea NOT NULL
);
INSERT INTO identity_key (hash_key)
VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

CREATE TABLE collections (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id    uuid NOT NULL REFERENCES projects,
    name          text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, name)
);

-- Every claim, of a chunk or of a plan, draws a new token; a commit has to show the latest.
CREATE SEQUENCE lease_tokens;

CREATE TABLE imports (
    id               uuid PRIMARY KEY,
    number           bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- the order among imports
    project_id       uuid NOT NULL REFERENCES projects,
    collection_id    integer NOT NULL REFERENCES collections,
    api_key_id       text REFERENCES api_keys,
    source           json NOT NULL,                 -- as asked for: bucket, key, region; never credentials
    mapping          json NOT NULL,
    max_rejects      bigint NOT NULL CHECK (max_rejects >= 0),
    state            text NOT NULL DEFAULT 'pending' CHECK (state IN (
                         'pending', 'planning', 'running', 'paused',
                         'completed', 'completed_with_errors', 'failed', 'cancelled')),
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    error_code       text,
    error_message    text,
    -- the planner's lease
    attempts         integer NOT NULL DEFAULT 0,
    lease_token      bigint,
    lease_expires_at timestamptz,
    holder_pid       integer,
    holder_started   timestamptz,
    sent_at          timestamptz NOT NULL DEFAULT now(),
    not_before       timestamptz NOT NULL DEFAULT now(),
    -- pinned by the plan
    bytes_total      bigint,
    chunks_total     integer NOT NULL DEFAULT 0,
    -- copied from the chunks when the import ends
    bytes_done       bigint,
    lines            bigint,
    imported         bigint,
    replaced         bigint,
    duplicates       bigint,
    rejected         bigint,
    blank            bigint,
    CHECK ((state IN ('completed', 'completed_with_errors', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error_code IS NOT NULL)),
    CHECK (lines = imported + replaced + duplicates + rejected + blank)
);
-- Counts the slots in use, and finds what the sweep has to look at.
CREATE INDEX imports_active ON imports (project_id, number)
    WHERE state IN ('pending', 'planning', 'running', 'paused');
CREATE INDEX imports_of_project ON imports (project_id, number);

CREATE TABLE import_history (
    import_id     uuid NOT NULL REFERENCES imports ON DELETE CASCADE,
    number        bigint GENERATED ALWAYS AS IDENTITY,
    state         text NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (import_id, number)
);

-- One trigger guards the table of moves and writes the history, so that no statement can forget either.
CREATE FUNCTION record_import_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.state || '>' || NEW.state NOT IN (
        'pending>planning', 'pending>cancelled', 'pending>failed',
        'planning>running', 'planning>cancelled', 'planning>failed',
        'running>paused', 'running>completed', 'running>completed_with_errors', 'running>cancelled',
        'running>failed', 'paused>running', 'paused>cancelled', 'paused>failed') THEN
        RAISE EXCEPTION 'an import does not move from % to %', OLD.state, NEW.state;
    END IF;
    INSERT INTO import_history (import_id, state) VALUES (NEW.id, NEW.state);
    RETURN NEW;
END $$;
CREATE TRIGGER import_moves AFTER INSERT OR UPDATE OF state ON imports
    FOR EACH ROW EXECUTE FUNCTION record_import_move();

-- The caller's S3 keys, sealed. Gone when the import ends, and at expires_at in any case.
CREATE TABLE import_secrets (
    import_id     uuid PRIMARY KEY REFERENCES imports ON DELETE CASCADE,
    sealed        bytea NOT NULL,
    expires_at    timestamptz NOT NULL
);

-- What the plan pinned.
CREATE TABLE sources (
    import_id     uuid NOT NULL REFERENCES imports ON DELETE CASCADE,
    ordinal       integer NOT NULL,
    bucket        text NOT NULL,
    key           text NOT NULL,
    region        text NOT NULL,
    size          bigint NOT NULL,
    etag          text NOT NULL,
    PRIMARY KEY (import_id, ordinal)
);

-- The unit of work, retry and commit; done chunks are the entries of the ledger. A chunk is waiting (in the queue or
-- not: sent_at is a hint), leased (a worker holds it by token, until the lease ends or its backend is gone) or done.
-- Only a chunk's own transaction moves it; the ends of its import never touch it.
CREATE TABLE chunks (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    import_id        uuid NOT NULL REFERENCES imports ON DELETE CASCADE,
    source_ordinal   integer NOT NULL,
    number           integer NOT NULL,
    start_offset     bigint NOT NULL,
    end_offset       bigint NOT NULL,
    state            text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'leased', 'done')),
    attempts         integer NOT NULL DEFAULT 0,
    lease_token      bigint,
    lease_expires_at timestamptz,
    leased_at        timestamptz,
    holder_pid       integer,
    holder_started   timestamptz,
    sent_at          timestamptz,
    not_before       timestamptz NOT NULL DEFAULT now(),
    done_at          timestamptz,
    lines            bigint NOT NULL DEFAULT 0,
    imported         bigint NOT NULL DEFAULT 0,
    replaced         bigint NOT NULL DEFAULT 0,
    duplicates       bigint NOT NULL DEFAULT 0,
    rejected         bigint NOT NULL DEFAULT 0,
    blank            bigint NOT NULL DEFAULT 0,
    UNIQUE (import_id, number),
    CHECK ((state = 'done') = (done_at IS NOT NULL)),
    CHECK (lines = imported + replaced + duplicates + rejected + blank)
);
CREATE INDEX chunks_open ON chunks (import_id, number) WHERE state <> 'done';
CREATE INDEX chunks_leased ON chunks (lease_expires_at) WHERE state = 'leased';

-- How many lines of a chunk were dropped because another import owned the stored row: undoing that one needs it.
-- No foreign key here and in rejects: it would lock the chunk's row from the first insert to the commit, so that nobody
-- could take over a chunk whose holder was stopped in between; and it costs a trigger a row (4 M rejects: 30 s).
CREATE TABLE chunk_duplicates (
    chunk_id      bigint NOT NULL,
    owner_number  bigint NOT NULL,
    lines         bigint NOT NULL,
    PRIMARY KEY (chunk_id, owner_number)
);

CREATE TABLE rejects (
    chunk_id      bigint NOT NULL,
    line          bigint NOT NULL,                  -- among the lines that the chunk owns
    byte_offset   bigint NOT NULL,
    length        bigint NOT NULL,
    code          text NOT NULL,
    body          bytea NOT NULL,
    PRIMARY KEY (chunk_id, line)
);

-- The store. The payload is json, not jsonb: its bytes come back as they came in, \u0000 cannot abort a batch, and
-- it measured two to three times cheaper to load. No foreign keys: each would cost a look-up an event.
CREATE TABLE events (
    import_number  bigint NOT NULL,
    byte_offset    bigint NOT NULL,
    time           timestamptz NOT NULL,
    event_id       uuid NOT NULL,
    collection_id  integer NOT NULL,
    source_ordinal integer NOT NULL,
    odd            boolean NOT NULL,                -- json operators of Postgres fail on this payload
    payload        json NOT NULL,
    CONSTRAINT events_identity PRIMARY KEY (collection_id, event_id)
);
-- Rows of one import lie together, so a few bytes a range of pages are enough to find them (undo, retention).
CREATE INDEX events_by_import ON events USING brin (import_number) WITH (autosummarize = on);

-- Whether the backend that claimed a lease still lives. A worker that was killed loses its connection at once, so a
-- dead backend ends a lease before its time does. Should a holder have lost only its connection, the token fences it.
-- Backends of another role do not show their start: all workers have to connect as the same one.
CREATE FUNCTION holder_lives(pid integer, started timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = $1 AND a.backend_start = $2)
$$;
