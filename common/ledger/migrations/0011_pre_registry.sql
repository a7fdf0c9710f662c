-- Things that the lines of a project may name. A project has so few of them that whoever reads lines takes them all.
CREATE TABLE registered (
    project_id    uuid NOT NULL REFERENCES projects,
    kind          text NOT NULL,
    id            text NOT NULL,                    -- a UUID in lower case, with dashes; anything else as it is
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, kind, id)
);
