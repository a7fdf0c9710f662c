"""Segments: what an import brought, counted once, and exported alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import Refusal
from common.ledger import segments
from common.ledger.database import TooSlow, Tx
from common.model.imports import ImportSpec, ImportState, ImportStatus
from common.model.mapping import Mapping, OnDuplicate
from common.model.segments import Segment, SegmentSpec
from common.model.sources import SourceRef
from tests.stage import Stage, ndjson
from workers.imports import settle
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import
from workers.sweep import sweep

REPLACING = Mapping(on_duplicate=OnDuplicate.REPLACE)


def line(key: str, channel: Any) -> bytes:
    return json.dumps({"$unique_id": key, "channel": channel}).encode()


def brought(stage: Stage, *lines: bytes, name: str | None = None, segment_id: str | None = None) -> ImportStatus:
    return stage.run(ndjson(*lines), mapping=REPLACING, segment=SegmentSpec(segment_id, name, counted_by="channel"))


def find(stage: Stage, segment_id: str | None, version: int | None = None) -> Segment | None:
    assert segment_id
    with stage.runtime.database.transaction() as tx:
        project = stage.caller.project_id
        return segments.find_segment(tx, project, segment_id, version=version)


def test_a_segment_has_what_its_import_brought_counted_by_a_member(stage: Stage) -> None:
    lines = [line("a", "SMS"), line("b", "SMS"), line("c", "EMAIL"), line("d", None), b'{"channel": "\\u0000"}', b"no"]

    status = brought(stage, *lines, name="those of today")
    segment = find(stage, status.segment_id)

    assert segment
    assert (segment.name, segment.version, segment.import_id) == ("those of today", 1, status.id)
    assert (segment.members, segment.by_member) == (5, {"SMS": 2, "EMAIL": 1})


def test_an_import_without_a_segment_has_none(stage: Stage) -> None:
    assert stage.run(ndjson(line("a", "SMS"))).segment_id is None


def test_a_segment_is_not_counted_before_its_import_has_ended(stage: Stage) -> None:
    import_id = stage.start(ndjson(line("a", "SMS")), segment=SegmentSpec(counted_by="channel"))

    segment = find(stage, stage.status(import_id).segment_id)

    assert segment
    assert segment.members is None


def test_a_later_import_that_takes_the_events_changes_no_count_whoever_looked_before(stage: Stage) -> None:
    first = brought(stage, line("a", "SMS"), line("b", "SMS"))
    second = brought(stage, line("a", "EMAIL"))

    told, later = find(stage, first.segment_id), find(stage, second.segment_id)

    assert told
    assert later
    assert (told.members, told.by_member) == (2, {"SMS": 2})
    assert (later.members, later.by_member) == (1, {"EMAIL": 1})


def test_each_version_is_counted_by_the_member_that_its_own_import_says(stage: Stage) -> None:
    first = brought(stage, line("a", "SMS"))
    spec = SegmentSpec(first.segment_id, counted_by="$unique_id")
    stage.run(ndjson(line("b", "SMS"), line("c", "SMS")), mapping=REPLACING, segment=spec)

    versions = [find(stage, first.segment_id, version=number) for number in (1, 2)]

    assert [one and one.by_member for one in versions] == [{"SMS": 1}, {"b": 1, "c": 1}]


def test_no_more_than_a_hundred_texts_are_counted_and_none_of_them_is_long(stage: Stage) -> None:
    lines = [line(str(n), "x" * 100 + str(n)) for n in range(3)] + [line(f"y{n}", str(n)) for n in range(150)]

    segment = find(stage, brought(stage, *lines).segment_id)

    assert segment
    assert segment.members == 153
    assert len(segment.by_member) == 100
    assert segment.by_member["x" * 64] == 3
    assert set(map(len, segment.by_member)) <= {1, 2, 3, 64}


def test_who_asks_again_asks_for_the_same_whatever_segments_are_counted_by() -> None:
    one, other = (
        ImportSpec("events", SourceRef("b", "k"), Mapping(), segment=SegmentSpec(name="n", counted_by=member))
        for member in ("channel", "kind")
    )
    assert one.as_asked() == other.as_asked()


def test_the_sweep_counts_what_an_import_left_that_was_cancelled(stage: Stage) -> None:
    small = stage.worker(chunk_bytes=10)
    stage.runtime = small
    chunk_ids = stage.planned(
        ndjson(line("a", "SMS"), line("b", "SMS")), mapping=REPLACING, segment=SegmentSpec(counted_by="channel")
    )
    load_chunk(small, chunk_ids[0])
    import_id = stage.import_of(chunk_ids[0])
    stage.desk.cancel_import(stage.caller, import_id)
    segment_id = stage.status(import_id).segment_id

    ended = find(stage, segment_id)
    assert ended
    assert (ended.members, ended.by_member) == (1, {})
    for _ in range(2):  # safe to run twice
        sweep(stage.runtime)
        counted = find(stage, segment_id)
        assert counted
        assert (counted.members, counted.by_member) == (1, {"SMS": 1})


def test_an_end_does_not_wait_long_for_its_segment_and_the_sweep_counts_it_then(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_id = stage.start(ndjson(line("a", "SMS")), mapping=REPLACING, segment=SegmentSpec(counted_by="channel"))
    monkeypatch.setattr(settle, "_COUNTING_SECONDS", 0.1)
    plan_import(stage.runtime, import_id)
    with stage.runtime.database.aside() as tx:
        # As long as it takes to count very many.
        tx.run("SELECT FROM segment_versions WHERE import_id = %(id)s FOR UPDATE", id=import_id)
        stage.load_all(import_id)
    status = stage.status(import_id)
    ended = find(stage, status.segment_id)
    sweep(stage.runtime)
    counted = find(stage, status.segment_id)

    assert status.state is ImportState.COMPLETED
    assert ended
    assert (ended.members, ended.by_member) == (1, {})
    assert counted
    assert (counted.members, counted.by_member) == (1, {"SMS": 1})


def test_a_segment_that_takes_too_long_to_count_is_left_and_not_begun_again_each_round(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def count(_: Tx, import_id: str, *, seconds: float) -> None:
        begun.append(import_id)
        raise TooSlow("too slow")

    monkeypatch.setattr(segments, "count_segment", count)
    status = brought(stage, line("a", "SMS"))
    for _ in range(3):
        sweep(stage.runtime)
    left = find(stage, status.segment_id)

    # There may be segments that other tests have left.
    assert begun.count(status.id) == 2, "once at its end, and once by the sweep"
    assert left
    assert (left.members, left.by_member) == (1, {})


def test_an_import_for_a_segment_that_is_there_makes_its_next_version(stage: Stage) -> None:
    first = brought(stage, line("a", "SMS"), name="named")
    second = brought(stage, line("b", "EMAIL"), line("c", "EMAIL"), segment_id=first.segment_id)

    latest, before = find(stage, first.segment_id), find(stage, first.segment_id, version=1)

    assert second.segment_id == first.segment_id
    assert latest
    assert before
    assert (latest.version, latest.name, latest.members, latest.import_id) == (2, "named", 2, second.id)
    assert (before.version, before.members, before.import_id) == (1, 1, first.id)
    with stage.runtime.database.transaction() as tx:
        project, segment_id = stage.caller.project_id, latest.id
        page, after = segments.imports_of_segment(tx, project, segment_id, limit=1)
        assert page == [second.id]
        assert segments.imports_of_segment(tx, project, segment_id, before=after, limit=1) == ([first.id], None)


@pytest.mark.parametrize("segment_id", ["0" * 32, "no id", "", "\0"])
def test_a_segment_that_is_not_the_projects_is_unknown_and_nothing_is_begun(stage: Stage, segment_id: str) -> None:
    with pytest.raises(Refusal, match="no segment"):
        stage.start(b"", segment=SegmentSpec(segment_id, counted_by="channel"))

    assert stage.desk.list_imports(stage.caller).items == []


def test_a_segment_of_another_project_is_unknown(stage: Stage) -> None:
    other = Stage(stage.settings, stage.bucket)
    theirs = other.status(other.start(b"", segment=SegmentSpec(counted_by="channel"))).segment_id

    assert find(stage, theirs) is None
    with pytest.raises(Refusal, match="no segment"):
        stage.start(b"", segment=SegmentSpec(theirs, counted_by="channel"))
    other.close()


def test_segments_are_listed_newest_first_a_page_at_a_time(stage: Stage) -> None:
    made = [brought(stage, line(str(n), "SMS")).segment_id for n in range(5)]
    listed: list[str] = []
    before: int | None = None
    while True:
        with stage.runtime.database.transaction() as tx:
            project = stage.caller.project_id
            page, before = segments.list_segments(tx, project, before=before, limit=2)
        listed += [segment.id for segment in page]
        assert all(segment.members == 1 for segment in page)
        if before is None:
            break

    assert listed == made[::-1]


def test_an_export_of_one_imports_events_has_no_others(stage: Stage) -> None:
    mine = brought(stage, line("a", "SMS"), line("b", "SMS"), line("c", "SMS"))
    brought(stage, line("b", "EMAIL"), line("d", "SMS"))

    ended = stage.export(import_number=mine.number)
    body = stage.found(ended.spec.destination.prefix)[f"{ended.id}.ndjson"]

    assert sorted(body.splitlines()) == [line("a", "SMS"), line("c", "SMS")]
    assert (ended.events_total, ended.bytes_total) == (2, len(body))
