-- What is known of the columns of tables.

-- As the import declared them; NULL: its lines are those of no table. Its mapping is the table's once it was planned.
ALTER TABLE imports ADD COLUMN columns json;
-- NULL: no rows have come yet, or it is no table.
ALTER TABLE collections ADD COLUMN columns json;
