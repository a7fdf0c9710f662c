-- Bodies that are sent to us: from before the first byte is read until nothing of them is left in the spool bucket. An
-- import that waits for its body has not_before = 'infinity', so that nobody plans it, the code before this included.
CREATE TABLE uploads (
    -- No ON DELETE CASCADE: what lies in the bucket has to go before its import does.
    import_id     uuid PRIMARY KEY REFERENCES imports,
    bucket        text NOT NULL,
    key           text NOT NULL,
    -- The multipart upload's. NULL: not begun yet, or begun by a process that died before it could write this down; S3
    -- is asked then.
    upload_id     text,
    -- When bytes last came.
    touched_at    timestamptz NOT NULL DEFAULT now(),
    -- When the body was all there.
    done_at       timestamptz,
    -- When to try (again) to delete it, once its import has ended.
    delete_after  timestamptz NOT NULL DEFAULT now()
);
