"""Admission, states, planning and ends of imports."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import attrgetter
from typing import Any

import psycopg2
import pytest

from api.replies import NumberedPage
from common.errors import Refusal, Terminal, Transient
from common.ledger import collections, imports
from common.model.formats import Compression, Format
from common.model.imports import ACTIVE, MOVES, ImportOrder, ImportState, ImportStatus, Listing
from common.model.mapping import ColumnType, Mapping, OnDuplicate
from common.model.rules import Rules
from common.model.sources import Source, SourceRef
from common.objects import Objects
from tests.journeys.stack import wait_until
from tests.stage import Stage, event, ndjson
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import
from workers.imports.settle import fail_import


def test_a_project_never_has_more_active_imports_than_its_limit(stage: Stage) -> None:
    ref = stage.put(b"")
    stage.runtime = stage.worker(import_limit=5)

    def start(_: int) -> str | None:
        try:
            return stage.start(ref)
        except Refusal:
            return None

    with ThreadPoolExecutor(12) as pool:
        started = [import_id for import_id in pool.map(start, range(36)) if import_id]

    assert len(started) == 5
    with pytest.raises(Refusal) as refused:
        stage.start(ref)
    assert sorted(refused.value.details["activeImports"]) == sorted(started)
    assert refused.value.details["limit"] == 5

    stage.desk.cancel_import(stage.caller, started[0])
    assert stage.start(ref)


def test_a_projects_own_limit_counts_before_the_settings(stage: Stage) -> None:
    stage.query("UPDATE projects SET import_limit = 1 WHERE id = %(id)s RETURNING id", id=stage.caller.project_id)
    stage.start(b"")

    with pytest.raises(Refusal, match="1 of 1"):
        stage.start(b"")


def test_the_database_allows_just_the_moves_of_the_model(stage: Stage) -> None:
    for old in ImportState:
        for new in ImportState:
            if new is not old:
                assert _moves(stage, old, new) == (new in MOVES[old]), f"{old} > {new}"


def _moves(stage: Stage, old: ImportState, new: ImportState) -> bool:
    """Return whether the database takes a row from one state to the other; rolls everything back."""

    class Undo(Exception):
        pass

    sets = "UPDATE imports SET state = %(s)s, finished_at = CASE WHEN %(e)s THEN now() END, error_code = %(c)s"
    values = {
        state: {"s": state, "e": state not in ACTIVE, "c": "x" if state == "failed" else None} for state in (old, new)
    }
    import_id = stage.start(b"")
    try:
        with stage.runtime.database.transaction() as tx:
            tx.run("ALTER TABLE imports DISABLE TRIGGER import_moves")
            tx.run(sets + " WHERE id = %(id)s", id=import_id, **values[old])
            tx.run("ALTER TABLE imports ENABLE TRIGGER import_moves")
            tx.run(sets + " WHERE id = %(id)s", id=import_id, **values[new])
            raise Undo
    except Undo:
        return True
    except psycopg2.errors.RaiseException:
        return False
    finally:
        stage.desk.cancel_import(stage.caller, import_id)


def test_the_table_knows_just_the_states_of_the_model(stage: Stage) -> None:
    (row,) = stage.query(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conname = 'imports_state_check'"
    )

    assert {state for state in ImportState if f"'{state}'" in row.text} == set(ImportState)
    assert row.text.count("'") == 2 * len(ImportState)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'[{"a":1},{"a":2}]', "JSON array"),
        (b'[\n{"a":1},\n{"a":2}\n]\n', "JSON array"),
        (b'\xef\xbb\xbf \n[{"a":1},\n{"a":2}]', "JSON array"),
        (gzip.compress(b'{"a":1}\n', mtime=0), "gzip"),
        (b"PK\x03\x04anything", "zip"),
        (bytes(range(256)) * 8, "binary"),
        ('{"a":1}\n'.encode("utf-16-le"), "binary"),
        ('{"a":1}\n'.encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_of_the_wrong_shape_fails_and_nothing_is_imported(stage: Stage, body: bytes, reason: str) -> None:
    status = stage.run(body, format=Format.NDJSON, compression=Compression.NONE)

    assert status.state is ImportState.FAILED
    assert status.error is not None
    assert status.error.code == "wrong_shape"
    assert reason in status.error.message
    assert status.chunks_total == 0
    assert stage.rows() == []


@pytest.mark.parametrize("body", [b"a,b\n1,2\n", b"hello world\n" * 5000])
def test_a_file_without_one_object_that_was_to_be_lines_of_them_is_one_failure(stage: Stage, body: bytes) -> None:
    status = stage.run(body, format=Format.NDJSON)

    assert status.state is ImportState.FAILED
    assert status.error is not None
    assert status.error.code == "wrong_shape"
    assert "no line that is a JSON object" in status.error.message
    assert status.progress.counts.rejected == 0


@pytest.mark.parametrize(
    "body", [b"a,b\n1,2\n", b"junk\n" * 20_000, b"[\n{}\n]", bytes(range(256)) * 8, "{}\n".encode("utf-16")]
)
def test_where_a_door_wants_it_a_file_is_lines_whatever_it_looks_like(stage: Stage, body: bytes) -> None:
    mapping = Mapping(rules=Rules(any_shape=True))

    status = stage.run(body + b"\n{}", format=Format.NDJSON, compression=Compression.NONE, mapping=mapping)

    counts = status.progress.counts
    assert status.state is ImportState.COMPLETED_WITH_ERRORS
    assert counts.lines == body.count(b"\n") + 2
    assert counts.rejected + counts.imported + counts.blank == counts.lines
    assert [bytes(row.payload) for row in stage.rows()][-1:] == [b"{}"]


def test_a_single_line_that_is_no_object_is_a_reject(stage: Stage) -> None:
    status = stage.run(b"hello world\n", format=Format.NDJSON)

    assert status.state is ImportState.COMPLETED_WITH_ERRORS
    assert status.progress.counts.rejected == 1


@pytest.mark.parametrize(
    "first", [b"[1, 2]", b"\xff\xfe is not UTF-16 here"[2:], b'{"a":"\xff"}', b"\0", b"nope", b"{"]
)
def test_a_bad_first_line_is_a_reject_and_no_wrong_shape(stage: Stage, first: bytes) -> None:
    status = stage.run(ndjson(first, event("a")))

    assert status.state is ImportState.COMPLETED_WITH_ERRORS
    assert (status.progress.counts.rejected, status.progress.counts.imported) == (1, 1)


def test_an_empty_object_completes_with_zeros(stage: Stage) -> None:
    status = stage.run(b"")

    assert status.state is ImportState.COMPLETED
    assert status.progress.counts.lines == 0
    assert status.percent == 100
    assert status.bytes_total == 0


def test_an_object_that_is_not_there_fails_the_import(stage: Stage) -> None:
    status = stage.run(SourceRef(stage.bucket, "no/such/key"))

    assert status.error is not None
    assert status.error.code == "source_not_found"


def test_an_object_that_changed_after_planning_fails_the_import(stage: Stage) -> None:
    ref = stage.put(ndjson(*(event(f"id-{n}", "old") for n in range(6))))
    import_id = stage.start(ref)
    plan_import(stage.runtime, import_id)
    chunk_ids = stage.chunk_ids(import_id)
    load_chunk(stage.runtime, chunk_ids[0])
    stage.s3.put_object(Bucket=ref.bucket, Key=ref.key, Body=ndjson(*(event(f"id-{n}", "new") for n in range(6))))
    for chunk_id in chunk_ids:
        load_chunk(stage.runtime, chunk_id)

    status = stage.status(import_id)
    assert status.error is not None
    assert status.error.code == "source_changed"
    assert len(stage.rows()) == status.progress.counts.imported > 0
    assert all(b"old" in row.payload for row in stage.rows())


def test_a_plan_that_failed_in_passing_is_due_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    import_id = stage.start(ndjson(event("a")))

    def away(_: Objects, __: SourceRef) -> Source:
        raise Transient("S3 cannot be reached at the moment.")

    with monkeypatch.context() as broken:
        broken.setattr(Objects, "pin", away)
        plan_import(stage.runtime, import_id)
    assert stage.status(import_id).state is ImportState.PLANNING

    (row,) = stage.query("SELECT holder_pid FROM imports WHERE id = %(id)s", id=import_id)
    assert row.holder_pid is None, "the next planner would end the backend of who gave it back"

    stage.query("UPDATE imports SET not_before = now() WHERE id = %(id)s RETURNING id", id=import_id)
    plan_import(stage.runtime, import_id)
    assert stage.status(import_id).state is ImportState.RUNNING


def test_two_planners_make_one_plan(stage: Stage) -> None:
    import_id = stage.start(ndjson(*(event(f"id-{n}") for n in range(6))))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: plan_import(stage.worker(), import_id), range(4)))

    status = stage.status(import_id)
    assert status.state is ImportState.RUNNING
    assert status.chunks_total == len(stage.chunk_ids(import_id))


def test_a_planner_that_lost_its_lease_writes_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    import_id = stage.start(ndjson(event("a")))
    pin = Objects.pin

    def be_overtaken(objects: Objects, ref: SourceRef) -> Source:
        monkeypatch.undo()
        stage.query(
            "UPDATE imports SET lease_expires_at = now() - interval '1 s' WHERE id = %(id)s RETURNING id", id=import_id
        )
        with stage.runtime.database.aside() as tx:
            assert imports.claim_plan(tx, import_id, lease_seconds=30)
        return pin(objects, ref)

    monkeypatch.setattr(Objects, "pin", be_overtaken)
    plan_import(stage.worker(), import_id)

    assert stage.chunk_ids(import_id) == []
    assert stage.status(import_id).state is ImportState.PLANNING


def test_ids_of_another_project_are_unknown(stage: Stage, settings: object) -> None:
    other = Stage(stage.settings, stage.bucket)
    import_id = other.start(b"")
    for ask in (stage.desk.read_import, stage.desk.cancel_import, stage.desk.list_errors, stage.desk.number_of):
        with pytest.raises(Refusal) as refused:
            ask(stage.caller, import_id)
        assert refused.value.code == "not_found"

    assert other.status(import_id).state is ImportState.PENDING
    assert stage.desk.list_imports(stage.caller).items == []
    other.close()


@pytest.mark.parametrize("rules", [("keep", "replace"), ("replace", "keep"), ("keep", "keep")])
def test_of_first_imports_side_by_side_one_makes_the_rule(stage: Stage, rules: tuple[str, str]) -> None:
    ref, stage.runtime = stage.put(b""), stage.worker(import_limit=100)

    def start(rule: str) -> str | None:
        try:
            return stage.start(ref, collection="shared", mapping=Mapping(on_duplicate=OnDuplicate(rule)))
        except Refusal as refused:
            assert refused.code == "mapping_conflict"  # noqa: PT017
            return None

    with ThreadPoolExecutor(4) as pool:
        started = [import_id for import_id in pool.map(start, rules * 4) if import_id]

    assert len(started) == 8 // len(set(rules))
    assert len({stage.status(import_id).mapping.on_duplicate for import_id in started}) == 1


def test_an_import_that_is_refused_makes_no_rule(stage: Stage) -> None:
    stage.query("UPDATE projects SET import_limit = 1 WHERE id = %(id)s RETURNING id", id=stage.caller.project_id)
    holder = stage.start(b"", collection="other")
    with pytest.raises(Refusal, match="1 of 1"):
        stage.start(b"", collection="fresh")
    stage.desk.cancel_import(stage.caller, holder)

    assert stage.start(b"", collection="fresh", mapping=Mapping(on_duplicate=OnDuplicate.REPLACE))


def test_a_collection_of_before_takes_the_next_imports_mapping(stage: Stage) -> None:
    old = stage.run(ndjson(event("a")), collection="old")
    values = {"id": old.id, "project": stage.caller.project_id}
    stage.query("UPDATE collections SET mapping = NULL WHERE project_id = %(project)s RETURNING id", **values)
    stage.query(
        """UPDATE imports SET mapping = '{"id": ["a"], "time": ["b"], "onDuplicate": "keep"}' WHERE id = %(id)s
        RETURNING id""",
        **values,
    )

    assert stage.status(old.id).mapping == Mapping(("a",), ("b",))
    mapping = Mapping(("k",), ("t",), OnDuplicate.REPLACE, (("b", ColumnType.NUMBER), ("a", ColumnType.BOOLEAN)), False)
    assert stage.status(stage.start(b"", collection="old", mapping=mapping)).mapping == mapping
    following = stage.start(b"", collection="old", named=frozenset())
    assert stage.status(following).mapping == mapping


def test_what_is_stored_of_the_credentials_cannot_be_read_without_the_key(stage: Stage) -> None:
    import_id = stage.start(ndjson(event("a")))
    (row,) = stage.query("SELECT sealed FROM import_secrets WHERE import_id = %(id)s", id=import_id)
    sealed = bytes(row.sealed)

    assert b"caller" not in sealed
    assert stage.runtime.sealer.open(import_id, sealed).secret_access_key == "caller-secret"
    with pytest.raises(Terminal, match="no sealing key"):
        stage.runtime.sealer.open("0" * 32, sealed)
    everything = stage.query("SELECT to_json(i) AS row FROM imports AS i WHERE id = %(id)s", id=import_id)
    assert "caller-secret" not in json.dumps(everything[0].row)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_an_import_that_ends_early_keeps_no_credentials(stage: Stage, end: str) -> None:
    import_id = stage.start(ndjson(event("a")))
    if end == "cancel":
        stage.desk.cancel_import(stage.caller, import_id)
    else:
        fail_import(stage.runtime, import_id, Terminal("x", "x"))

    assert stage.query("SELECT 1 FROM import_secrets WHERE import_id = %(id)s", id=import_id) == []
    assert stage.status(import_id).state.ended


def test_cancelling_twice_is_once_and_after_the_end_is_refused(stage: Stage) -> None:
    import_id = stage.start(ndjson(event("a")))
    first = stage.desk.cancel_import(stage.caller, import_id)
    second = stage.desk.cancel_import(stage.caller, import_id)
    done = stage.run(ndjson(event("b")))

    assert first.finished_at == second.finished_at
    with pytest.raises(Refusal, match="ended already"):
        stage.desk.cancel_import(stage.caller, done.id)


def test_the_list_goes_backwards_in_pages(stage: Stage) -> None:
    started = [stage.start(b"", collection=f"c{n % 2}") for n in range(5)]
    seen, before = [], None
    while True:
        page = stage.desk.list_imports(stage.caller, before=before, limit=2)
        seen += [item.id for item in page.items]
        before = page.next_before
        if before is None:
            break

    assert seen == started[::-1]
    assert len(stage.desk.list_imports(stage.caller, collection="c1").items) == 2
    assert stage.desk.list_imports(stage.caller, states=[ImportState.FAILED]).items == []


@pytest.mark.parametrize(
    ("states", "listed"),
    [
        (None, [2, 1, 0]),
        ([], []),
        ({ImportState.COMPLETED}, [1]),
        ((ImportState.PENDING, ImportState.COMPLETED), [2, 1]),
        (ImportState, [2, 1, 0]),
    ],
)
def test_the_list_has_the_imports_of_the_states_that_are_named(
    stage: Stage, states: Collection[ImportState] | None, listed: list[int]
) -> None:
    cancelled = stage.desk.cancel_import(stage.caller, stage.start(b""))
    started = [cancelled.id, stage.run(ndjson(event("a"))).id, stage.start(b"")]

    page = stage.desk.list_imports(stage.caller, states=states)
    assert [item.id for item in page.items] == [started[at] for at in listed]


def imports_of_every_kind(stage: Stage) -> list[ImportStatus]:
    """Return imports as their own ids tell of them: ended in every way, and under way."""
    ended = [stage.run(ndjson(event("a"), b"{bad"), collection=name).id for name in ("b", "a")]
    missing = stage.start(SourceRef(stage.bucket, "nowhere"), collection="c")
    plan_import(stage.runtime, missing)
    running = stage.import_of(stage.planned(ndjson(event("b")), collection="a")[0])
    waiting = [stage.start(b"", collection="b") for _ in range(3)]
    stage.desk.cancel_import(stage.caller, waiting[0])
    with stage.runtime.database.transaction() as tx:
        collections.delete_collection(tx, stage.caller.project_id, "c")
    return list(map(stage.status, [*ended, missing, running, *waiting]))


ORDERS: dict[ImportOrder, Callable[[ImportStatus], Any]] = {
    ImportOrder.ID: attrgetter("id"),
    ImportOrder.COLLECTION: attrgetter("collection"),
    ImportOrder.CREATED: attrgetter("created_at"),
    ImportOrder.CHANGED: lambda status: status.history[-1][1],
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("by", ImportOrder)
def test_numbered_pages_are_the_sorted_list_cut_into_pieces(stage: Stage, by: ImportOrder, descending: bool) -> None:
    known = imports_of_every_kind(stage)
    times = sorted(status.created_at for status in known)
    for collection, since, until in [
        (None, None, None),
        ("b", None, None),
        ("c", None, None),
        ("none\0", None, None),
        (None, times[1], times[3]),
        ("a", times[2], None),
    ]:
        wanted = [
            status
            for status in sorted(known, key=lambda status: (ORDERS[by](status), status.number), reverse=descending)
            if collection in (None, status.collection)
            and (since or status.created_at) <= status.created_at <= (until or status.created_at)
        ]
        listing = Listing(collection, since, until, by, descending)
        for size in (1, 3, 1000):
            pages = [
                stage.desk.page_imports(stage.caller, listing, page=page, size=size) for page in (*range(8), 2**70)
            ]
            assert [[item.id for item in page.items] for page in pages] == [
                [status.id for status in wanted[number * size : (number + 1) * size]] for number in (*range(8), 2**70)
            ]
            assert {page.total for page in pages} == {len(wanted)}


def test_a_list_tells_of_each_import_what_its_own_id_tells(stage: Stage) -> None:
    known = imports_of_every_kind(stage)
    newest = stage.desk.list_imports(stage.caller).items
    for listed in (newest[::-1], stage.desk.page_imports(stage.caller, Listing(), page=0, size=50).items):
        assert [replace(status, read_at=known[0].read_at) for status in listed] == [
            replace(status, read_at=known[0].read_at) for status in known
        ]


def test_a_name_that_no_collection_can_have_has_no_imports(stage: Stage) -> None:
    assert stage.desk.list_imports(stage.caller, collection="none\0").items == []


def test_pages_have_no_other_projects_imports(stage: Stage) -> None:
    imports_of_every_kind(stage)
    stranger = Stage(stage.settings, stage.bucket).caller
    assert stage.desk.page_imports(stranger, Listing(), page=0, size=50) == NumberedPage([], 0)
    with pytest.raises(Refusal, match="scope"):
        stage.desk.page_imports(replace(stage.caller, scopes=frozenset()), Listing(), page=0, size=50)


def test_the_list_goes_on_before_an_import_that_is_named_by_its_id(stage: Stage) -> None:
    first, second = stage.start(b""), stage.start(b"")

    page = stage.desk.list_imports(stage.caller, before=stage.desk.number_of(stage.caller, second))
    assert [item.id for item in page.items] == [first]
    for unknown in ("f" * 32, "no id"):
        with pytest.raises(Refusal) as refused:
            stage.desk.number_of(stage.caller, unknown)
        assert refused.value.code == "not_found"


def test_a_mistake_of_ours_in_planning_gives_the_plan_back_and_ends_after_so_many(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_id = stage.start(ndjson(event("a")))

    def fail(_: Objects, __: SourceRef) -> Source:
        raise KeyError("ETag")

    monkeypatch.setattr(Objects, "pin", fail)
    stage.runtime = stage.worker(chunk_attempts=2)
    for _ in range(2):
        with pytest.raises(KeyError):
            plan_import(stage.runtime, import_id)
        stage.query("UPDATE imports SET not_before = now() WHERE id = %(id)s RETURNING id", id=import_id)
    plan_import(stage.runtime, import_id)

    status = stage.status(import_id)
    assert status.error is not None
    assert status.error.code == "plan_failed"


def test_who_reads_a_status_waits_for_a_migration_of_chunks_before_it_holds_up_one_of_imports(stage: Stage) -> None:
    """Or else each waits for the other, and the caller gets a 503 for it."""
    import_id = stage.start(b"{}")
    waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'chunks'::regclass AND mode = 'AccessShareLock'"
    with ThreadPoolExecutor(1) as pool:
        with stage.runtime.database.aside() as migration:
            migration.run("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE")
            read = pool.submit(stage.status, import_id)
            wait_until(lambda: stage.query(waits), what="the reader waits")
            migration.run("LOCK TABLE imports IN ACCESS EXCLUSIVE MODE NOWAIT")
        assert read.result().id == import_id
