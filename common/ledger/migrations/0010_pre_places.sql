-- Outside a transaction.
-- Which pages hold events of a collection; see the index before this one.
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_by_collection ON events USING brin (collection_id)
    WITH (autosummarize = on, pages_per_range = 32);
