"""Whatever an object is written in and compressed with, and however it is cut: the rows and the receipt are those of
reading it once from end to end (P1 to P3).
"""

from __future__ import annotations

import bz2
import gzip
import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import objects
from common.errors import Transient
from common.model.chunks import Counts
from common.model.formats import Compression, Format
from common.model.imports import ImportState, ImportStatus
from tests.stage import Stage, ndjson
from workers.imports import gzip_index, inflating, load, scan
from workers.imports.lease import Lease
from workers.imports.plan import plan_import
from workers.imports.work import Judge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstd.compress,
    Compression.BZIP2: bz2.compress,
}
COLUMNS = ("$unique_id", "note", "place.city", "tag", "tag")
#: What a cell of CSV or a string of JSON may hold: the delimiters of both.
TEXTS = st.text(st.sampled_from("ab ,\"'{}[]:\\\t\n\rü€\u2028"), max_size=12)
RECORDS = st.lists(
    st.tuples(st.one_of(st.sampled_from(["1", "a", "ü", "1 "]), st.uuids().map(str)), TEXTS, TEXTS, TEXTS, TEXTS),
    max_size=12,
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk stops between two pieces: with those of real life a small file would be one."""
    monkeypatch.setattr(objects, "PIECE", 40)
    monkeypatch.setattr(inflating, "PIECE", 40)


def nested(record: tuple[str, ...]) -> dict[str, Any]:
    """Return what a record of ``COLUMNS`` is as an object."""
    unique, note, city, *tags = record
    return {"$unique_id": unique, "note": note, "place": {"city": city}, "tag": tags}


def as_csv(records: list[tuple[str, ...]], end: str) -> bytes:
    # By hand: csv.writer leaves a lone carriage return unquoted before Python 3.13.
    return "".join(",".join(map(quoted, record)) + end for record in (COLUMNS, *records)).encode()


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\r\n') else cell


def as_array(objects: list[dict[str, Any]], indent: int | None) -> bytes:
    return json.dumps(objects, indent=indent, ensure_ascii=False).encode()


def payloads(stage: Stage, collection: str) -> list[Any]:
    return [json.loads(row.payload) for row in stage.rows(collection)]


def firsts(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    for one in objects:
        kept.setdefault(one["$unique_id"], one)
    return list(kept.values())


def imported(
    stage: Stage, body: bytes, *, chunk_bytes: int, declared: Format | None = None
) -> tuple[str, ImportStatus]:
    """Import a body with chunks of a size, and return the collection and the status."""
    stage.runtime.settings = replace(stage.settings, chunk_bytes=chunk_bytes)
    collection = uuid.uuid4().hex
    return collection, stage.run(body, collection=collection, format=declared, compression=None)


def open_sums(stage: Stage, status: ImportStatus) -> int:
    """Return the chunks' shares of the object's bytes."""
    (row,) = stage.query(
        "SELECT sum(coalesce(bytes, end_offset - start_offset)) AS bytes FROM chunks WHERE import_id = %(id)s",
        id=status.id,
    )
    return int(row.bytes)


@pytest.mark.parametrize("compression", list(Compression))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, end=st.sampled_from(["\n", "\r\n"]), chunk_bytes=st.integers(20, 400))
def test_a_csv_gives_the_same_rows_however_it_is_cut(
    stage: Stage, compression: Compression, records: list[tuple[str, ...]], end: str, chunk_bytes: int
) -> None:
    expected = [nested(record) for record in records]
    body = COMPRESS[compression](as_csv(records, end))

    collection, status = imported(stage, body, chunk_bytes=chunk_bytes, declared=Format.CSV)

    kept = firsts(expected)
    assert status.error is None
    assert payloads(stage, collection) == kept
    assert status.progress.counts == Counts(len(records), len(kept), 0, len(records) - len(kept), 0, 0)
    assert (status.pieces.formats, status.pieces.compressions) == ((Format.CSV,), (compression,))
    assert (open_sums(stage, status), status.percent) == (len(body), 100.0)


@pytest.mark.parametrize("compression", list(Compression))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, indent=st.sampled_from([None, 1]), wrapped=st.booleans(), chunk_bytes=st.integers(20, 400))
def test_an_array_gives_the_same_rows_however_it_is_cut(
    stage: Stage,
    compression: Compression,
    records: list[tuple[str, ...]],
    indent: int | None,
    wrapped: bool,
    chunk_bytes: int,
) -> None:
    expected = [nested(record) for record in records]
    text = as_array(expected, indent)
    if wrapped:
        text = b'{"columns": {"note": {"dataType": "string"}},\n "data": ' + text + b"}\n"
    body = COMPRESS[compression](text)

    collection, status = imported(stage, body, chunk_bytes=chunk_bytes)

    kept = firsts(expected)
    assert status.error is None
    assert payloads(stage, collection) == kept
    assert status.progress.counts == Counts(len(records), len(kept), 0, len(records) - len(kept), 0, 0)
    assert (open_sums(stage, status), status.percent) == (len(body), 100.0)


@pytest.mark.parametrize("compression", list(Compression))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.one_of(
            st.builds(
                lambda n, size: json.dumps({"$unique_id": n, "f": "ü" * size}), st.integers(0, 6), st.integers(0, 30)
            ),
            st.sampled_from(["", " ", "{bad", "[1]", "\ufeff{}"]),
        ),
        max_size=15,
    ),
    chunk_bytes=st.integers(20, 400),
)
def test_compressed_lines_are_what_they_are_without(
    stage: Stage, compression: Compression, lines: list[str], chunk_bytes: int
) -> None:
    text = "\n".join(['{"n": 1}', *lines]).encode()
    plain, expected = imported(stage, text, chunk_bytes=chunk_bytes)

    collection, status = imported(stage, COMPRESS[compression](text), chunk_bytes=chunk_bytes)

    assert stage.rows(collection) == stage.rows(plain)
    assert status.progress.counts == expected.progress.counts
    errors, others = (stage.desk.list_errors(stage.caller, one.id).items for one in (status, expected))
    assert [(one.index, one.byte_offset, one.code) for one in errors] == [
        (one.index, one.byte_offset, one.code) for one in others
    ]


def test_errors_of_a_csv_are_told_by_the_line_of_text_where_the_record_begins(stage: Stage) -> None:
    body = b'$unique_id,note\n1,"a\nb"\n2\n3,"\n\n"\n4,x,y\n'
    _, status = imported(stage, body, chunk_bytes=12, declared=Format.CSV)

    errors = stage.desk.list_errors(stage.caller, status.id).items
    assert [(one.index, one.byte_offset) for one in errors] == [(3, body.index(b"2\n")), (7, body.index(b"4,x"))]
    assert status.progress.counts == Counts(lines=4, imported=2, rejected=2)


def test_errors_of_an_array_are_told_by_the_element(stage: Stage) -> None:
    body = b'[{"n": 0},\n\n 1, {"n": 2}, {"$unique_id": ""}]'
    _, status = imported(stage, body, chunk_bytes=10)

    errors = stage.desk.list_errors(stage.caller, status.id).items
    assert [(one.index, one.byte_offset) for one in errors] == [(1, body.index(b"1,")), (3, body.index(b'{"$un'))]


@pytest.mark.parametrize("chunk_bytes", [20, 4096])
def test_a_truncated_array_keeps_what_was_good_and_says_where_it_broke(stage: Stage, chunk_bytes: int) -> None:
    whole = as_array([{"n": n} for n in range(20)], None)
    body = whole[: whole.index(b'{"n": 12}') + 4]
    collection, status = imported(stage, body, chunk_bytes=chunk_bytes)

    assert (status.state, status.error and status.error.code) == (ImportState.FAILED, "truncated_array")
    assert payloads(stage, collection) == [{"n": n} for n in range(12)]
    assert status.progress.counts == Counts(lines=12, imported=12)
    assert status.percent < 100
    assert status.pieces.failed == 1


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.BZIP2, Compression.ZSTD])
def test_a_truncated_stream_keeps_what_was_good_and_says_so(
    stage: Stage, compression: Compression, chunk_bytes: int
) -> None:
    lines = [json.dumps({"$unique_id": n, "noise": uuid.uuid4().hex}).encode() for n in range(60_000)]
    whole = COMPRESS[compression](b"\n".join(lines))
    most = chunk_bytes if chunk_bytes > 64 else 1 << 19
    collection, status = imported(stage, whole[: len(whole) // 2], chunk_bytes=most)

    found = [row.payload for row in stage.rows(collection)]
    assert (status.state, status.error and status.error.code) == (ImportState.FAILED, "truncated_compression")
    assert found == lines[: len(found)]
    assert status.progress.counts == Counts(lines=len(found), imported=len(found))
    assert len(found) > 1000


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.BZIP2, Compression.ZSTD])
def test_nothing_is_loaded_of_a_stream_whose_checksum_is_wrong(stage: Stage, compression: Compression) -> None:
    """What is decompressed before the checksum may be anything, events that nobody wrote among it."""
    dice = Random(1)  # of other bytes one in so many makes a first block of bzip2 that looks like no lines at all
    text = b"".join(b'{"$unique_id":"%d","v":"%032x"}\n' % (n, dice.getrandbits(128)) for n in range(20_000))
    body = bytearray(compressed(text, compression))
    body[len(body) // 2] ^= 0xFF
    _, status = imported(stage, bytes(body), chunk_bytes=200_000)

    assert (status.state, status.error and status.error.code) == (ImportState.FAILED, "corrupt_compression")
    assert status.error
    assert "Nothing of it was imported." in status.error.message
    assert status.progress.counts == Counts()


def compressed(text: bytes, compression: Compression) -> bytes:
    """Return the text compressed, of Zstandard with the checksum that its command line writes."""
    if compression is Compression.ZSTD:
        return zstd.compress(text, options={zstd.CompressionParameter.checksum_flag: 1})
    return COMPRESS[compression](text)


def test_a_walk_that_died_goes_on_where_it_had_committed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is decompressed from its beginning again, and nothing is loaded twice."""
    body = ndjson(*({"$unique_id": n, "filler": "x" * 50} for n in range(5000)))
    stage.runtime.settings = replace(stage.settings, chunk_bytes=50_000)
    import_id = stage.start(zstd.compress(body), format=None, compression=None)
    plan_import(stage.runtime, import_id)
    load.load_chunk(stage.runtime, stage.chunk_ids(import_id)[0])  # the scan
    take, taken = Judge.take, []

    def die_late(judge: Judge, block: Any) -> None:
        take(judge, block)
        taken.append(judge.work.chunk.number)
        if len(set(taken)) == 3:
            raise Transient("S3 cannot be reached at the moment.")

    with monkeypatch.context() as dying:
        dying.setattr(Judge, "take", die_late)
        load.load_chunk(stage.runtime, stage.chunk_ids(import_id)[1])
    before = stage.status(import_id)
    stage.query("UPDATE chunks SET not_before = now() WHERE import_id = %(id)s RETURNING id", id=import_id)
    stage.load_all(import_id)

    status = stage.status(import_id)
    assert 0 < before.progress.counts.imported < 5000
    assert status.progress.counts == Counts(lines=5000, imported=5000)
    assert [row.payload for row in stage.rows()] == body.splitlines()


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("kind", list(Format))
def test_a_lease_is_renewed_inside_a_line_that_does_not_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, compression: Compression, kind: Format
) -> None:
    """Nothing is decoded meanwhile: with 2 GB of it the lease ended, and the next one's, 25 times."""
    for module in (objects, inflating, gzip_index):
        monkeypatch.setattr(module, "PIECE", 1024)
    giant = "x" * 200_000
    bodies = {
        Format.NDJSON: ndjson({"n": 1}, {"giant": giant}, {"n": 2}),
        Format.JSON: as_array([{"n": 1}, {"giant": giant}, {"n": 2}], None),
        Format.CSV: f'n\n1\n"\n{giant}"\n2\n'.encode(),
    }
    stage.runtime.settings = replace(stage.settings, chunk_bytes=300_000, max_line_bytes=1000)
    calls: list[bool] = []
    monkeypatch.setattr(Lease, "advance", lambda _: calls.append(True))
    status = stage.run(COMPRESS[compression](bodies[kind]), format=kind, compression=None)

    assert status.progress.counts == Counts(lines=3, imported=2, rejected=1)
    assert len(calls) > len(giant) / 16_384, "bzip2 and Zstandard come in pieces of 16 KB"


