"""An import of several objects: each is a piece that completes or fails by itself, and their order is that of keys."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from common.model.chunks import Counts
from common.model.imports import IfSeen, ImportState, ImportStatus
from common.model.sources import SourceKind, SourceRef
from tests.stage import Stage, event, ndjson
from workers.imports import load, plan
from workers.imports.plan import plan_import


@pytest.fixture
def folder(stage: Stage) -> SourceRef:
    """A prefix that is nobody else's."""
    return SourceRef(stage.bucket, f"{uuid.uuid4().hex}/", kind=SourceKind.PREFIX)


def put(stage: Stage, folder: SourceRef, **bodies: bytes) -> None:
    for name, body in bodies.items():
        stage.s3.put_object(Bucket=folder.bucket, Key=f"{folder.key}{name}", Body=body)


def failure(status: ImportStatus) -> str | None:
    return status.error.code if status.error else None


def test_all_objects_beneath_a_prefix_are_imported(stage: Stage, folder: SourceRef) -> None:
    put(stage, folder, b=ndjson(event("2")), a=ndjson(event("1")), c=b'[{"$unique_id": "3"}]')

    status = stage.run(folder, format=None, compression=None)

    assert (status.state, status.progress.counts) == (ImportState.COMPLETED, Counts(lines=3, imported=3))
    assert (status.pieces.total, status.pieces.completed, status.pieces.failed) == (3, 3, 0)
    assert [piece.key.removeprefix(folder.key) for piece in status.pieces.objects] == ["a", "b", "c"]
    assert status.percent == 100.0


@pytest.mark.parametrize("backwards", [False, True])
def test_the_first_object_by_key_wins_whoever_is_loaded_first(
    stage: Stage, folder: SourceRef, *, backwards: bool
) -> None:
    put(stage, folder, a=ndjson(event("1", "first")), b=ndjson(event("1", "second")))
    import_id = stage.start(folder, format=None, compression=None)
    plan_import(stage.runtime, import_id)
    while ids := stage.chunk_ids(import_id, open_only=True):
        load.load_chunk(stage.runtime, ids[-1 if backwards else 0])

    (row,) = stage.rows()
    assert b"first" in row.payload
    assert stage.status(import_id).progress.counts == Counts(lines=2, imported=1, duplicates=1)


def test_more_objects_than_there_are_numbers_for_are_too_many_whatever_is_set(
    stage: Stage, folder: SourceRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(stage, folder, a=ndjson(event("1")), b=ndjson(event("2")), c=ndjson(event("3")))
    stage.runtime.settings = replace(stage.settings, max_objects=1_000_000)
    monkeypatch.setattr(plan, "MOST_SOURCES", 2)

    status = stage.run(folder, format=None, compression=None)

    assert (status.state, failure(status)) == (ImportState.FAILED, "too_many_objects")


def test_an_object_of_the_wrong_shape_keeps_no_other_out(stage: Stage, folder: SourceRef) -> None:
    put(stage, folder, a=ndjson(event("1")), b=b"PK\x03\x04 a zip", c=ndjson(event("2"), b"{bad"))

    status = stage.run(folder, format=None, compression=None)

    assert (status.state, failure(status)) == (ImportState.FAILED, "wrong_shape")
    assert status.progress.counts == Counts(lines=3, imported=2, rejected=1)
    assert (status.pieces.total, status.pieces.completed, status.pieces.failed) == (3, 2, 1)
    (failed,) = [piece for piece in status.pieces.objects if piece.error]
    assert failed.key.endswith("/b")
    assert status.error
    assert status.error.message.startswith(f"{failed.key}: ")


def test_the_one_object_of_an_import_is_a_piece_that_fails_too(stage: Stage) -> None:
    status = stage.run(b"PK\x03\x04 a zip", format=None, compression=None)

    assert (status.state, failure(status)) == (ImportState.FAILED, "wrong_shape")
    assert (status.pieces.total, status.pieces.completed, status.pieces.failed) == (1, 0, 1)


def test_an_object_that_changes_under_the_import_keeps_no_other_out(stage: Stage, folder: SourceRef) -> None:
    put(stage, folder, a=ndjson(*(event(f"a{n}") for n in range(9))), b=ndjson(event("b")))
    import_id = stage.start(folder, format=None, compression=None)
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id):
        load.load_chunk(stage.runtime, chunk_id)
    load.load_chunk(stage.runtime, stage.chunk_ids(import_id, open_only=True)[0])
    put(stage, folder, a=b'{"n": 2}\n')
    stage.load_all(import_id)

    status = stage.status(import_id)
    assert (status.state, failure(status)) == (ImportState.FAILED, "source_changed")
    assert (status.pieces.completed, status.pieces.failed) == (1, 1)
    assert status.progress.counts.imported == len(stage.rows()) > 1


def test_an_error_behind_lines_that_nobody_could_count_is_not_listed_at_a_wrong_place(
    stage: Stage, folder: SourceRef
) -> None:
    put(stage, folder, a=ndjson(*(event(f"a{n}") for n in range(9)), b"{bad"), b=ndjson(event("b"), b"{bad"))
    import_id = stage.start(folder, format=None, compression=None)
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id):
        load.load_chunk(stage.runtime, chunk_id)
    last_of_a = stage.query(
        "SELECT max(id) AS id FROM chunks WHERE import_id = %(id)s AND source_ordinal = 0", id=import_id
    )[0].id
    load.load_chunk(stage.runtime, last_of_a)
    put(stage, folder, a=b'{"n": 2}\n')
    stage.load_all(import_id)

    status = stage.status(import_id)
    errors = stage.desk.list_errors(stage.caller, import_id).items
    assert (failure(status), status.progress.counts.rejected) == ("source_changed", 2)
    assert [(one.key.removeprefix(folder.key), one.index) for one in errors] == [("b", 1)]


def test_errors_are_listed_object_by_object_with_their_place_in_each(stage: Stage, folder: SourceRef) -> None:
    put(stage, folder, a=ndjson(event("1"), b"{bad"), b=ndjson(event("2"), event("3"), b"{bad", b"[]"))

    status = stage.run(folder, format=None, compression=None)

    page = stage.desk.list_errors(stage.caller, status.id, limit=2)
    rest = stage.desk.list_errors(stage.caller, status.id, after=page.next_after or (-1, -1))
    found = [(one.key.removeprefix(folder.key), one.index) for one in (*page.items, *rest.items)]
    assert found == [("a", 1), ("b", 2), ("b", 3)]


def test_the_same_object_again_is_said_and_may_be_refused(stage: Stage) -> None:
    ref = stage.put(ndjson(event("1")))
    first = stage.run(ref)
    again = stage.run(ref)
    refused = stage.run(ref, if_seen=IfSeen.REFUSE)
    elsewhere = stage.run(ref, if_seen=IfSeen.REFUSE, collection="others")

    assert (first.previous_id, again.previous_id) == (None, first.id)
    assert (refused.state, failure(refused), refused.previous_id) == (ImportState.FAILED, "already_imported", again.id)
    assert again.id in (refused.error.message if refused.error else "")
    assert (elsewhere.state, elsewhere.previous_id) == (ImportState.COMPLETED, None)

    stage.s3.put_object(Bucket=ref.bucket, Key=ref.key, Body=ndjson(event("2")))
    assert stage.run(ref, if_seen=IfSeen.REFUSE).state is ImportState.COMPLETED, "another version is another object"
