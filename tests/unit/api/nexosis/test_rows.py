"""Rows that are put: as JSON in their own bytes, and as CSV."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.nexosis import rows
from api.nexosis.rows import Sheet, read_csv_rows, read_json_rows
from common.errors import Refusal
from common.model.columns import Column, DataType, Role


def refused(read: Any, body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(body)
    return caught.value


def faults(read: Any, body: bytes) -> dict[str, list[str]]:
    refusal = refused(read, body)
    assert refusal.code == "invalid_request"
    found: dict[str, list[str]] = refusal.details["faults"]
    return found


# --- JSON


def test_rows_keep_the_bytes_they_came_in() -> None:
    body = (
        b'{"Columns": {"b": {"DataType": "DATE", "role": "key"}}, "DATA": [ {"b": 1.00, "a":\n"\\u00e9"},\r\n{}, 7 ]}'
    )
    assert read_json_rows(body) == Sheet(
        [b'{"b": 1.00, "a": "\\u00e9"}', b"{}", b"7"], (Column("b", DataType.DATE, Role.KEY),)
    )


@pytest.mark.parametrize(
    "body", [b'{"data": []}', b"{}", b'{"data": null}', b'{"columns": {}}', b'{"data": [1], "Data": []}']
)
def test_a_request_without_rows_is_refused(body: bytes) -> None:
    assert refused(read_json_rows, body).code == "no_data"


@pytest.mark.parametrize("data", [b"{}", b"1", b'"a"', b"true"])
def test_data_is_an_array(data: bytes) -> None:
    assert [*faults(read_json_rows, b'{"data": %s}' % data)] == ["data"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"data": [1,]}', b'{"data": [NaN]}', b"\xff", b"[" * 9999, b'{"data": [' + b"[" * 9999]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert refused(read_json_rows, body).code == "malformed_json"


def test_metadata_that_cannot_be_is_refused() -> None:
    refusal = refused(read_json_rows, b'{"data": [{}], "columns": {"a": {"role": "boss"}}}')
    assert (refusal.code, [*refusal.details["faults"]]) == ("invalid_columns", ["a"])


def test_metadata_without_end_is_refused() -> None:
    body = b'{"data": [{}], "columns": [%s]}' % b",".join([b'"%s"' % (b"x" * 1000)] * 3000)
    assert [*faults(read_json_rows, body)] == ["columns"]


def test_a_mark_of_the_byte_order_is_none_of_the_rows() -> None:
    marked = codecs.BOM_UTF8 + b'{"data": [{"a":1}]}'
    assert list(read_json_rows(marked).rows) == [b'{"a":1}']


def test_a_cell_may_be_as_long_as_a_line_of_an_import() -> None:
    assert len(read_csv_rows(b"a\n%s\n" % (b"x" * 900_000)).rows[0]) == 900_008


def test_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS", 2)
    assert len(read_json_rows(b'{"data": [1,2]}').rows) == len(read_csv_rows(b"a\n1\n2\n").rows) == 2
    assert refused(read_json_rows, b'{"data": [1,2,3]}').code == "too_many_events"
    assert refused(read_csv_rows, b"a\n1\n2\n3\n").code == "too_many_events"


def test_many_rows_are_counted_before_they_are_kept() -> None:
    wide = b'{"data": [%s]}' % b",".join([b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":[6,7]}'] * 50_000)
    assert len(read_json_rows(wide).rows) == 50_000
    assert refused(read_json_rows, b'{"data": [%s]}' % b",".join([b"1"] * 1_000_000)).code == "too_many_events"


# --- CSV


_cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(_cells, min_size=width, max_size=width), min_size=1)))
def test_what_csv_says_is_read_as_it_was_written(table: list[list[str]]) -> None:
    header = [f'{at} \u00e9,"\n' for at in range(len(table[0]))]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([header, *table])
    sheet = read_csv_rows(text.getvalue().encode())
    assert sheet.columns == ()
    assert [json.loads(row) for row in sheet.rows] == [dict(zip(header, row, strict=True)) for row in table]
    assert not any(b"\n" in row or b"\r" in row for row in sheet.rows), "each is a line"


@pytest.mark.parametrize("body", [b"a,b\r\n1,2\r\n", b"a,b\n1,2", b"\xef\xbb\xbfa,b\n\n1,2\n\n", b'"a","b"\n"1","2"'])
def test_line_ends_marks_and_blank_lines_say_nothing(body: bytes) -> None:
    assert read_csv_rows(body).rows == [b'{"a":"1","b":"2"}']


def test_the_index_of_a_data_frame_has_no_name() -> None:
    assert read_csv_rows(b",a\n0,1\n").rows == [b'{"":"0","a":"1"}']


@pytest.mark.parametrize("body", [b"", b"\n", b"a,b", b"a,b\n\n\n"])
def test_csv_without_rows_is_refused(body: bytes) -> None:
    assert refused(read_csv_rows, body).code == "no_data"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"a,b\n1,2\n1\n", "data[1]"),
        (b"a,b\n\n1,2,3\n", "data[0]"),
        (b'a,b\n1,"2" x\n', "line 2"),
        (b'a,b\n1,2\n1,"2\n', "line 3"),
        (b'"a\n', "line 1"),
        (b"a,,\n1,2,3\n", "columns"),
        (b"a,a\n1,2\n", "columns"),
        (b"a\n\xff\n", "body"),
        (b",".join(b"%d" % at for at in range(10_001)) + b"\n1\n", "columns"),
    ],
    ids=range(9),
)
def test_bad_csv_is_refused_by_its_place(body: bytes, place: str) -> None:
    found = faults(read_csv_rows, body)
    assert [*found] == [place]
    assert len(found[place][0]) < 200


def test_names_that_many_rows_repeat_cannot_fill_the_memory() -> None:
    header = b",".join(b"%d%s" % (at, b"x" * 1000) for at in range(1000))
    body = header + b"\n" + (b"," * 999 + b"\n") * 1000
    assert refused(read_csv_rows, body).code == "body_too_large"


@given(st.binary(max_size=40))
def test_a_body_with_anything_in_it_is_read_or_refused(body: bytes) -> None:
    for read in (read_json_rows, read_csv_rows):
        for text in (body, b'{"data":[' + body, b'a,"b"\n' + body):
            with contextlib.suppress(Refusal):
                assert read(text).rows
