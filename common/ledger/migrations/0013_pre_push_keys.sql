-- Pushes that carried an Idempotency-Key, for a day: what each was answered. Not which push it made: the rows of pushes
-- are folded together, and one whose events were all duplicates is to be told so again.
CREATE TABLE push_keys (
    project_id    uuid NOT NULL REFERENCES projects,
    key           text NOT NULL,
    fingerprint   bytea NOT NULL,                   -- of the events; keyed
    verdicts      json NOT NULL,                    -- by collection, in the order of its events
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);
CREATE INDEX push_keys_by_age ON push_keys (created_at);
