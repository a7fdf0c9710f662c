"""What a migration may do while the code before it still runs."""

from __future__ import annotations

import re

import pytest

from common.ledger.migrate import read_migrations

#: Tables with a row an event, a line or a chunk: to index one takes minutes, in which nobody could write to it.
GROWING = "events|rejects|chunks|chunk_duplicates"

_OFFENCES = {
    r"\bDROP\b": "takes something away",
    r"\bRENAME\b": "takes a name away",
    r"\bALTER (COLUMN )?\w+ (SET DATA )?TYPE\b": "changes a type",
    r"\bSET NOT NULL\b": "asks more of rows that the old code writes",
    r"\bADD (CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN|EXCLUDE)\b": "asks more of rows that the old code writes",
    r"\bADD COLUMN\b(?=[^,]*\bNOT NULL\b)(?![^,]*\bDEFAULT\b)": "adds a column that the old code does not fill",
    r"\bADD COLUMN\b[^,]*\b(gen_random_uuid|random|clock_timestamp|nextval|STORED|IDENTITY)\b": "writes every row",
    r"\bADD COLUMN\b[^,]*\b(UNIQUE|PRIMARY KEY)\b": "reads all rows while nobody may write",
    r"^(UPDATE|DELETE|TRUNCATE)\b": "touches rows of the code that runs",
}


def offences(text: str) -> list[str]:
    """Return what a migration does that the code before it may not survive, or not without a long wait.

    A new table may do anything, REFERENCES included: that locks the table it names against writers (SHARE ROW
    EXCLUSIVE) until the migration commits, and waits for those who write. But it has no row to check, so it holds the
    lock briefly, and the wait has a migration's limit, after which all others pass and it tries again.
    """
    bare = re.sub(r"--[^\n]*|'[^']*'|(\$\w*\$).*?\1", "", text, flags=re.DOTALL)
    # Commas inside brackets part no columns: numeric(10, 2), CHECK (a IN (b, c)).
    while (flat := re.sub(r"\([^()]*\)", lambda found: found[0][1:-1].replace(",", " "), bare)) != bare:
        bare = flat
    bare = re.sub(r"\bADD (?!COLUMN|CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN|EXCLUDE)", "ADD COLUMN ", bare, flags=re.I)
    new = re.findall(r"\bCREATE TABLE (?:IF NOT EXISTS )?(\w+)", bare, re.IGNORECASE)
    found = []
    for statement in filter(None, (" ".join(part.split()) for part in bare.split(";"))):
        if re.match("CREATE TABLE", statement, re.IGNORECASE):
            continue
        found += [why for what, why in _OFFENCES.items() if re.search(what, statement, re.IGNORECASE)]
        # CONCURRENTLY keeps nobody from writing; it takes a file of its own (common.ledger.migrate).
        indexed = re.match(r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON (?:ONLY )?(\w+)", statement, re.IGNORECASE)
        if indexed and indexed[1] not in new and (re.match(GROWING, indexed[1]) or "UNIQUE" in statement.upper()):
            found.append("indexes a table that is written to")
    return found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("ALTER TABLE imports DROP COLUMN lines;", 1),
        ("ALTER TABLE imports RENAME COLUMN lines TO rows;", 1),
        ("alter table chunks alter column lines type integer;", 1),
        ("ALTER TABLE chunks ALTER lines SET DATA TYPE integer, ALTER blank SET NOT NULL", 2),
        ("ALTER TABLE imports ADD COLUMN a text, ADD COLUMN b integer NOT NULL;", 1),
        ("ALTER TABLE imports ADD COLUMN b integer NOT NULL, ADD COLUMN c integer DEFAULT 1;", 1),
        ("ALTER TABLE events ADD COLUMN drawn uuid DEFAULT gen_random_uuid();", 1),
        ("ALTER TABLE chunks ADD CONSTRAINT c CHECK (lines >= 0);", 1),
        ("CREATE INDEX i ON chunks (done_at);", 1),
        ("CREATE UNIQUE INDEX i ON imports (id);", 1),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON chunks (done_at);", 0),
        ("UPDATE imports SET lines = 0; DELETE FROM chunks;", 2),
        ("-- DROP it later\nALTER TABLE imports ADD COLUMN a integer NOT NULL DEFAULT 0, ADD b text;", 0),
        ("ALTER TABLE imports ADD COLUMN price numeric(10, 2) NOT NULL DEFAULT 0;", 0),
        ("CREATE TABLE marks (id uuid NOT NULL, kind text CHECK (kind IN ('DROP', 'b')));", 0),
        ("CREATE TABLE marks (id uuid NOT NULL REFERENCES imports ON DELETE CASCADE);", 0),
        ("CREATE TABLE marks (id uuid NOT NULL); CREATE INDEX i ON marks (id);", 0),
        ("ALTER TABLE imports ADD kind text NOT NULL;", 1),
        ("ALTER TABLE imports ADD COLUMN type text;", 0),
        ("CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$BEGIN DELETE FROM x; END$$;", 0),
        ("CREATE INDEX few ON imports (finished_at);", 0),
    ],
)
def test_offences_are_seen_and_additions_are_none(text: str, count: int) -> None:
    assert len(offences(text)) == count, offences(text)


def test_a_migration_before_the_new_code_starts_only_adds() -> None:
    """0001 makes everything, and there is no code before it."""
    migrations = [(name, text) for name, text in read_migrations() if "_pre_" in name and not name.startswith("0001")]

    assert {name: found for name, text in migrations if (found := offences(text))} == {}
