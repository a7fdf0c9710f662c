-- Requests that carried an Idempotency-Key, for a day: which import each of them made. The row is written before the
-- import's, in its transaction, so that a second request with the key waits for the first; hence the deferred check.
CREATE TABLE idempotency_keys (
    project_id    uuid NOT NULL REFERENCES projects,
    key           text NOT NULL,
    fingerprint   bytea NOT NULL,                   -- of what was asked, without credentials; keyed
    import_id     uuid NOT NULL REFERENCES imports ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);
-- Whoever deletes an import, or a project with its own, deletes its keys: without this, a walk over a day's keys each.
CREATE INDEX idempotency_keys_by_import ON idempotency_keys (import_id);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
