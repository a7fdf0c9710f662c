"""What the beginning of a file tells of a table: rows as they will be loaded, and none that the sample cuts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.columns import FIRST_ROWS, TABLE_MAPPING, Column, ColumnsFault, DataType, Role, infer_columns
from common.model.events import Identity
from common.model.formats import Format, Layout
from workers.imports.decoding import Decoder
from workers.imports.first_rows import Told, _payloads, read_first_rows
from workers.imports.header import read_header
from workers.imports.rows import RowDecoder

RULES: dict[str, Any] = {
    "identity": Identity(b"k" * 32), "import_number": 1, "source_ordinal": 0, "default_time": 0, "max_line": 2000,
}  # fmt: skip
LONGEST = 2001


def tell(sample: bytes, kind: Format, *, whole: bool = True, wrapped: bool = False) -> Told:
    layout = layout_of(sample, kind, wrapped)
    return read_first_rows(sample, layout, TABLE_MAPPING, decoder(layout), whole=whole, longest=LONGEST)


def layout_of(sample: bytes, kind: Format, wrapped: bool = False) -> Layout:
    header = read_header(sample, TABLE_MAPPING, whole=True) if kind is Format.CSV else ()
    return Layout(kind, header=header, wrapped=wrapped)


def decoder(layout: Layout) -> Decoder | RowDecoder:
    if layout.format is Format.CSV:
        return RowDecoder(layout.header, TABLE_MAPPING, **RULES)
    return Decoder(TABLE_MAPPING, **RULES)


def payloads(sample: bytes, layout: Layout, *, whole: bool) -> list[bytes]:
    return list(_payloads(sample, layout, TABLE_MAPPING, decoder(layout), whole=whole, longest=LONGEST))


cells = st.sampled_from(["", "1", "x", "2017-01-01", 'a"b', "a,b", "a\nb"])
rows = st.lists(st.builds(lambda a, b: {"a": a, "b.c": b}, cells, cells), max_size=6)


def written(drawn: list[dict[str, str]], kind: Format, wrapped: bool) -> bytes:
    if kind is Format.NDJSON:
        return b"".join(json.dumps(row).encode() + b"\n" for row in drawn)
    if kind is Format.JSON:
        return json.dumps({"columns": {}, "data": drawn} if wrapped else drawn, indent=1).encode()
    lines = [["a", "b.c"], *(['"' + cell.replace('"', '""') + '"' for cell in row.values()] for row in drawn)]
    return "".join(",".join(line) + "\r\n" for line in lines).encode()


@given(rows, st.sampled_from(Format), st.booleans(), st.data())
def test_a_sample_holds_the_first_rows_of_the_whole_and_no_part_of_one(
    drawn: list[dict[str, str]], kind: Format, wrapped: bool, data: st.DataObject
) -> None:
    body = written(drawn, kind, wrapped)
    layout = layout_of(body, kind, wrapped)
    at = data.draw(st.integers(0, len(body)))
    whole, part = payloads(body, layout, whole=True), payloads(body[:at], layout, whole=False)

    assert list(map(json.loads, whole)) == drawn
    assert part == whole[: len(part)]
    assert tell(body, kind, wrapped=wrapped) == Told((), infer_columns(drawn), whole=True)


def test_a_line_that_would_be_rejected_tells_nothing() -> None:
    found = tell(b'{"a":7}\n{"b":\n[2]\n\n{"c":"\xff"}\n{"a":2', Format.NDJSON).found

    assert found == (Column("a", DataType.NUMERIC, Role.TARGET),)


def test_a_broken_file_tells_what_stands_before() -> None:
    assert tell(b'[{"a":"x"},{"b":1}}', Format.JSON).found == infer_columns([{"a": "x"}, {"b": 1}])


@pytest.mark.parametrize("number", ["1e999", "-" + "9" * 1500, "0." + "1" * 1500, "18446744073709551616", "1E5"])
def test_a_number_that_nobody_can_read_is_one_all_the_same(number: str) -> None:
    assert tell(b'[{"a":%b}]' % number.encode(), Format.JSON).found[0].type is DataType.NUMERIC


@pytest.mark.parametrize("value", ["[1]", '{"b":1}', "[" * 400 + "]" * 400, '"\\u0000"', "null"])
def test_what_is_no_plain_value_makes_a_column_of_strings(value: str) -> None:
    (column,) = tell(b'[{"\\u0000":%b}]' % value.encode(), Format.JSON).found

    assert (column.name, column.type) == ("\0", DataType.STRING)


def test_no_more_than_the_first_rows_count() -> None:
    lines = b'{"a":1}\n' * FIRST_ROWS + b'{"a":"x"}\n'

    assert tell(lines, Format.NDJSON).found[0].type is DataType.NUMERIC
    assert tell(lines[8:], Format.NDJSON).found[0].type is DataType.STRING


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ('{"columns":{"a":{"role":"key"}},"data":[]}', ["a"]),
        ('\ufeff \n{ "columns" :\n{"a":null , "b" : {} } , "data" : [ ] }', ["a", "b"]),
        ('{"x":[1,{"columns":0}],"y":"\\"","columns":{"a":{}},"data":[{}]}', ["a"]),
        ('{"c\\u006flumns":{"a":{}},"data":[]}', ["a"]),
        ('{"data":[],"columns":{"a":{}}}', ["a"]),
        ('{"columns":null,"data":[]}', []),
        ('{"x":[,"columns":{"a":{}},"data":[]}', []),
        ('{"columns":{"a":{"role":"key"', []),
        ('{"x":' + "[" * 5000 + "]" * 5000 + ',"columns":{"a":{}}', []),
        ("{", []),
        ("{}", []),
        ("", []),
    ],
)
def test_a_file_declares_columns_in_front_of_its_rows(text: str, declared: list[str]) -> None:
    assert [column.name for column in tell(text.encode(), Format.JSON, wrapped=True).declared] == declared


@pytest.mark.parametrize("text", ['{"columns":[],"data":[]}', '{"columns":{"a":{"role":"boss"}},"data":[]}'])
def test_what_a_file_declares_and_cannot_be_is_a_fault(text: str) -> None:
    with pytest.raises(ColumnsFault):
        tell(text.encode(), Format.JSON, wrapped=True)


def test_bytes_that_are_no_text_do_not_keep_the_rest_from_being_read() -> None:
    told = tell(b'{"columns":{"\xff":{"role":"key"}},"data":[{"a":1}]}', Format.JSON, wrapped=True)

    assert [column.name for column in told.declared] == ["\ufffd"]
    assert [column.name for column in told.found] == ["a"]