def test_an_element_longer_than_a_part_of_the_index_is_gone_through_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gzip_index, "SPACING", 64 * 1024)
    monkeypatch.setattr(gzip_index, "_SLICE", 64 * 1024)
    monkeypatch.setattr(scan, "_STRETCH", 100_000)
    read, decoded = gzip_index._read_into, []

    def reading(text: memoryview, file: Any, index: Any, start: int) -> None:
        decoded.append(start + len(text) - index.points[0].decoded)
        read(text, file, index, start)

    monkeypatch.setattr(gzip_index, "_read_into", reading)
    giant = "".join(uuid.uuid4().hex for _ in range(60_000))
    stage.runtime.settings = replace(stage.settings, chunk_bytes=100_000, max_line_bytes=1000)
    body = as_array([{"n": 1}, {"giant": giant}, {"n": 2}], None)
    _, status = imported(stage, gzip.compress(body), chunk_bytes=100_000)

    assert status.progress.counts == Counts(lines=3, imported=2, rejected=1)
    assert sum(decoded) < 2 * len(body)


def test_the_lease_of_a_scan_is_renewed_where_there_is_no_text(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PIECE", 1024)
    calls: list[bool] = []
    monkeypatch.setattr(Lease, "advance", lambda _: calls.append(True))
    body = gzip.compress(b'{"n": 1}\n') + gzip.compress(b"") * 5000
    status = stage.run(body, format=None, compression=None)

    assert status.progress.counts == Counts(lines=1, imported=1)
    assert len(calls) > len(body) / 1024


def test_a_walk_that_goes_on_has_one_turn_of_its_import(stage: Stage) -> None:
    """With a message for each rest besides, an import of many small streams had more turns than its window."""
    body = ndjson(*({"$unique_id": n, "filler": "x" * 50} for n in range(300)))
    packed = zstd.compress(body)
    stage.runtime.settings = replace(stage.settings, chunk_bytes=len(packed))
    import_id = stage.start(packed, format=None, compression=None)
    plan_import(stage.runtime, import_id)
    stage.load_all(import_id)

    assert stage.status(import_id).progress.counts == Counts(lines=300, imported=300)
    assert len(stage.chunk_ids(import_id)) > 2
    assert (len(stage.sent.loads), stage.sent.walks) == (2, []), "the scan's turn, and the walk's"


def test_a_csv_that_begins_with_nothing_for_long_fails_and_is_not_a_million_rejects(stage: Stage) -> None:
    status = stage.run(b"\n" * 70_000 + b"a,b\n1,2\n", format=Format.CSV, compression=None)
    assert (status.state, status.error and status.error.code) == (ImportState.FAILED, "invalid_header")


def test_a_wrong_declaration_is_one_failure_and_not_a_million_rejects(stage: Stage) -> None:
    status = stage.run(b"a,b\n1,2\n3,4\n5,6\n", format=Format.NDJSON, compression=None)
    assert (status.state, status.error and status.error.code) == (ImportState.FAILED, "wrong_shape")
    assert status.progress.counts == Counts()
    status = stage.run(gzip.compress(b'{"n": 1}\n'), format=None, compression=Compression.NONE)
    assert (status.state, status.error and status.error.code) == (ImportState.FAILED, "wrong_shape")
