-- Exports: events back out. A row is written by one worker at a time, which holds it by a lease.

CREATE TABLE exports (
    id                 uuid PRIMARY KEY,
    number             bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- the order among exports
    project_id         uuid NOT NULL REFERENCES projects,
    collection_id      integer NOT NULL REFERENCES collections,
    api_key_id         text REFERENCES api_keys,
    spec               json NOT NULL,               -- as asked for; never credentials
    state              text NOT NULL DEFAULT 'pending' CHECK (state IN (
                           'pending', 'running', 'completed', 'failed', 'cancelled')),
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    finished_at        timestamptz,
    error_code         text,
    error_message      text,
    -- the writer's lease
    attempts           integer NOT NULL DEFAULT 0,
    lease_token        bigint,
    lease_expires_at   timestamptz,
    -- the backend of the attempt's snapshot: while it lives its statement goes on, and its rows cannot be vacuumed
    holder_pid         integer,
    holder_started     timestamptz,
    sent_at            timestamptz NOT NULL DEFAULT now(),
    not_before         timestamptz NOT NULL DEFAULT now(),
    -- of the present attempt: the one snapshot that all of its objects show
    attempt_started_at timestamptz,
    snapshot_at        timestamptz,
    events_total       bigint,
    bytes_total        bigint,
    events_done        bigint NOT NULL DEFAULT 0,
    bytes_done         bigint NOT NULL DEFAULT 0,
    -- when what attempts have left in the bucket is to be looked after (again); NULL: nothing is left
    clean_at           timestamptz,
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'failed') = (error_code IS NOT NULL))
);
CREATE INDEX exports_active ON exports (project_id, number) WHERE state IN ('pending', 'running');
CREATE INDEX exports_of_project ON exports (project_id, number);
CREATE INDEX exports_of_collection ON exports (collection_id) WHERE state IN ('pending', 'running');
CREATE INDEX exports_to_clean ON exports (clean_at) WHERE clean_at IS NOT NULL;

CREATE TABLE export_history (
    export_id     uuid NOT NULL REFERENCES exports ON DELETE CASCADE,
    number        bigint GENERATED ALWAYS AS IDENTITY,
    state         text NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (export_id, number)
);

CREATE FUNCTION record_export_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.state || '>' || NEW.state NOT IN (
        'pending>running', 'pending>cancelled', 'pending>failed',
        'running>completed', 'running>cancelled', 'running>failed') THEN
        RAISE EXCEPTION 'an export does not move from % to %', OLD.state, NEW.state;
    END IF;
    INSERT INTO export_history (export_id, state) VALUES (NEW.id, NEW.state);
    RETURN NEW;
END $$;
CREATE TRIGGER export_moves AFTER INSERT OR UPDATE OF state ON exports
    FOR EACH ROW EXECUTE FUNCTION record_export_move();

-- The caller's S3 keys, sealed. Gone when the export has ended and nothing of it is left to be taken out of the bucket,
-- and at expires_at in any case.
CREATE TABLE export_secrets (
    export_id     uuid PRIMARY KEY REFERENCES exports ON DELETE CASCADE,
    sealed        bytea NOT NULL,
    expires_at    timestamptz NOT NULL
);

-- What attempts have begun to write. The row stands before S3 hears of the object, so that whatever dies in between,
-- somebody knows what to break off and what to delete.
CREATE TABLE export_objects (
    export_id     uuid NOT NULL REFERENCES exports ON DELETE CASCADE,
    lease_token   bigint NOT NULL,                  -- the attempt that writes it
    number        integer NOT NULL,                 -- from 1; 0 is the manifest
    key           text NOT NULL,
    upload_id     text,                             -- NULL: nobody lived to write it down
    -- begun: parts alone. sealing: S3 was told to make the object of them, and may have. written: it has.
    state         text NOT NULL DEFAULT 'begun' CHECK (state IN ('begun', 'sealing', 'written')),
    events        bigint,
    bytes         bigint,
    sha256        text,
    PRIMARY KEY (export_id, lease_token, number)
);

-- The id that an exported event gets whose line had none. What is derived from numbers of imports is much the same in any
-- two databases, and whoever put exports of both together would lose events as duplicates: so a keyed hash of it, in the
-- form of a UUID (version 8). All other ids are nobody else's as they are.
-- One expression, so that it is put into the statement: as a call for each row it took 10 us.
CREATE FUNCTION shown_id(id uuid, key bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN get_byte(uuid_send(id), 8) >= 128 THEN id::text ELSE
        overlay(overlay(encode(substring(sha256(key || uuid_send(id)) FROM 1 FOR 16), 'hex')
                        PLACING '8' FROM 13 FOR 1) PLACING 'a' FROM 17 FOR 1)::uuid::text END
$$;

-- Requests that carried an Idempotency-Key, for a day: which export each of them made. A table of its own, since the
-- code of before expects an import of every row in the other; a key that made something there makes nothing here.
CREATE TABLE export_keys (
    project_id    uuid NOT NULL REFERENCES projects,
    key           text NOT NULL,
    fingerprint   bytea NOT NULL,
    export_id     uuid NOT NULL REFERENCES exports ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);
CREATE INDEX export_keys_by_export ON export_keys (export_id);
CREATE INDEX export_keys_by_age ON export_keys (created_at);
