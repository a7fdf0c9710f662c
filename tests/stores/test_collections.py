"""What the ledger says of collections, and what becomes of them when they are deleted."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.collecting import CollectionDesk
from api.desk import Desk
from common.errors import Refusal
from common.ledger import collections
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.model.collections import CollectionStatus
from common.model.imports import Credentials, ImportSpec
from common.model.mapping import Mapping, OnDuplicate
from common.model.rules import Rules
from tests.stage import Stage, event, ndjson
from workers import sweep as sweeping
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import
from workers.sweep import sweep

DAYS = ("2024-02-29", "0001-01-01", "2026-05-05T12:00:00.123456Z", "9999-12-31T23:59:59.999999Z", "1969-07-20")
LINES = st.one_of(
    st.builds(
        lambda id_, size, day: json.dumps(
            {**({} if id_ is None else {"$unique_id": id_}), "timestamp": day, "filler": "ü" * size}, ensure_ascii=False
        ).encode(),
        st.one_of(st.none(), st.integers(0, 5)),
        st.integers(0, 40),
        st.sampled_from(DAYS),
    ),
    st.sampled_from([b"{bad", b"", b'{"timestamp": "never"}']),
)
FILES = st.lists(LINES, max_size=14).map(lambda lines: b"\n".join([b'{"n": 1}', *lines, b""]))


def listed(stage: Stage, name: str) -> CollectionStatus:
    with stage.runtime.database.transaction() as tx:
        (found,), _ = collections.list_collections(tx, stage.caller.project_id, names=[name], limit=1)
    return found


def counted(stage: Stage, name: str) -> Any:
    """Return the same by looking at the events."""
    (row,) = stage.query(
        "SELECT count(*) AS events, coalesce(sum(octet_length(payload::text) + 1), 0) AS bytes, min(time) AS first,"
        " max(time) AS last FROM events WHERE collection_id ="
        " (SELECT id FROM collections WHERE project_id = %(project)s AND name = %(name)s)",
        project=stage.caller.project_id,
        name=name,
    )
    return row


@given(
    data=st.data(),
    bodies=st.lists(FILES, min_size=1, max_size=3),
    chunk_bytes=st.integers(40, 300),
    rule=st.sampled_from(OnDuplicate),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_commit_the_listing_says_what_a_count_of_the_events_would(
    stage: Stage, data: st.DataObject, bodies: list[bytes], chunk_bytes: int, rule: OnDuplicate
) -> None:
    stage.runtime.settings = stage.worker(chunk_bytes=chunk_bytes, max_line_bytes=500, import_limit=10**6).settings
    name = uuid.uuid4().hex  # not drawn: a replayed example must not meet its own rows
    mapping = Mapping(time_names=("timestamp",), on_duplicate=rule)
    import_ids = [stage.start(body, collection=name, mapping=mapping) for body in bodies]
    for import_id in import_ids:
        plan_import(stage.runtime, import_id)
    chunk_ids = [chunk_id for import_id in import_ids for chunk_id in stage.chunk_ids(import_id)]
    ends_early = data.draw(st.integers(0, len(chunk_ids)), label="cancelled after")

    for place, chunk_id in enumerate(data.draw(st.permutations(chunk_ids), label="order")):
        if place == ends_early and not stage.status(import_ids[0]).state.ended:
            stage.desk.cancel_import(stage.caller, import_ids[0])
        if data.draw(st.booleans(), label="flush"):
            stage.flush_redis()
        load_chunk(stage.runtime, chunk_id)
        said, found = listed(stage, name), counted(stage, name)
        assert (said.events, said.size) == (found.events, found.bytes)
        assert (said.first_time is None) == (said.last_time is None) == (not found.events)
        if said.first_time and said.last_time:
            assert said.first_time <= found.first <= found.last <= said.last_time


def test_times_are_exact_where_nothing_took_the_place_of_another(stage: Stage) -> None:
    mapping = Mapping(time_names=("timestamp",))
    stage.run(ndjson(*({"timestamp": day} for day in DAYS)), collection="exact", mapping=mapping)

    said, found = listed(stage, "exact"), counted(stage, "exact")
    assert (said.first_time, said.last_time) == (found.first, found.last)


def test_what_the_code_of_before_stored_has_no_size_rather_than_a_wrong_one(stage: Stage) -> None:
    import_id = stage.run(ndjson(event("a"))).id
    with stage.runtime.database.transaction() as tx:
        for table in ("chunks", "imports"):
            key = "import_id" if table == "chunks" else "id"
            tx.run(
                f"UPDATE {table} SET stored_bytes = NULL, first_time = NULL, last_time = NULL WHERE {key} = %(id)s",
                id=import_id,
            )
    stage.run(ndjson(event("b")))

    said = listed(stage, "events")
    assert (said.events, said.size, said.first_time, said.last_time) == (2, None, None, None)


def test_an_import_that_stored_nothing_before_hides_no_size(stage: Stage) -> None:
    import_id = stage.run(b'{"n": 1}\n{"$unique_id": ""}\n').id
    with stage.runtime.database.transaction() as tx:
        tx.run("UPDATE imports SET stored_bytes = NULL, imported = 0, lines = rejected WHERE id = %(id)s", id=import_id)
    stage.run(ndjson(event("b")))

    assert listed(stage, "events").size is not None


def await_a_wait(stage: Stage) -> None:
    """Return once somebody waits for somebody else's row."""
    deadline = time.monotonic() + 10
    while not stage.query(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ):
        assert time.monotonic() < deadline, "nobody waits"


