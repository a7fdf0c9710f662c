-- What a door asks for on top of what all of them have: a limit of its own, and what it tells its callers again.

ALTER TABLE imports
    ADD COLUMN door text,          -- whose own limit of active imports it counts for
    ADD COLUMN most_bytes bigint,  -- of all its objects; above them it fails
    ADD COLUMN asked json;         -- in the door's own words; never credentials
