"""Indexes are built beside writers, and a timeframe finds its events by them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.errors import Transient
from common.ledger import collections, indexes
from common.ledger.database import Database
from common.ledger.indexes import build_index
from common.ledger.migrate import FOLDER, migrate
from deploy.local.servers import Servers
from tests.stage import Stage, event, ndjson

CREATE = "CREATE INDEX CONCURRENTLY IF NOT EXISTS events_drawn_%(number)s ON events (byte_offset)"
FILL = (
    "INSERT INTO events (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd, payload)"
    " SELECT %(id)s, gen_random_uuid(), %(id)s, 0, n, timestamptz '2024-01-01' + {when} * interval '1 minute', false,"
    " json_build_object('n', n, 'filler', repeat('x', 200)) FROM generate_series(1, 40000) AS n"
)


@pytest.fixture
def database(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database of its own."""
    name = re.sub(r"\W", "", request.node.name)[-40:].lower()
    built = Database(servers.create_database(name))
    migrate(built)
    yield built
    built.close()


def is_valid(database: Database, name: str) -> bool | None:
    with database.transaction() as tx:
        row = tx.one("SELECT indisvalid AS valid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)", name=name)
    return row.valid if row else None


def test_what_was_left_unfinished_is_built_anew(database: Database) -> None:
    build_index(database, CREATE, number=1)
    with database.transaction() as tx:
        tx.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('events_drawn_1')")
        former = tx.one("SELECT to_regclass('events_drawn_1')::oid AS oid").oid
    build_index(database, CREATE, number=1)
    assert is_valid(database, "events_drawn_1")
    with database.transaction() as tx:
        (made,) = tx.one("SELECT to_regclass('events_drawn_1')::oid AS oid")
        assert made != former

    build_index(database, CREATE, number=1)
    with database.transaction() as tx:
        assert tx.one("SELECT to_regclass('events_drawn_1')::oid AS oid").oid == made, "one that is whole stays"


def test_a_statement_that_would_keep_writers_waiting_is_a_mistake(database: Database) -> None:
    with pytest.raises(ValueError, match="CONCURRENTLY"):
        build_index(database, "CREATE INDEX drawn ON events (byte_offset)")


def await_a_builder(database: Database) -> None:
    """Return once somebody who builds an index waits for somebody who writes."""
    deadline, waits = time.monotonic() + 10, False
    while not waits:
        assert time.monotonic() < deadline, "nobody waits"
        with database.aside() as tx:
            waits = tx.one(
                "SELECT count(*) > 0 AS waits FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%'"
                " AND wait_event_type = 'Lock' AND datname = current_database()"
            ).waits


def test_writers_write_while_an_index_is_built_and_two_builders_take_turns(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_PAUSE_SECONDS", 0.02)
    with ThreadPoolExecutor(2) as pool:
        with database.transaction() as writer:
            writer.run(FILL.format(when="n"), id=1)
            building = [pool.submit(build_index, database, CREATE, number=1) for _ in range(2)]
            await_a_builder(database)
            assert not any(future.done() for future in building), "it goes on before the rows under way are in"
            with database.aside() as tx:
                tx.run(FILL.format(when="n"), id=2)
        for future in building:
            future.result(30)
    assert is_valid(database, "events_drawn_1")


def test_a_file_outside_a_transaction_is_applied_once_and_again_where_it_broke(
    database: Database, tmp_path: Path
) -> None:
    text = f"-- Outside a transaction.\n-- Why; and more.\n{CREATE % {'number': 7}};\n{CREATE % {'number': 8}};\n"
    (tmp_path / "9001_pre_indexes.sql").write_text(text)
    build_index(database, CREATE, number=7)  # as whoever was killed before he could note the file

    assert migrate(database, (FOLDER, tmp_path)) == ["9001_pre_indexes.sql"]
    assert migrate(database, (FOLDER, tmp_path)) == []
    assert is_valid(database, "events_drawn_7")
    assert is_valid(database, "events_drawn_8")
    (tmp_path / "9001_pre_indexes.sql").write_text(text + "--")
    with pytest.raises(RuntimeError, match="another version"):
        migrate(database, (FOLDER, tmp_path))


def test_hosts_that_migrate_at_once_end_with_one_index(servers: Servers) -> None:
    url = servers.create_database("at_once")
    with ThreadPoolExecutor(3) as pool:
        applied = list(pool.map(lambda _: migrate(Database(url)), range(3)))

    names = [name for one in applied for name in one]
    assert sorted(names) == sorted(set(names))
    assert is_valid(Database(url), "events_by_time")


def pages_read(database: Database, collection_id: int) -> tuple[int, int]:
    """Return the pages of the table that an hour's timeframe reads, and how many there are."""
    with database.transaction() as tx:
        (plan,) = tx.one(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT count(payload::text) FROM events"
            " WHERE collection_id = %(id)s AND time >= '2024-01-10' AND time < '2024-01-10T01:00'",
            id=collection_id,
        )
        whole = tx.one("SELECT pg_relation_size('events') / 8192 AS pages").pages
    top: dict[str, Any] = plan[0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], whole


def test_a_timeframe_reads_a_small_part_of_what_was_loaded_in_the_order_of_time(database: Database) -> None:
    """And of what was not, with an index of the collection's own."""
    with database.transaction() as tx:
        project = tx.one("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'p') RETURNING id").id
        for name in ("ordered", "shuffled"):
            number = tx.one(
                "INSERT INTO collections (project_id, name) VALUES (%(id)s, %(name)s) RETURNING id",
                id=project,
                name=name,
            ).id
            tx.run(FILL.format(when="n" if name == "ordered" else "(n * 7919 %% 40000)"), id=number)
    with database.unbound() as tx:
        tx.run("VACUUM ANALYZE events")
    ordered, whole = pages_read(database, 1)
    shuffled, _ = pages_read(database, 2)
    collections.index_time(database, project, "shuffled")
    indexed, _ = pages_read(database, 2)

    assert ordered < whole / 10
    assert shuffled > whole / 3
    assert indexed < whole / 10


def test_an_index_in_use_is_dropped_another_time(stage: Stage) -> None:
    """Or the sweep would wait for an export's whole hour."""
    stage.run(ndjson(event("a")), collection="indexed")
    database = stage.runtime.database
    collections.index_time(database, stage.caller.project_id, "indexed")
    (row,) = stage.query(
        "SELECT id FROM collections WHERE project_id = %(id)s AND name = 'indexed'", id=stage.caller.project_id
    )
    with stage.worker().database.transaction() as reader:
        reader.one("SELECT count(*) FROM events")
        with pytest.raises(Transient):
            collections.drop_time_index(database, row.id, patience=0.1)
        stage.run(ndjson(event("b")), collection="indexed")
    collections.drop_time_index(database, row.id, patience=0.1)
    assert is_valid(database, f"events_time_{row.id}") is None