def numbers(stage: Stage, name: str) -> list[int]:
    """Return the numbers that a name has and had, the oldest first."""
    rows = stage.query(
        "SELECT id FROM collections WHERE project_id = %(project)s AND %(name)s IN (name, former_name) ORDER BY id",
        project=stage.caller.project_id,
        name=name,
    )
    return [row.id for row in rows]


def delete(stage: Stage, name: str) -> None:
    CollectionDesk(stage.runtime).delete_collection(stage.caller, name)


def held(number: int, stage: Stage) -> int:
    (row,) = stage.query("SELECT count(*) AS count FROM events WHERE collection_id = %(id)s", id=number)
    return int(row.count)


def test_a_deleted_collection_is_gone_at_once_and_its_name_is_free(stage: Stage) -> None:
    first = stage.run(ndjson(event("a"), event("b")))
    delete(stage, "events")
    with pytest.raises(Refusal, match="no collection") as refused:
        delete(stage, "events")
    assert refused.value.code == "not_found"
    second = stage.run(ndjson(event("a")), mapping=Mapping(on_duplicate=OnDuplicate.REPLACE))

    assert second.progress.counts.imported == 1, "an id of the deleted one is no duplicate"
    assert listed(stage, "events").events == 1
    assert stage.status(first.id).collection == "events"
    page = stage.desk.list_imports(stage.caller, collection="events")
    assert [status.id for status in page.items] == [second.id, first.id]


def test_the_sweep_deletes_what_a_deleted_collection_held_and_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "_DELETED_AT_ONCE", 3)
    stage.run(ndjson(*(event(f"old {n}") for n in range(10)), event(None)))
    collections.index_time(stage.runtime.database, stage.caller.project_id, "events")
    delete(stage, "events")
    stage.run(ndjson(event("new")))
    stage.run(ndjson(event("other")), collection="other")
    old, new = numbers(stage, "events")

    assert stage.query("SELECT FROM pg_class WHERE relname = %(name)s", name=f"events_time_{old}")
    with stage.runtime.database.transaction() as tx:
        assert collections.empty_collection(tx, old) == 3
    assert sweep(stage.runtime)

    assert (held(old, stage), held(new, stage), listed(stage, "other").events) == (0, 1, 1)
    (row,) = stage.query("SELECT emptied_at, name FROM collections WHERE id = %(id)s", id=old)
    assert row.emptied_at
    assert not stage.query("SELECT FROM pg_class WHERE relname = %(name)s", name=f"events_time_{old}")
    with stage.runtime.database.transaction() as tx:
        assert old not in collections.collections_to_empty(tx)


