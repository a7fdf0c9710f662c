"""Sniffing: what an object is by its first bytes, and what it is refused for."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SourceFailed
from common.model.formats import Compression, Format, Layout
from workers.imports.elements import element_blocks
from workers.imports.sniffing import SAMPLE_BYTES, find_compression, find_layout, sniff_compression

BOM = b"\xef\xbb\xbf"
EVENT = b'{"id":"a","n":1}'
ROWS = [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
CSV = b"id,n\na,1\nb,2\n"
DOCUMENT = {"columns": {"id": {"dataType": "string"}}, "data": ROWS}
NDJSON, JSON = Format.NDJSON, Format.JSON
WRAPPED = "wrapped"


def look(
    content: bytes,
    declared: Format | None = None,
    name: str = "object",
    compression: Compression = Compression.NONE,
) -> Layout:
    sample = content[:SAMPLE_BYTES]
    return find_layout(sample, name=name, whole=len(sample) == len(content), declared=declared, compression=compression)


def kind(content: bytes, declared: Format | None = None, name: str = "object") -> Format | str:
    layout = look(content, declared, name)
    return WRAPPED if layout.wrapped else layout.format


def refusal(content: bytes, declared: Format | None = None, name: str = "object") -> str:
    with pytest.raises(SourceFailed) as failed:
        look(content, declared, name)
    assert failed.value.code == "wrong_shape"
    return failed.value.public


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- compression ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (gzip.compress(b"x", mtime=0), Compression.GZIP),
        (b"\x28\xb5\x2f\xfd\x00", Compression.ZSTD),
        (b"\x5a\x2a\x4d\x18\x00\x00\x00\x00", Compression.ZSTD),
        (bz2.compress(b"x"), Compression.BZIP2),
        (bz2.compress(b"", 1), Compression.BZIP2),
        (b"BZh9", Compression.BZIP2),
        (b"BZh9 is the start of a line", None),
        (b"BZhello,world\n", None),
        (b"", None),
        (b"PK\x03\x04", None),
        (zlib.compress(b"x"), None),
    ],
)
def test_a_compression_is_told_by_its_first_bytes(head: bytes, found: Compression | None) -> None:
    assert sniff_compression(head) == found
    assert find_compression(head, declared=None) == (found or Compression.NONE)


@pytest.mark.parametrize(
    ("head", "declared", "said"),
    [
        (gzip.compress(b"x", mtime=0), Compression.NONE, "The object was to be uncompressed, but it is gzip."),
        (gzip.compress(b"x", mtime=0), Compression.BZIP2, "The object was to be bzip2, but it is gzip."),
        (EVENT, Compression.ZSTD, "The object was to be Zstandard, but it is not compressed."),
        (b"PK\x03\x04", Compression.GZIP, "The object was to be gzip, but it is zip."),
    ],
)
def test_another_compression_than_declared_is_a_failure(head: bytes, declared: Compression, said: str) -> None:
    with pytest.raises(SourceFailed) as failed:
        find_compression(head, declared=declared)

    assert failed.value.code == "wrong_shape"
    assert said in failed.value.public


def test_an_empty_object_is_in_no_way_compressed_whatever_was_declared() -> None:
    assert find_compression(b"", declared=Compression.GZIP) is Compression.NONE


def test_an_object_that_is_compressed_twice_says_so() -> None:
    with pytest.raises(SourceFailed, match="it is gzip inside bzip2: it is compressed twice"):
        look(gzip.compress(EVENT), compression=Compression.BZIP2)


# --- what is found when nothing is declared ---------------------------------------------------------------------

FOUND: dict[str, tuple[bytes, Format | str]] = {
    "nothing": (b"", NDJSON),
    "a newline": (b"\n", NDJSON),
    "a byte order mark": (BOM, NDJSON),
    "blanks": (BOM + b" \t\r\n \n", NDJSON),
    "an event": (EVENT, NDJSON),
    "events": (EVENT + b"\n" + EVENT + b"\n", NDJSON),
    "events behind a mark and blank lines": (BOM + b"\r\n\n" + EVENT + b"\r\n" + EVENT, NDJSON),
    "a damaged event": (b'{"id":', NDJSON),
    "a damaged event and others": (b'{"id":\n' + EVENT + b"\n" + EVENT, NDJSON),
    "an event that nobody closed, and others": (b'{"data":[{"a":1}\n' + EVENT + b"\n" + EVENT, NDJSON),
    "a text and events": (b"nope\n" + EVENT + b"\n" + EVENT, NDJSON),
    "an array and events": (b"[1,2]\n" + EVENT + b"\n", NDJSON),
    "bytes that are no UTF-8 in an event": (b'{"a":"\xff"}\n' + EVENT, NDJSON),
    "events with a comma too many": (b'{"a":1,}\n{"a":2,}\n{"a":3,}\n', NDJSON),
    "events with commas between them": (b'{"a":1},\n{"a":2},\n{"a":3},\n', NDJSON),
    "an event longer than the sample": (b'{"text":"' + b"x" * 100_000 + b'"}\n' + EVENT, NDJSON),
    "an array": (compact(ROWS), JSON),
    "a printed array": (json.dumps(ROWS, indent=2).encode(), JSON),
    "an element a line": (b"[\n" + EVENT + b",\n" + EVENT + b"\n]\n", JSON),
    "an array behind a mark": (BOM + b"\n " + compact(ROWS), JSON),
    "an array longer than the sample": (compact(ROWS * 5_000), JSON),
    "an array of arrays": (b"[[1],[2]]", JSON),
    "an empty array": (b"[]", JSON),
    "a bracket": (b"[", JSON),
    "a bracket and a newline": (b"[\n", JSON),
    "a document": (compact(DOCUMENT), WRAPPED),
    "a printed document": (json.dumps(DOCUMENT, indent=2).encode(), WRAPPED),
    "a printed document with other members": (json.dumps({"version": 1, **DOCUMENT}, indent=2).encode(), WRAPPED),
    "a document that begins with its data": (compact({"data": ROWS, "columns": {}}) + b"\n", WRAPPED),
    "a document longer than the sample": (compact({"data": ROWS * 5_000}), WRAPPED),
    "a document of longer columns than the sample": (
        compact({"columns": {str(n): {} for n in range(10_000)}, "data": ROWS}), WRAPPED
    ),
    "a document of an element a line": (b'{"columns":{},\n"data":[\n' + EVENT + b",\n" + EVENT + b"\n]}", WRAPPED),
    "a document that was cut off": (b'{\n"data":[\n' + EVENT + b",\n" + EVENT[:4], WRAPPED),
    "an event with data among others": (compact({"id": "a", "data": ROWS}), NDJSON),
    "events with data": ((compact({"data": ROWS}) + b"\n") * 2, NDJSON),
    "an event whose data are numbers": (compact({"data": [1]}), NDJSON),
    "a table": (CSV, Format.CSV),
    "a table with Windows' line ends and a mark": (BOM + CSV.replace(b"\n", b"\r\n"), Format.CSV),
    "a table with JSON in its cells": (b'id,payload\n1,"{""a"":[1,2]}"\n2,"[{""b"":1}]"\n', Format.CSV),
    "a table with line breaks in its cells": (b'id,text\n1,"a\nb"\n2,"c,\n\nd"\n3,e\n', Format.CSV),
    "a table with a ragged row": (b"a,b\n1,2\n3,4\n5\n", Format.CSV),
    "a table with brackets in its header": (b"[id],[name]\n1,2\n3,4\n", Format.CSV),
    "a table with braces in its header": (b"{id},{name}\n1,2\n3,4\n", Format.CSV),
    "a table whose header begins as other files do": (b"ORCHARD,TREES\n1,2\n", Format.CSV),
    "a table with a damaged row": (b"a,b\n1,\xff\n3,4\n5,6\n7,8\n", Format.CSV),
    "a table of 10,000 columns": (
        b",".join(b"c%d" % n for n in range(10_000)) + b"\n" + b"1," * 9_999 + b"1\n", Format.CSV
    ),
    "a table whose header is longer than the sample": (b",".join(b"column-%d" % n for n in range(10_000)), Format.CSV),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_content_tells_what_an_object_is(what: str) -> None:
    content, expected = FOUND[what]

    assert kind(content) == expected


REFUSED: dict[str, tuple[bytes, str]] = {
    "UTF-16 with a mark": (EVENT.decode().encode("utf-16"), "it is UTF-16"),
    "UTF-32 with a mark": (EVENT.decode().encode("utf-32"), "it is UTF-32"),
    "UTF-16 without a mark": (EVENT.decode().encode("utf-16-le"), "it is binary"),
    "UTF-16 the other way round": (EVENT.decode().encode("utf-16-be"), "it is binary"),
    "an array in UTF-16": (compact(ROWS).decode().encode("utf-16-le"), "it is binary"),
    "a table in UTF-16": (CSV.decode().encode("utf-16-be"), "it is binary"),
    "zip": (b"PK\x03\x04anything", "it is zip"),
    "xz": (b"\xfd7zXZ\x00\x00", "it is xz"),
    "Parquet": (b"PAR1" + bytes(100) + b"PAR1", "it is Parquet"),
    "Avro": (b"Obj\x01\x04", "it is Avro"),
    "ORC": (b"ORC\x0a\x00\xff", "it is ORC"),
    "tar": (b"event.json".ljust(257, b"\0") + b"ustar", "it is a tar archive"),
    "bytes": (bytes(range(1, 256)) * 8, "it is binary"),
    "zlib": (zlib.compress(EVENT * 100), "it is binary"),
    "XML": (b'<?xml version="1.0"?>\n<events/>', "it looks like XML or HTML"),
    "HTML": (b"<!DOCTYPE html>\n<p>No, thanks", "it looks like XML or HTML"),
    "an answer of S3": (b"<Error><Code>AccessDenied</Code></Error>", "it looks like XML or HTML"),
    "a printed object": (json.dumps(ROWS[0], indent=2).encode(), "it looks like one JSON object over several lines"),
    "a printed tree": (json.dumps({"a": {"data": ROWS}}, indent=2).encode(), "one JSON object over several lines"),
    "YAML": (b"---\nid: a\n", "it looks like YAML"),
    "prose": (b"Dear Sir,\nthank you for your letter.\nYours", "it is text of another kind"),
    "semicolons": (b"a;b\n1;2\n", "it looks like CSV whose cells are separated by semicolons"),
    "tabs": (b"a\tb\n1\t2\n", "it looks like CSV whose cells are separated by tabs"),
    "blanks only, as far as one sees": (b" " * 200_000 + b"[", "it begins with 65,536 blanks"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_nobody_reads_here_is_refused_by_its_name(what: str) -> None:
    content, said = REFUSED[what]
    text = refusal(content)

    assert text.startswith("The object is not newline-delimited JSON, CSV or a JSON array: ")
    assert said in text
    assert text.endswith("Nothing of it was imported.")


# --- the name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"", "a/b.csv", Format.CSV),
        (b"\n", "a/b.json", JSON),
        (b"", "a.csv/b", NDJSON),
        (b"id\na\nb\n", "x.csv.gz", Format.CSV),
        (b"id,n\n", "x.CSV", Format.CSV),
        (b"id\n", "x.csv", Format.CSV),
        (EVENT, "x.csv", NDJSON),
        (compact(ROWS), "x.ndjson", JSON),
        (CSV, "x.json", Format.CSV),
        (EVENT + b"\n" + EVENT, "x.json", NDJSON),
        (compact(DOCUMENT), "x.ndjson", NDJSON),
        (compact(DOCUMENT), "x.csv.bz2", WRAPPED),
        (compact({"data": ROWS * 5_000}), "x.jsonl.zst", NDJSON),
        (b" " * 200_000 + b"[", "x.json", JSON),
    ],
)
def test_a_name_decides_only_what_the_content_leaves_open(content: bytes, name: str, expected: Format | str) -> None:
    assert kind(content, name=name) == expected


# --- what was declared --------------------------------------------------------------------------------------------

ARRAY_TEXT = "The object is not newline-delimited JSON: it is a JSON array."


@pytest.mark.parametrize(
    ("content", "declared", "said"),
    [
        (compact(ROWS), NDJSON, ARRAY_TEXT),
        (json.dumps(ROWS, indent=1).encode(), NDJSON, ARRAY_TEXT),
        (b"[", NDJSON, ARRAY_TEXT),
        (json.dumps(DOCUMENT, indent=1).encode(), NDJSON, "it looks like one JSON object over several lines"),
        (b'{"columns":{},\n"data":[\n' + EVENT + b"\n]}", NDJSON, "it looks like one JSON object over several lines"),
        (CSV, NDJSON, "The object is not newline-delimited JSON: it looks like CSV."),
        (b"<?xml?>\n<a/>", NDJSON, "it looks like XML"),
        (b"a,b\n1,2\n", NDJSON, "newline-delimited JSON: it has no line that is a JSON object. One JSON object a line"),
        (b"nope\nnope, too", NDJSON, "it has no line that is a JSON object"),
        (b"[1]\n[2]\n", NDJSON, "it has no line that is a JSON object"),
        (b"hello world\n" * 5_000, NDJSON, "it has no line that is a JSON object"),
        (b"hello world\n" * 50_000, NDJSON, "none of its first lines is a JSON object"),
        (EVENT, Format.CSV, "The object is not CSV: it is newline-delimited JSON."),
        (b"nope\n" + EVENT, Format.CSV, "The object is not CSV: it is newline-delimited JSON."),
        (compact(ROWS), Format.CSV, "The object is not CSV: it is a JSON array of objects."),
        (compact(DOCUMENT), Format.CSV, "The object is not CSV: it is a JSON object around an array."),
        (json.dumps(ROWS[0], indent=1).encode(), Format.CSV, "The object is not CSV: it looks like one JSON object"),
        (b"a;b\n1;2\n", Format.CSV, "separated by semicolons"),
        (b"\xe9t\xe9,n\n1,2\n", Format.CSV, "another encoding than UTF-8"),
        (EVENT + b"\n" + EVENT, JSON, "The object is not a JSON array of objects: it is newline-delimited JSON."),
        (EVENT, JSON, "it is newline-delimited JSON"),
        (CSV, JSON, "The object is not a JSON array of objects: it is CSV."),
        (b"PAR1\0", JSON, "The object is not a JSON array of objects: it is Parquet."),
        (compact(ROWS).decode().encode("utf-16-le"), JSON, "it is binary"),
        (b"7", JSON, "it is text of another kind"),
    ],
)
def test_another_format_than_declared_is_a_failure_that_names_both(content: bytes, declared: Format, said: str) -> None:
    assert said in refusal(content, declared)


@pytest.mark.parametrize(
    ("content", "declared", "expected"),
    [
        (b"{", NDJSON, NDJSON),
        (b"{\n}\n{]\n\nnull", NDJSON, NDJSON),
        (b"nope\n" + EVENT, NDJSON, NDJSON),
        (b"\0\n" + EVENT, NDJSON, NDJSON),
        (b"[1, 2]\n" + EVENT, NDJSON, NDJSON),
        (b"nope", NDJSON, NDJSON),
        (b"\n nope\n\n", NDJSON, NDJSON),
        (b"a,b\n1,2\n \t{", NDJSON, NDJSON),
        (b"nope\nnope\n{nope\n", NDJSON, NDJSON),
        (b"nope\n" + b"x" * 100_000 + b"\n", NDJSON, NDJSON),
        (b"nope\nnope\n{" + b"x" * 100_000, NDJSON, NDJSON),
        (b'{"a":1,}\n' * 5, NDJSON, NDJSON),
        (b'{"a":1},\n' * 9_000, NDJSON, NDJSON),
        (compact(DOCUMENT), NDJSON, NDJSON),
        (b" " * 200_000 + b"[", NDJSON, NDJSON),
        (b"id\na\nb\n", Format.CSV, Format.CSV),
        (b"id", Format.CSV, Format.CSV),
        (b'"{""a"":1}",b\n1,2\n', Format.CSV, Format.CSV),
        (b"", Format.CSV, Format.CSV),
        (b'a,b\n1,"\xff"\n2,3\n', Format.CSV, Format.CSV),
        (compact({"total": 2, "data": ROWS}), JSON, WRAPPED),
        (compact({"total": "x" * 100_000, "data": ROWS}), JSON, WRAPPED),
        (compact(ROWS)[:-1], JSON, JSON),
        (b"", JSON, JSON),
        (b" " * 200_000 + b"[]", JSON, JSON),
    ],
)
def test_what_was_declared_is_believed_where_it_may_be(
    content: bytes, declared: Format, expected: Format | str
) -> None:
    assert kind(content, declared) == expected


# --- always -------------------------------------------------------------------------------------------------------

declarations = st.none() | st.sampled_from(Format)
texts = st.text('{}[]":,a1;<-\\ \n\r\0', max_size=40).map(str.encode) | st.binary(max_size=40)


@given(texts, st.booleans(), declarations, st.sampled_from(["x", "x.csv", "x.json.gz", "x.ndjson", ""]))
def test_any_bytes_are_something_or_refused(content: bytes, whole: bool, declared: Format | None, name: str) -> None:
    found: Layout | None = None
    with contextlib.suppress(SourceFailed):
        found = find_layout(content, name=name, whole=whole, declared=declared, compression=Compression.GZIP)

    assert found is None or found.compression is Compression.GZIP
    assert found is None or declared in {None, found.format}


@given(st.integers(0, 80), st.sampled_from([CSV * 9, '{"é":"é"}\n'.encode() * 9, '[{"é":"é"},'.encode() * 9]))
def test_a_sample_may_end_inside_a_character(cut: int, content: bytes) -> None:
    expected = kind(content)
    sample = content[: 40 + cut]

    found = find_layout(sample, name="x", whole=False, declared=None, compression=Compression.NONE)

    assert found.format == expected


@given(
    st.dictionaries(st.sampled_from(["columns", "total", "é"]), st.lists(st.text(max_size=5), max_size=3), max_size=3),
    st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), max_size=3),
    st.sampled_from([None, 1]),
)
def test_a_document_that_is_found_is_one_that_can_be_framed(
    others: dict[str, object], rows: list[object], indent: int | None
) -> None:
    content = json.dumps({**others, "data": rows}, indent=indent).encode()
    layout = look(content, JSON)
    blocks = element_blocks([content], start=0, wrapped=layout.wrapped, max_line=1000)

    assert [json.loads(line) for block in blocks for line in block.data.split(b"\n")] == rows


@pytest.mark.parametrize(
    "sample",
    [b'{"a":"' + b'\\"' * 32_000, b"{" * 65_000, b'{"a":' * 13_000, b'"' * 65_000, b"<a " * 21_000, b"[ " * 32_000,
     b"a,\n" * 21_000, b'{"a":1}\n' * 8_000, b'{\n"' * 21_000, b"{ " * 32_000],
)  # fmt: skip
def test_no_sample_takes_long(sample: bytes) -> None:
    started = time.process_time()
    for declared in (None, *Format):
        with contextlib.suppress(SourceFailed):
            find_layout(sample, name="x", whole=False, declared=declared, compression=Compression.NONE)

    assert time.process_time() - started < 0.8
