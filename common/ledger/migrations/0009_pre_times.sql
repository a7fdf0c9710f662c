-- Outside a transaction.
-- Where events were loaded roughly in the order of their times, a timeframe reads the pages of its time and few others:
-- 1,170 of 18,210 for a 400th part of 400,000 events, in chunks of 25,000. Those are the pages of one chunk, whose rows
-- are sorted by id, so 8, 32 and 128 pages a range were alike; 32 for what is pushed bit by bit.
-- Not together with the collection's number: a column that is the same in row after row makes the planner believe that
-- the table lies in the index's order, and of shuffled times it read all of it (344 ms) where the btree that an operator
-- had made would have taken 49. Apart, by two indexes, the pages of a collection and a time are found as well: 4.2 % of
-- a table of four collections, 13 % by time alone.
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_by_time ON events USING brin (time)
    WITH (autosummarize = on, pages_per_range = 32);
