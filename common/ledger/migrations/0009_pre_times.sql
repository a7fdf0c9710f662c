-- Outside a transaction.
-- Where the events of a collection were loaded roughly in the order of their times, a timeframe reads the pages of its
-- time and no others: 1,170 of 18,210 for a 400th part of 400,000 events, in chunks of 25,000. Those are the pages of
-- one chunk, whose rows are sorted by id, so 8, 32 and 128 pages a range were alike; 32 for what is pushed bit by bit. A
-- COPY has 0.91 to 0.97 of its rate with any of them (the noise of that run), 0.59 with a btree and times in no order.
-- Times in no order are found by an index of the collection's own (penstock admin index-time).
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_by_time ON events USING brin (collection_id, time)
    WITH (autosummarize = on, pages_per_range = 32);
