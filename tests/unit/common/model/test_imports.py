"""What a caller is told: percent, rate, time left."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.chunks import Counts, Entry, count_chunks
from common.model.imports import ImportSpec, ImportState, ImportStatus, Progress, sum_progress
from common.model.mapping import ColumnType, Mapping, OnDuplicate
from common.model.rules import Rules
from common.model.sources import SourceRef

START = datetime(2026, 1, 1, tzinfo=UTC)
STATUS = ImportStatus(
    id="0" * 32,
    number=1,
    collection="c",
    state=ImportState.RUNNING,
    source=SourceRef("bucket", "key"),
    mapping=Mapping(),
    created_at=START,
    started_at=START,
    finished_at=None,
    read_at=START + timedelta(seconds=20),
    bytes_total=1000,
    chunks_total=10,
    chunks_running=1,
    progress=Progress(),
    error=None,
    history=(),
)
#: A mapping that has nothing in common with the one of default.
OTHER = Mapping(
    id_names=("key",),
    time_names=("at",),
    on_duplicate=OnDuplicate.REPLACE,
    types=(("price", ColumnType.NUMBER),),
    quoted_line_breaks=False,
    dots_nest=False,
    month_first=True,
    id_is_time=True,
    rules=Rules(longest=9),
)


def test_the_other_mapping_differs_in_every_word() -> None:
    assert all(getattr(OTHER, one.name) != getattr(Mapping(), one.name) for one in fields(Mapping))


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_percent_never_falls_and_is_100_only_when_all_is_done(sizes: list[int]) -> None:
    status = replace(STATUS, bytes_total=sum(sizes))
    seen = [0.0]
    for done in range(1, len(sizes) + 1):
        percent = replace(status, progress=Progress(bytes_done=sum(sizes[:done]))).percent
        assert percent >= seen[-1]
        assert (percent == 100) == (sum(sizes[:done]) == sum(sizes) > 0)
        seen.append(percent)


def test_percent_of_nothing_is_nought_until_it_is_complete() -> None:
    empty = replace(STATUS, bytes_total=0)

    assert empty.percent == 0
    assert replace(empty, state=ImportState.COMPLETED).percent == 100
    assert replace(STATUS, bytes_total=None, state=ImportState.FAILED).percent == 0


def test_the_rate_is_that_of_the_last_seconds_and_afterwards_of_the_whole_run() -> None:
    progress = Progress(Counts(1000, 1000), imported_lately=50)
    running = replace(STATUS, progress=progress)
    ended = replace(running, state=ImportState.COMPLETED, finished_at=START + timedelta(seconds=4))

    assert running.events_per_second == 5
    assert replace(running, read_at=START + timedelta(seconds=2)).events_per_second == 25
    assert ended.events_per_second == 250
    assert replace(STATUS, started_at=None).events_per_second == 0
    assert replace(ended, finished_at=START).events_per_second == 0


def test_events_that_took_the_place_of_others_are_work_too() -> None:
    entries = [Entry(n, 9, Counts(10, 1, 9), 100) for n in range(2)]
    progress = sum_progress(entries, now_ms=0)
    ended = replace(STATUS, progress=progress, state=ImportState.COMPLETED, finished_at=START + timedelta(seconds=4))

    assert progress.imported_lately == 20
    assert ended.events_per_second == 5


def test_the_mapping_of_an_import_is_the_collections_where_the_request_names_nothing() -> None:
    collections = OTHER
    asked = ImportSpec("c", SourceRef("b", "k"), Mapping(("order",)))

    assert asked.mapping_within(collections) == asked.mapping
    assert replace(asked, named=frozenset()).mapping_within(collections) == collections
    named = frozenset({"id_names", "on_duplicate"})
    assert replace(asked, named=named).mapping_within(collections) == replace(
        collections, id_names=("order",), on_duplicate=OnDuplicate.KEEP
    )


@given(st.sets(st.frozensets(st.sampled_from([field.name for field in fields(Mapping)])), min_size=2))
def test_requests_that_name_different_parts_of_a_mapping_are_different(ways: set[frozenset[str]]) -> None:
    texts = set()
    for named in ways:
        for mapping in (Mapping(), replace(Mapping(), **{name: getattr(OTHER, name) for name in named})):
            texts.add(ImportSpec("c", SourceRef("b", "k"), mapping, named=named).as_asked())

    assert len(texts) == 2 * len(ways) - (frozenset() in ways)


def test_a_request_of_before_collections_had_a_mapping_is_the_same_text() -> None:
    asked = ImportSpec("c", SourceRef("b", "k"), Mapping(("id",), ("timestamp",)))

    for spec in (asked, replace(asked, named=frozenset({"id_names", "time_names"}))):
        assert spec.as_asked() == (
            'import {"collection": "c", "mapping": {"id_names": ["id"], "time_names": ["timestamp"]},'
            ' "source": {"bucket": "b", "key": "k"}}'
        )


def test_the_time_left_follows_the_pace_so_far() -> None:
    assert replace(STATUS, progress=Progress(bytes_done=250)).eta_seconds == 60
    assert STATUS.eta_seconds is None
    assert replace(STATUS, state=ImportState.COMPLETED).eta_seconds is None


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_chunks_cover_an_object_and_no_more(size: int, chunk_bytes: int) -> None:
    count = count_chunks(size, chunk_bytes)

    assert (count - 1) * chunk_bytes < size <= count * chunk_bytes or count == size == 0


@pytest.mark.parametrize("now_ms", [0, 5000])
def test_progress_of_no_chunks_is_nothing(now_ms: int) -> None:
    assert sum_progress([], now_ms=now_ms) == Progress()
    assert sum_progress([Entry(0, 9, Counts(1, 1), 100)], now_ms=now_ms) == Progress(
        Counts(1, 1), 9, 1, imported_lately=1
    )
