"""The schema is migrated while imports run: nobody is failed, and nobody waits for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.ledger import migrate as migrating
from common.ledger.database import Database
from common.ledger.migrate import FOLDER, migrate
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Fault, Stack

MIGRATION = """
ALTER TABLE chunks ADD COLUMN tried text;
ALTER TABLE imports ADD COLUMN tried integer NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN tried boolean;
CREATE TABLE tried (import_id uuid NOT NULL REFERENCES imports ON DELETE CASCADE);
"""
#: How long a migration waits for a lock here, and how long somebody else reads.
LOCK_SECONDS, READING_SECONDS = 0.5, 3.0


def test_a_migration_in_the_middle_of_an_import_fails_nothing_and_holds_up_nobody_for_long(
    stack: Stack, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a reader whose lock it has to wait for, such as pg_dump: all others would wait with it."""
    monkeypatch.setattr(migrating, "_LOCK_SECONDS", LOCK_SECONDS)
    monkeypatch.setattr(migrating, "_PAUSE_SECONDS", (0.2, 0.4))
    (tmp_path / "9001_pre_tried.sql").write_text(MIGRATION)
    waits: list[str] = []
    monkeypatch.setattr(migrating.log, "warning", lambda event, **_: waits.append(event))
    source = make_object(1, 70_000)
    import_id = stack.start(stack.put(source.content), collection)
    database = Database(stack.service.environment["DATABASE_URL"])
    applied: list[str] = []

    def migrate_beside_a_reader() -> None:
        with reading(stack, "chunks", READING_SECONDS):
            applied.extend(migrate(database, (FOLDER, tmp_path)))

    with slowest_answer(stack, import_id) as slowest:
        migration = threading.Thread(target=migrate_beside_a_reader)
        stack.follow(import_id, Fault(10, migration.start))
        migration.join()
    database.close()

    assert applied == ["9001_pre_tried.sql"]
    assert "migration_waits" in waits
    assert slowest[0] < LOCK_SECONDS + 2, "somebody waited as long as the reader read"
    later = (
        "SELECT count(*) FROM chunks WHERE import_id = %(id)s AND tried IS NULL"
        " AND done_at > (SELECT max(applied_at) FROM migrations)"
    )
    assert stack.value(later, id=import_id) > 0, "the import was over before the migration: give it a larger object"
    audit_complete(stack, collection, import_id, source)


@contextmanager
def reading(stack: Stack, table: str, seconds: float) -> Iterator[None]:
    """Give a time whose first seconds another session reads a table in."""
    begun = threading.Event()

    def read() -> None:
        with stack.database.transaction() as tx:
            tx.run(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
            begun.set()
            time.sleep(seconds)
        stack.database.close()

    reader = threading.Thread(target=read)
    reader.start()
    begun.wait()
    yield
    reader.join()


@contextmanager
def slowest_answer(stack: Stack, import_id: str) -> Iterator[list[float]]:
    """Ask for the import all the time, and tell how long the slowest answer took; each has to be one."""
    over, slowest = threading.Event(), [0.0]
    wrong: list[int] = []

    def ask() -> None:
        while not over.wait(0.02):
            began = time.monotonic()
            status = stack.request("GET", f"/api/imports/{import_id}", native=True).status
            slowest[0] = max(slowest[0], time.monotonic() - began)
            if status != 200:
                wrong.append(status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield slowest
    finally:
        over.set()
        thread.join()
    assert wrong == []
