-- The mapping of a collection's first import. NULL for collections of before: then that of the next import.
ALTER TABLE collections ADD COLUMN mapping json;
