"""Stored rows as a dataset tells them."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.nexosis.cells import choose_names, read_cells, restrict, write_csv
from common.errors import Refusal
from common.model.collections import StoredEvent
from common.model.columns import Column, DataType


def cells(line: bytes, *columns: Column) -> dict[str, str | None]:
    (row,) = read_cells([StoredEvent("", datetime(2017, 1, 1, tzinfo=UTC), line)], columns)
    return row


@pytest.mark.parametrize(
    ("token", "cell"),
    [
        ('"a\\u00e9\\n"', "aé\n"),
        ("1.00", "1.00"),
        ("1e2", "1e2"),
        ("-0", "-0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("true", "true"),
        ("false", "false"),
        ('""', ""),
        ("null", None),
        ('{"a":  [1.0, null]}', '{"a":  [1.0, null]}'),
        ("[ ]", "[ ]"),
    ],
)
def test_a_cell_is_a_string_or_the_json_that_it_came_as(token: str, cell: str | None) -> None:
    assert cells(b'{ "c" : %b , "d":1}' % token.encode()) == {"c": cell, "d": "1"}


@pytest.mark.parametrize(
    ("token", "cell"),
    [
        ('"2017-01-01"', "2017-01-01T00:00:00.0000000Z"),
        ('"1/31/2017 5:30 PM"', "2017-01-31T17:30:00.0000000Z"),
        ('"2017-01-01T02:00:00.1234567+02:00"', "2017-01-01T00:00:00.1234560Z"),
        ('"0001-01-01"', "0001-01-01T00:00:00.0000000Z"),
        ('"soon"', "soon"),
        ('""', ""),
        ("null", None),
        ("1483228800", "1483228800"),
        ('{"a":1}', '{"a":1}'),
    ],
)
def test_dates_of_date_columns_are_told_in_one_form(token: str, cell: str | None) -> None:
    line = b'{"c":%b,"d":"2017-01-01"}' % token.encode()
    assert cells(line, Column("c", DataType.DATE), Column("d", DataType.STRING)) == {"c": cell, "d": "2017-01-01"}


@pytest.mark.parametrize(
    ("include", "chosen"),
    [
        ({"A", "b,c", "nothing"}, {"A", "b,c"}),
        ({"a"}, {"a"}),
        ({"SALES", "TIME"}, {"sales", "Time", "tIME"}),
        ({"Time"}, {"Time"}),
        (set(), set()),
    ],
)
def test_columns_are_chosen_as_they_are_spelt_and_else_in_letters_of_any_case(
    include: set[str], chosen: set[str]
) -> None:
    names = ["a", "A", "b,c", "b", "sales", "Time", "tIME"]
    assert choose_names(include, names) == chosen
    assert restrict([dict.fromkeys(names, "1")], chosen) == [{name: "1" for name in names if name in chosen}]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=2)
    ),
    max_leaves=4,
)
_rows = st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), _json, max_size=4), max_size=3)


@given(_rows)
def test_every_cell_of_every_row_is_a_string_or_null(rows: list[dict[str, Any]]) -> None:
    stored = [StoredEvent("", datetime(2017, 1, 1, tzinfo=UTC), json.dumps(row).encode()) for row in rows]
    found = read_cells(stored, [Column(name, DataType.DATE) for row in rows for name in row])
    assert [[*row] for row in found] == [[*row] for row in rows]
    for row, told in zip(rows, found, strict=True):
        for name, value in row.items():
            cell = told[name]
            if value is None or not isinstance(cell, str):
                assert value is cell is None
            elif not isinstance(value, str):
                assert json.loads(cell) == value


def test_csv_has_a_header_of_all_columns_and_quotes_what_it_has_to() -> None:
    rows: list[dict[str, str | None]] = [{"b": 'say "hi",\r\n', "a": None}, {"later": "1"}]
    assert write_csv(rows, ["a", "b"]) == 'a,b,later\r\n,"say ""hi"",\r\n",\r\n,,1\r\n'
    assert write_csv([], ["a"]) == "a\r\n"


def test_rows_that_make_each_other_too_wide_are_refused() -> None:
    rows = [{f"{row}.{name}": None for name in range(60)} for row in range(300)]
    with pytest.raises(Refusal) as refused:
        write_csv(rows, [])
    assert refused.value.code == "page_too_large"
    assert write_csv([], []) == "\r\n"


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
)
def test_csv_says_what_the_rows_say(rows: list[dict[str, str]]) -> None:
    text = write_csv(rows, ["a", "b", "c"])
    read = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    assert list(read) == [{name: row.get(name, "") for name in "abc"} for row in rows]