def test_a_round_of_the_sweep_ends_though_much_is_left(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "_DELETED_AT_ONCE", 1)
    monkeypatch.setattr(sweeping, "_EMPTYING_SECONDS", 0)
    stage.run(ndjson(event("a"), event("b")))
    delete(stage, "events")
    sweep(stage.runtime)
    (old,) = numbers(stage, "events")
    assert held(old, stage) == 2

    monkeypatch.setattr(sweeping, "_EMPTYING_SECONDS", 10)
    sweep(stage.runtime)
    assert held(old, stage) == 0


def test_emptying_goes_on_behind_what_is_deleted_and_not_yet_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an old snapshot is read, what was deleted stays in the index."""
    monkeypatch.setattr(collections, "_DELETED_AT_ONCE", 100)
    stage.run(ndjson(event("a")))
    delete(stage, "events")
    (old,) = numbers(stage, "events")
    with stage.runtime.database.transaction() as tx:
        tx.run(
            "INSERT INTO events (collection_id, event_id, import_number, source_ordinal, byte_offset, time, odd,"
            " payload)"
            " SELECT %(id)s, gen_random_uuid(), 0, 0, n, now(), false, '{}' FROM generate_series(1, 3000) AS n",
            id=old,
        )
    with stage.worker().database.transaction() as reader:
        reader.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.one("SELECT count(*) FROM events")
        for _ in range(25):
            with stage.runtime.database.transaction() as tx:
                collections.empty_collection(tx, old)
        with stage.runtime.database.transaction() as tx:
            tx.run(load_queries("collections")["walk_by_key"])
            (plan,) = tx.one(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + load_queries("collections")["empty_collection"],
                collection_id=old,
                most=100,
            )
        assert reader.one("SELECT count(*) AS count FROM events WHERE collection_id = %(id)s", id=old).count == 3001
    assert held(old, stage) == 3001 - 2600
    found = [
        node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "events" and "Scan" in node["Node Type"]
    ]
    scan, by_place = sorted(found, key=itemgetter("Node Type"))
    assert by_place["Node Type"] == "Tid Scan"
    assert "event_id >" in scan["Index Cond"], "what was deleted before is gone through again"
    assert scan["Actual Rows"] == 100


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


@pytest.mark.parametrize("state", ["pending", "planning", "running", "paused"])
def test_a_collection_with_an_active_import_is_not_deleted(stage: Stage, state: str) -> None:
    import_id = stage.start(ndjson(event("a")))
    with stage.runtime.database.transaction() as tx:
        for to in ("planning", "running", "paused")[: ["pending", "planning", "running", "paused"].index(state)]:
            tx.run("UPDATE imports SET state = %(to)s WHERE id = %(id)s", id=import_id, to=to)
    with pytest.raises(Refusal) as refused:
        delete(stage, "events")
    assert refused.value.code == "collection_in_use"
    assert refused.value.details == {"activeImports": [import_id], "activeExports": []}

    stage.desk.cancel_import(stage.caller, import_id)
    delete(stage, "events")


def test_a_collection_with_an_active_export_is_not_deleted(stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    (number,) = numbers(stage, "events")
    with stage.runtime.database.transaction() as tx:
        tx.run(
            "INSERT INTO exports (id, project_id, collection_id, spec) VALUES (%(id)s, %(project)s, %(number)s, '{}')",
            id=number_id(number),
            project=stage.caller.project_id,
            number=number,
        )
    with pytest.raises(Refusal) as refused:
        delete(stage, "events")
    assert refused.value.details == {"activeImports": [], "activeExports": [number_id(number)]}

    with stage.runtime.database.transaction() as tx:
        tx.run(
            "UPDATE exports SET state = 'cancelled', finished_at = now() WHERE collection_id = %(number)s",
            number=number,
        )
    delete(stage, "events")


def number_id(number: int) -> str:
    return f"{number:032x}"


Takes = Callable[[Tx, str, str], Any]


def by_ensure(tx: Tx, project_id: str, name: str) -> Any:
    return collections.ensure(tx, project_id, name, "{}")


def by_upsert(tx: Tx, project_id: str, name: str) -> Any:
    """As the code of before takes it, and ``ensure`` where it found none."""
    return tx.one(load_queries("collections")["ensure_collection"], project_id=project_id, name=name, mapping="{}")


@pytest.mark.parametrize("takes", [by_ensure, by_upsert, collections.find])
def test_a_deletion_waits_for_who_has_found_the_collection_and_sees_the_job(stage: Stage, takes: Takes) -> None:
    stage.run(ndjson(event("a")))
    project_id, import_id = stage.caller.project_id, uuid.uuid4().hex
    with ThreadPoolExecutor(1) as pool:
        with stage.worker().database.transaction() as tx:
            found = takes(tx, project_id, "events")
            deleting = pool.submit(delete, stage, "events")
            await_a_wait(stage)
            tx.run(
                "INSERT INTO imports (id, project_id, collection_id, source, mapping, max_rejects)"
                " VALUES (%(id)s, %(project)s, %(collection)s, '{}', '{}', 0)",
                id=import_id,
                project=project_id,
                collection=found.id,
            )
        with pytest.raises(Refusal) as refused:
            deleting.result(10)
    assert refused.value.details["activeImports"] == [import_id]


@pytest.mark.parametrize("ends", ["commits", "fails"])
@pytest.mark.parametrize("takes", [by_ensure, by_upsert, collections.find])
def test_who_waits_for_a_deletion_never_gets_the_deleted_number(stage: Stage, takes: Takes, ends: str) -> None:
    stage.run(ndjson(event("a")))
    project_id = stage.caller.project_id
    (old,) = numbers(stage, "events")
    other = stage.worker()

    def take() -> Any:
        with other.database.transaction() as tx:
            return takes(tx, project_id, "events")

    class Broken(Exception):
        pass

    with ThreadPoolExecutor(1) as pool, suppress(Broken):
        with stage.worker().database.transaction() as tx:
            collections.delete_collection(tx, project_id, "events")
            taking = pool.submit(take)
            await_a_wait(stage)
            if ends == "fails":
                raise Broken
        found = taking.result(10)
    found = taking.result(10)
    if ends == "fails":
        assert found.id == old
    elif takes is collections.find:
        assert found is None
    else:
        assert found.id > old
        assert numbers(stage, "events") == [old, found.id]


def test_imports_and_deletions_at_once_leave_nothing_under_a_deleted_number(stage: Stage) -> None:
    """Whatever the order: an import either refuses the deletion or belongs to a collection that lives."""
    stop = time.monotonic() + 1.0
    checked = load_queries("collections")["find_collection"]

    def imports_on() -> int:
        worker, admitted = stage.worker(import_limit=10**6), 0
        desk, ref = Desk(worker), stage.put(ndjson(event("same")))
        asked = ImportSpec("events", ref, Mapping(), Credentials("k", "s"))
        while time.monotonic() < stop:
            started = desk.start_import(stage.caller, asked).status
            with worker.database.transaction() as tx:
                assert tx.one(
                    f"SELECT 1 FROM imports AS i, ({checked}) AS c WHERE i.id = %(id)s AND i.collection_id = c.id",
                    id=started.id,
                    project_id=stage.caller.project_id,
                    name="events",
                ), "an active import belongs to a deleted collection"
            desk.cancel_import(stage.caller, started.id)
            admitted += 1
        return admitted

    def deletes_on() -> int:
        worker, deleted = stage.worker(), 0
        while time.monotonic() < stop:
            with suppress(Refusal):
                CollectionDesk(worker).delete_collection(stage.caller, "events")
                deleted += 1
        return deleted

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(imports_on), pool.submit(imports_on)]
        deleting = [pool.submit(deletes_on), pool.submit(deletes_on)]
        assert all(future.result(20) for future in running)
        assert all(future.result(20) for future in deleting), "the race never happened"


def test_ten_thousand_imports_are_added_up_from_the_index_alone(stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    (number,) = numbers(stage, "events")
    with stage.runtime.database.transaction() as tx:
        tx.run(
            "INSERT INTO imports (id, project_id, collection_id, source, mapping, max_rejects, state, finished_at,"
            " lines, imported, replaced, duplicates, rejected, blank, stored_bytes, first_time, last_time)"
            " SELECT gen_random_uuid(), %(project)s, %(collection)s, '{}', '{}', 0, 'completed', now(), 3, 3, 0, 0, 0,"
            " 0, 300, now(), now() FROM generate_series(1, 10000)",
            project=stage.caller.project_id,
            collection=number,
        )
    with stage.runtime.database.unbound() as tx:
        tx.run("VACUUM ANALYZE imports")
    with stage.runtime.database.transaction() as tx:
        (plan,) = tx.one(
            "EXPLAIN (ANALYZE, FORMAT JSON) " + load_queries("collections")["list_collections"],
            project_id=stage.caller.project_id,
            after=None,
            names=None,
            limit=50,
        )
    scans = [node for node in nodes(plan[0]["Plan"]) if node.get("Index Name") == "imports_ended"]
    assert [node["Node Type"] for node in scans] == ["Index Only Scan"]
    assert listed(stage, "events").events == 30_001


def test_an_event_is_found_by_the_id_that_its_line_has_and_is_gone_once_it_is_deleted(stage: Stage) -> None:
    ids = ["plain", "c20b1271-fb3f-4bfa-8f12-ef3cda4b2aa0", "é" * 50, "a/b c"]
    stage.run(ndjson(*(json.dumps({"$unique_id": key, "n": 25.00}).encode() for key in [*ids, "other"])))
    desk = CollectionDesk(stage.runtime)
    for left, key in zip(range(4, 0, -1), ids, strict=True):
        found = desk.find_event(stage.caller, "events", key)
        assert found
        assert json.loads(found.payload)["$unique_id"] == key
        assert desk.delete_event(stage.caller, "events", key) == found
        assert desk.find_event(stage.caller, "events", key) is None
        assert desk.delete_event(stage.caller, "events", key) is None
        status = desk.read_collection(stage.caller, "events")
        rows = stage.rows("events")
        assert (status.events, status.size) == (left, sum(len(row.payload) + 1 for row in rows))

    again = stage.run(ndjson(json.dumps({"$unique_id": "plain"}).encode()))
    assert again.progress.counts.imported == 1


@pytest.mark.parametrize("key", ["", "missing", "\ud800", "x" * 600, "\0"])
def test_an_id_that_nothing_has_finds_nothing(stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a")))
    other = Stage(stage.settings, stage.bucket)
    desk = CollectionDesk(stage.runtime)

    assert desk.find_event(stage.caller, "events", key) is None
    assert desk.delete_event(stage.caller, "events", key) is None
    assert desk.find_event(other.caller, "events", "a") is None
    assert desk.find_event(stage.caller, "nothing", "a") is None
    other.close()


def test_a_line_that_is_given_an_id_is_found_by_it_and_loaded_twice_it_is_there_once(stage: Stage) -> None:
    mapping = Mapping(("Id",), (), OnDuplicate.REPLACE, rules=Rules(names_id="Id"))
    import_id = stage.start(b'{"n": 1}\n{"n": 2}\n{"n": 3, "Id": "mine"}\n', mapping=mapping)
    plan_import(stage.runtime, import_id)
    (chunk_id,) = stage.chunk_ids(import_id)
    for _ in range(2):
        load_chunk(stage.runtime, chunk_id)

    rows = stage.rows("events")
    assert sorted(json.loads(row.payload)["n"] for row in rows) == [1, 2, 3]
    for row in rows:
        found = CollectionDesk(stage.runtime).find_event(stage.caller, "events", json.loads(row.payload)["Id"])
        assert found
        assert found.payload == bytes(row.payload)
