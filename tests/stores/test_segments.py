"""Segments: what an import brought, counted once, and exported alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import Refusal
from common.ledger import segments
from common.model.imports import ImportStatus
from common.model.mapping import Mapping, OnDuplicate
from common.model.segments import Segment, SegmentSpec
from tests.stage import Stage, ndjson

REPLACING = Mapping(on_duplicate=OnDuplicate.REPLACE)


def line(key: str, channel: Any) -> bytes:
    return json.dumps({"$unique_id": key, "channel": channel}).encode()


def brought(stage: Stage, *lines: bytes, name: str | None = None, segment_id: str | None = None) -> ImportStatus:
    return stage.run(ndjson(*lines), mapping=REPLACING, segment=SegmentSpec(segment_id, name))


def find(stage: Stage, segment_id: str | None, version: int | None = None) -> Segment | None:
    assert segment_id
    with stage.runtime.database.transaction() as tx:
        project = stage.caller.project_id
        return segments.find_segment(tx, project, segment_id, counted_by="channel", version=version)


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
    import_id = stage.start(ndjson(line("a", "SMS")), segment=SegmentSpec())

    segment = find(stage, stage.status(import_id).segment_id)

    assert segment
    assert segment.members is None


def test_what_was_counted_stays_when_a_later_import_takes_the_events(stage: Stage) -> None:
    first = brought(stage, line("a", "SMS"), line("b", "SMS"))
    assert find(stage, first.segment_id)
    brought(stage, line("a", "EMAIL"))

    segment = find(stage, first.segment_id)

    assert segment
    assert (segment.members, segment.by_member) == (2, {"SMS": 2})


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
        stage.start(b"", segment=SegmentSpec(segment_id))

    assert stage.desk.list_imports(stage.caller).items == []


def test_a_segment_of_another_project_is_unknown(stage: Stage) -> None:
    other = Stage(stage.settings, stage.bucket)
    theirs = other.status(other.start(b"", segment=SegmentSpec())).segment_id

    assert find(stage, theirs) is None
    with pytest.raises(Refusal, match="no segment"):
        stage.start(b"", segment=SegmentSpec(theirs))
    other.close()


def test_segments_are_listed_newest_first_a_page_at_a_time(stage: Stage) -> None:
    made = [brought(stage, line(str(n), "SMS")).segment_id for n in range(5)]
    listed: list[str] = []
    before: int | None = None
    while True:
        with stage.runtime.database.transaction() as tx:
            project = stage.caller.project_id
            page, before = segments.list_segments(tx, project, counted_by="channel", before=before, limit=2)
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
