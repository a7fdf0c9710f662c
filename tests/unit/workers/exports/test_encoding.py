"""Rows of the store become the lines that were meant, whatever blocks they come in."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from io import StringIO
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Terminal
from common.model.exports import MOST_COLUMNS, Destination, ExportSpec, Fill
from common.model.formats import Format
from common.model.query import EVERYTHING, Query, parse_query
from workers.exports.encoding import Columns, Completed, Encoder, Plain, Table, encoder_of

ASKED = parse_query({"filter": {"a": {"exists": True}}}, now=datetime(2024, 1, 1, tzinfo=UTC))
NO_FILL, FILL = Fill(), Fill("id", "time")
EVENT_ID, TIME = "00000000-0000-4000-8000-000000000001", "2024-01-01T00:00:00.000Z"

#: Values as they are spelt, and the cell of each.
CELLS = {
    "25.00": "25.00",
    "1e2": "1e2",
    "123456789012345678901234567890": "123456789012345678901234567890",
    "null": "",
    "true": "true",
    '""': "",
    '"a,b"': "a,b",
    '"a\\"b\\\\"': 'a"b\\',
    '"a\\nb"': "a\nb",
    '"a\\rb"': "a\rb",
    '"\\u0000"': "\0",
    '"\\u00e9☃"': "é☃",
    '"\\ud83d\\ude00"': "\U0001f600",
    '{"b":{"c":1}}': '{"b":{"c":1}}',
    '{"b"\r:\t"x"}': '{"b"\r:\t"x"}',
    '[1, "\\r"]': '[1, "\\r"]',
}
NAMES = ["a", "b", "a.b", "é", 'q"', "a,b", "c\rd", "", "id", "time"]


class Stored(NamedTuple):
    """A row of the store."""

    members: list[tuple[str, str]]
    payload: bytes

    @property
    def odd(self) -> bool:
        return b"\\u0000" in self.payload


@st.composite
def stored(draw: st.DrawFn) -> Stored:
    members = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([*CELLS])), max_size=4))
    blank = draw(st.sampled_from(["", "", " ", "\t", "\r", " \r\t"]))
    inner = f"{blank},".join(f"{blank}{json.dumps(name)}{blank}:{blank}{value}" for name, value in members)
    outer = draw(st.sampled_from(["", " "]))
    return Stored(members, f"{outer}{{{inner}{blank}}}{outer}".encode())


def copied(row: Stored, *, marked: bool, filled: bool) -> bytes:
    """Return the row as COPY gives it."""
    payload = b"\x01%b\x01" % row.payload if b"\r" in row.payload else row.payload
    mark = b"t" if row.odd else b""
    columns = [payload, *([mark] if marked or filled else []), *([EVENT_ID.encode(), TIME.encode()] if filled else [])]
    return b"\x02".join(columns) + b"\n"


def meant(rows: Iterable[Stored], query: Query) -> list[Stored]:
    """Return those that are left: Postgres has judged all but the odd ones."""
    return [row for row in rows if not query.conditions or not row.odd or query.matches(row.payload)]


def spec_of(query: Query, *, fill: Fill = NO_FILL, form: Format = Format.NDJSON) -> ExportSpec:
    return ExportSpec("events", Destination("bucket", ""), query=query, fill=fill, format=form)


rows = st.lists(stored(), max_size=8)
queries = st.sampled_from([EVERYTHING, ASKED])


@given(rows, queries)
def test_lines_are_the_payloads_of_the_events_that_are_meant(drawn: list[Stored], query: Query) -> None:
    given_rows = b"".join(copied(row, marked=bool(query.conditions), filled=False) for row in drawn)

    encoded = Plain(query).encode(given_rows)

    wanted = meant(drawn, query)
    assert encoded == (b"".join(row.payload + b"\n" for row in wanted), len(wanted))


@given(rows, queries)
def test_a_line_with_a_fill_has_an_id_and_a_time_and_is_otherwise_as_it_was(drawn: list[Stored], query: Query) -> None:
    given_rows = b"".join(copied(row, marked=True, filled=True) for row in drawn)

    data, events = Completed(spec_of(query, fill=FILL)).encode(given_rows)

    wanted = meant(drawn, query)
    lines = data.split(b"\n")[:-1]
    assert len(lines) == events == len(wanted)
    for line, row in zip(lines, wanted, strict=True):
        held = json.loads(row.payload)
        lacked = {name: value for name, value in (("id", EVENT_ID), ("time", TIME)) if held.get(name) is None}
        assert json.loads(line) == held | lacked
        assert line == row.payload if not lacked else line.startswith(row.payload[: row.payload.rindex(b"}")])


def cells(row: Stored) -> dict[str, str]:
    return {name: CELLS[value] for name, value in row.members}


def records(text: bytes) -> list[list[str]]:
    return [*csv.reader(StringIO(text.decode(), newline=""), strict=True)]


@given(rows, queries)
def test_a_table_holds_a_cell_for_each_column_that_is_found(drawn: list[Stored], query: Query) -> None:
    given_rows = b"".join(copied(row, marked=bool(query.conditions), filled=False) for row in drawn)
    wanted = meant(drawn, query)
    columns = Columns(spec_of(query, form=Format.CSV))
    columns.look(given_rows)
    names = sorted({name for row in wanted for name, _ in row.members})
    assert columns.paths() == [(name,) for name in names]

    table = Table(Plain(query), columns.paths())
    data, events = table.encode(given_rows)

    assert events == len(wanted)
    if names:  # a record of no cells is an empty line, which a reader of CSV leaves out
        assert records(table.head() + data) == [names, *([cells(row).get(one, "") for one in names] for row in wanted)]


@given(rows)
def test_a_dotted_column_descends_into_objects_and_into_nothing_else(drawn: list[Stored]) -> None:
    paths = [("a", "b"), ("a", "b", "c"), ("a.b",), ("b", "none")]

    data, _ = Table(Plain(EVERYTHING), paths).encode(b"".join(copied(row, marked=False, filled=False) for row in drawn))

    def reached(row: Stored, path: tuple[str, ...]) -> str:
        value: Any = json.loads(row.payload)
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, str) else ""

    found = records(data)
    assert len(found) == len(drawn)
    for record, row in zip(found, drawn, strict=True):
        held = dict(row.members).get("a", "")
        deeper = held.startswith('{"b":')
        assert record[0] == ('{"c":1}' if deeper else reached(row, paths[0]))
        assert record[1] == ("1" if deeper else "")
        assert record[2] == cells(row).get("a.b", "")
        assert record[3] == ""


@given(rows, st.data(), queries, st.sampled_from([NO_FILL, FILL]), st.sampled_from([*Format]))
def test_blocks_cut_between_any_rows_give_the_same_bytes(
    drawn: list[Stored], data: st.DataObject, query: Query, fill: Fill, form: Format
) -> None:
    spec = spec_of(query, fill=fill, form=form)
    each = [copied(row, marked=bool(query.conditions), filled=bool(fill)) for row in drawn]
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(each)), max_size=4))), len(each)]
    blocks = [b"".join(each[start:end]) for start, end in pairwise(cuts) if end > start]

    at_once, cut = encoder_of(spec, [("a",), ("b",)]), encoder_of(spec, [("a",), ("b",)])

    whole = at_once.encode(b"".join(each)) if each else (b"", 0)
    parts = [cut.encode(block) for block in blocks]
    assert (b"".join(part.data for part in parts), sum(part.events for part in parts)) == whole
    found, found_cut = Columns(spec), Columns(spec)
    if each:
        found.look(b"".join(each))
    for block in blocks:
        found_cut.look(block)
    assert found.paths() == found_cut.paths()


def test_more_columns_than_a_table_may_have_end_the_export() -> None:
    def event(first: int, last: int) -> bytes:
        return json.dumps({str(number): 0 for number in range(first, last)}).encode() + b"\n"

    columns = Columns(spec_of(EVERYTHING, form=Format.CSV))
    columns.look(event(0, 600))
    columns.look(event(400, MOST_COLUMNS))
    assert len(columns.paths()) == MOST_COLUMNS

    with pytest.raises(Terminal) as failed:
        columns.look(event(MOST_COLUMNS, MOST_COLUMNS + 1))
    assert failed.value.code == "too_many_columns"


@pytest.mark.parametrize("form", Format)
def test_lines_have_no_head_and_a_table_has_its_columns(form: Format) -> None:
    encoder: Encoder = encoder_of(spec_of(EVERYTHING, form=form), [("a", "b"), ("c,d",)])

    wanted = b'a.b,"c,d"\r\n' if form is Format.CSV else b""

    assert encoder.head() == wanted
    assert not re.search(rb"[^\r]\n", encoder.head())
