"""Columns of tables: what is declared, what rows tell, and that what names rows stays once rows have come."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ledger.rows import columns_json, columns_of
from common.model.columns import (
    FIRST_ROWS,
    MOST_COLUMNS,
    TABLE_MAPPING,
    Aggregation,
    Column,
    Columns,
    ColumnsFault,
    DataType,
    Imputation,
    Role,
    agree,
    infer_columns,
    lay_over,
    read_columns,
    rules_of,
    with_defaults,
)
from common.model.mapping import Mapping
from common.model.times import parse_any_time

NAMING = {Role.KEY, Role.TIMESTAMP}

names = st.sampled_from(["a", "b", "c", "d"])
types = st.none() | st.sampled_from(DataType)
words = st.builds(
    lambda kind, role, imputation, aggregation: {
        "dataType": kind, "role": role, "imputation": imputation, "aggregation": aggregation,
    },
    types, st.none() | st.sampled_from(Role), st.none() | st.sampled_from(Imputation),
    st.none() | st.sampled_from(Aggregation),
)  # fmt: skip


@st.composite
def declarations(draw: st.DrawFn) -> Columns:
    """Draw what a caller may declare: nearly anything that is not refused."""
    said = draw(st.dictionaries(names, words, max_size=4))
    for _ in said:
        try:
            return read_columns(said)
        except ColumnsFault as fault:
            for name in fault.faults:
                said[name] = {"dataType": said[name]["dataType"]}
    return read_columns(said)


values = st.sampled_from(["", "x", "2017-01-01", "1/2/2017", "5", "-1.5e3", "1", "0", "yes", "No", "true", 7, 1.5, True,
                          None, [], {}])  # fmt: skip
rows = st.lists(st.dictionaries(names, values), max_size=5)
found = rows.map(infer_columns)


def named(columns: Columns, role: Role) -> list[str]:
    return [column.name for column in columns if column.role is role]


def one(columns: Columns, name: str) -> Column:
    (column,) = (column for column in columns if column.name == name)
    return column


# --- what is declared -----------------------------------------------------------------------------------------------


@given(declarations())
def test_what_was_read_reads_as_the_same_in_letters_of_any_case(columns: Columns) -> None:
    said = {
        column.name: {
            "DATATYPE": column.type and column.type.upper(),
            "role": column.role and column.role.title(),
            "Imputation": column.imputation or "",
            "aggregation": column.aggregation,
        }
        for column in columns
    }

    assert read_columns(said) == columns


@given(declarations() | found)
def test_columns_come_back_from_where_they_are_stored(columns: Columns) -> None:
    stored = columns_json(columns)

    assert stored is not None
    assert columns_of(json.loads(stored)) == columns
    assert columns_of(None) is columns_json(None) is None


@pytest.mark.parametrize("said", [None, {}, {"a": None}, {"a": {}}, {"a": {"role": "", "imputation": None}}])
def test_nothing_said_is_nothing_declared(said: Any) -> None:
    assert read_columns(said) == tuple(map(Column, said or {}))


@pytest.mark.parametrize(
    ("said", "where", "why"),
    [
        ([], "columns", "an object"),
        ("text", "columns", "an object"),
        ({"a": "date"}, "a", "an object"),
        ({"a": {"dataType": "dates"}}, "a", "dataType is none of string,"),
        ({"a": {"role": 1}}, "a", "role is none of none, timestamp"),
        ({"a": {"imputation": []}}, "a", "imputation"),
        ({"a": {"aggregation": True}}, "a", "aggregation"),
        ({"a": {"role": "timestamp", "dataType": "string"}}, "a", "Timestamp columns must have data type Date"),
        ({"a": {"role": "target", "dataType": "text"}}, "a", "Target columns must have data type Numeric"),
        ({"a": {"dataType": "text", "imputation": "mode"}}, "a", "Text columns"),
        ({"a": {"role": "key"}, "b": {"role": "KEY"}}, "b", "only one column whose role is key"),
        ({"a": {"role": "timestamp"}, "b": {"role": "timestamp"}}, "b", "only one column whose role is timestamp"),
        (dict.fromkeys(map(str, range(MOST_COLUMNS + 1))), "columns", "more than 10000"),
    ],
)
def test_what_cannot_be_is_refused_by_its_column(said: Any, where: str, why: str) -> None:
    with pytest.raises(ColumnsFault) as caught:
        read_columns(said)

    (sentences,) = [texts for name, texts in caught.value.faults.items() if name == where]
    assert why in " ".join(sentences)
    assert list(caught.value.faults) == [where]


def test_a_timestamp_is_a_date_without_saying_so() -> None:
    assert read_columns({"a": {"role": "timestamp"}}) == (Column("a", DataType.DATE, Role.TIMESTAMP),)


def test_as_many_columns_as_may_be_with_a_fault_each_are_told_of_in_few_words_and_soon() -> None:
    with pytest.raises(ColumnsFault) as caught:
        read_columns({f"{n}": {"role": "key"} for n in range(MOST_COLUMNS)})

    assert len(caught.value.faults) == 10
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["\0", "\ud800", "x" * 10**6])
def test_what_is_told_of_a_fault_can_be_stored_whatever_the_name(name: str) -> None:
    mapping = replace(TABLE_MAPPING, time_names=(name,), id_is_time=True)
    stored = (Column(name, DataType.DATE, Role.TIMESTAMP),)
    for declared in ((Column(name, None, Role.KEY),), (Column("b", None, Role.TIMESTAMP),)):
        with pytest.raises(ColumnsFault) as caught:
            agree(mapping, stored, declared, ())

        told = str(caught.value) + json.dumps(caught.value.faults, ensure_ascii=False)
        assert "\0" not in told
        assert len(told.encode()) < 2000


# --- what the first rows tell -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (["1", "-2.5", "+.5e3", "4.", ""], DataType.NUMERIC),
        ([1, 2.5, None], DataType.NUMERIC),
        (["20170101", "20170102"], DataType.NUMERIC),
        (["true", "FALSE"], DataType.LOGICAL),
        (["On", "off", ""], DataType.LOGICAL),
        (["yes", "NO"], DataType.LOGICAL),
        ([True, False], DataType.LOGICAL),
        (["yes", "off"], DataType.STRING),
        (["2017-01-01", "1/2/2017 5:30 PM", "2017-01-01T00:00:00.000Z"], DataType.DATE),
        (["2017-01-01", "soon"], DataType.STRING),
        (["2017-02-30"], DataType.STRING),
        (["1", "x"], DataType.STRING),
        (["1,5"], DataType.STRING),
        (["NaN"], DataType.STRING),
        (["\u0661"], DataType.STRING),
        (["", None], DataType.STRING),
        ([True, "true"], DataType.STRING),
        ([1, [2]], DataType.STRING),
        ([{}], DataType.STRING),
    ],
)
def test_a_column_is_what_all_its_values_are(held: list[Any], kind: DataType) -> None:
    (column,) = infer_columns([{"a": value} for value in held])

    assert column.type is kind


def test_what_is_0_or_1_is_a_number_that_is_not_summed_up() -> None:
    (column,) = infer_columns([{"a": "0"}, {"a": "1"}])

    assert column == Column("a", DataType.NUMERIC, Role.TARGET, Imputation.MODE, Aggregation.MODE)


@pytest.mark.parametrize(
    ("held", "role"),
    [
        (["2017-01-01", "2017-01-02"], Role.TIMESTAMP),
        (["2017-01-01", "1/1/2017"], Role.FEATURE),
        (["2017-01-01", ""], Role.FEATURE),
        (["2017-01-01", 20170102], Role.FEATURE),
    ],
)
def test_a_date_is_the_timestamp_where_each_row_has_another_moment(held: list[Any], role: Role) -> None:
    assert one(infer_columns([{"a": value, "b": "x"} for value in held]), "a").role is role


def test_of_two_dates_or_two_numbers_none_has_a_role_of_its_own() -> None:
    columns = infer_columns([{"a": "2017-01-01", "b": "2017-01-02", "c": 1, "d": 2}])

    assert {column.role for column in columns} == {Role.FEATURE}


@given(rows)
def test_every_column_of_the_rows_is_there_once_in_the_order_in_which_they_come_up(drawn: list[dict[str, Any]]) -> None:
    columns = infer_columns(drawn)

    assert [column.name for column in columns] == list(dict.fromkeys(name for row in drawn for name in row))
    assert all(column.type and column.role for column in columns)
    assert len(named(columns, Role.TIMESTAMP)) <= 1
    assert not named(columns, Role.KEY)


def test_no_more_than_the_first_rows_and_so_many_columns_are_looked_at() -> None:
    columns = infer_columns({"a": "1"} if n < FIRST_ROWS else {"b": "x"} for n in range(FIRST_ROWS + 1))
    many = infer_columns([{f"{n}": 1 for n in range(MOST_COLUMNS + 1)}, {"0": "x"}])

    assert [(column.name, column.type) for column in columns] == [("a", DataType.NUMERIC)]
    assert len(many) == MOST_COLUMNS
    assert many[0].type is DataType.STRING


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2017-01-31", datetime(2017, 1, 31, tzinfo=UTC)),
        ("2017-01-31T17:30:00+01:00", datetime(2017, 1, 31, 16, 30, tzinfo=UTC)),
        ("1/31/2017", datetime(2017, 1, 31, tzinfo=UTC)),
        ("01-31-2017 5:30 PM", datetime(2017, 1, 31, 17, 30, tzinfo=UTC)),
        ("31/1/2017", None),
        ("", None),
        ("2017", None),
    ],
)
def test_a_moment_is_read_as_it_is_written_anywhere(text: str, moment: datetime | None) -> None:
    assert parse_any_time(text) == (None if moment is None else round(moment.timestamp() * 1_000_000))


# --- what they come to -----------------------------------------------------------------------------------------------


@given(declarations(), found)
def test_agreeing_again_changes_nothing(declared: Columns, seen: Columns) -> None:
    columns, mapping = agree(TABLE_MAPPING, None, declared, seen)

    assert agree(mapping, columns, declared, seen) == (columns, mapping)
    assert agree(mapping, columns, (), ()) == (columns, mapping)


@given(declarations(), found)
def test_what_is_declared_is_what_is_agreed(declared: Columns, seen: Columns) -> None:
    columns, mapping = agree(TABLE_MAPPING, None, declared, seen)

    assert [column.name for column in columns] == list(dict.fromkeys(column.name for column in (*declared, *seen)))
    for said in declared:
        agreed = one(columns, said.name)
        for word in ("type", "role", "imputation", "aggregation"):
            assert getattr(said, word) in (None, getattr(agreed, word))
    assert mapping.id_names == tuple(named(columns, Role.KEY))
    assert mapping.time_names == tuple(named(columns, Role.TIMESTAMP))
    assert mapping.id_is_time == (not mapping.id_names and bool(mapping.time_names))


@given(declarations(), found)
def test_what_is_agreed_could_have_been_declared(declared: Columns, seen: Columns) -> None:
    """Callers send back what they were told. (A target whose values are no numbers is one since somebody said so.)"""
    columns, _ = agree(TABLE_MAPPING, None, declared, seen)
    told = [(column.name, column.type, column.role) for column in columns if column.role is not Role.TARGET]
    read = read_columns({name: {"dataType": kind, "role": role} for name, kind, role in told})

    assert [(column.name, column.type, column.role) for column in read] == told


@given(declarations(), found, st.lists(st.tuples(declarations(), found), max_size=3))
def test_what_names_rows_never_changes_once_rows_came(
    declared: Columns, seen: Columns, later: list[tuple[Columns, Columns]]
) -> None:
    columns, first = agree(TABLE_MAPPING, None, declared, seen)
    roles = {column.name: column.role for column in columns if column.role in NAMING}
    for more, other in later:
        try:
            columns, mapping = agree(first, columns, more, other)
        except ColumnsFault:
            continue
        assert mapping == first
        assert {column.name: column.role for column in columns if column.role in NAMING} == roles


naming = st.dictionaries(st.sampled_from([Role.KEY, Role.TIMESTAMP]), names, min_size=1).map(
    lambda drawn: read_columns({name: {"role": role} for role, name in drawn.items()})
)


@given(st.lists(st.tuples(naming, found), min_size=2, max_size=3))
def test_imports_that_say_what_names_their_rows_end_the_same_in_any_order_or_one_fails(
    imports: list[tuple[Columns, Columns]],
) -> None:
    ends = []
    for order in permutations(imports):
        columns, mapping = None, TABLE_MAPPING
        try:
            for declared, seen in order:
                columns, mapping = agree(mapping, columns, declared, seen)
        except ColumnsFault:
            continue
        ends.append(mapping)

    assert all(end == ends[0] for end in ends)


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"a": {"role": "key", "dataType": "string"}}, "specified as the key for the dataset, and so its data type"),
        ({"a": {"role": "feature"}}, "It is the key of the table, and so its role cannot be changed."),
        ({"b": {"role": "key"}}, "It cannot become the key: the table's rows have theirs in column 'a'."),
        ({"b": {"role": "timestamp"}}, "It cannot become the timestamp: the table's rows have theirs in no column."),
    ],
)
def test_who_would_name_stored_rows_anew_is_told_why_not(declared: dict[str, Any], why: str) -> None:
    columns, mapping = agree(TABLE_MAPPING, None, read_columns({"a": {"role": "key", "dataType": "numeric"}}), ())
    with pytest.raises(ColumnsFault, match=r"^Column '[ab]' was supplied with invalid metadata\. ") as caught:
        agree(mapping, columns, read_columns(declared), ())

    assert why in str(caught.value)


def test_a_guess_gives_way_to_what_is_declared_of_the_type_or_of_another_column() -> None:
    seen = infer_columns([{"day": "2017-01-01", "n": "5", "x": "y"}])
    for said, role in (
        ({}, Role.TIMESTAMP),
        ({"day": {"dataType": "date"}}, Role.TIMESTAMP),
        ({"day": {"dataType": "string"}}, Role.FEATURE),
        ({"x": {"role": "key"}}, Role.FEATURE),
        ({"day": {"role": "none"}}, Role.NONE),
    ):
        columns, mapping = agree(TABLE_MAPPING, None, read_columns(said), seen)
        assert one(columns, "day").role is role
        assert mapping.id_is_time == (role is Role.TIMESTAMP)


def test_what_is_declared_in_other_letters_is_meant_of_the_column_that_there_is() -> None:
    declared = read_columns({"DAY": {"role": "timestamp"}, "Sum": {"dataType": "numeric"}, "gone": None})
    found = infer_columns([{"day": "2017-01-01", "sum": "1", "SUM": "2"}])
    columns, mapping = agree(TABLE_MAPPING, None, declared, found)
    assert mapping.time_names == ("day",)
    # Of two that only letters tell apart neither is meant.
    assert [column.name for column in columns] == ["day", "Sum", "gone", "sum", "SUM"]
    assert agree(mapping, columns, declared, found) == (columns, mapping)


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "é" * 513, "x" * 1025])
def test_a_name_that_cannot_be_stored_and_told_is_refused_and_not_found(name: str) -> None:
    with pytest.raises(ColumnsFault, match="no valid Unicode"):
        read_columns({name: None})
    assert [column.name for column in infer_columns([{name: "1", "b": "2"}])] == ["b"]


def test_a_column_whose_name_is_declared_exactly_is_not_another_ones() -> None:
    declared = read_columns({"Day": {"dataType": "string"}, "day": {"dataType": "date", "role": "timestamp"}})
    columns, _ = agree(TABLE_MAPPING, None, declared, infer_columns([{"day": "2017-01-01"}]))
    assert {column.name: column.type for column in columns} == {"Day": DataType.STRING, "day": DataType.DATE}


def test_the_rows_of_other_wires_keep_the_names_that_they_have() -> None:
    mapping = Mapping(("id",), ("at",))
    columns, same = agree(mapping, None, (), infer_columns([{"id": "2017-01-01", "n": 1}]))

    assert same == mapping
    assert {column.role for column in columns} == {Role.FEATURE}


@given(declarations(), found)
def test_the_rules_ask_for_what_names_rows_and_for_nothing_else(declared: Columns, seen: Columns) -> None:
    columns, mapping = agree(TABLE_MAPPING, None, declared, seen)
    rules = rules_of(columns)

    assert rules.required == tuple((name,) for name in (*mapping.id_names, *mapping.time_names))
    assert rules.digits_are_text


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        (DataType.NUMERIC, (Imputation.ZEROES, Aggregation.SUM)),
        (DataType.NUMERIC_MEASURE, (Imputation.MEAN, Aggregation.MEAN)),
        (DataType.STRING, (Imputation.MODE, Aggregation.MODE)),
        (DataType.LOGICAL, (Imputation.MODE, Aggregation.MODE)),
        (DataType.DATE, (None, None)),
        (DataType.TEXT, (None, None)),
        (None, (None, None)),
    ],
)
def test_defaults_fill_in_what_nobody_said(
    kind: DataType | None, defaults: tuple[Imputation | None, Aggregation | None]
) -> None:
    filled = with_defaults(Column("a", kind))

    assert (filled.imputation, filled.aggregation) == defaults
    said = Column("a", kind, None, Imputation.MAX, Aggregation.MIN)
    assert with_defaults(said) == said


@given(declarations())
def test_columns_are_equal_as_they_are_stored(columns: Columns) -> None:
    assert msgspec.convert(msgspec.to_builtins(columns), Columns) == columns


@given(declarations(), declarations())
def test_what_a_request_declares_is_over_what_its_file_declares(request: Columns, file: Columns) -> None:
    both = lay_over(request, file)

    assert [column.name for column in both] == list(dict.fromkeys(column.name for column in (*request, *file)))
    for said in request:
        for word in ("type", "role", "imputation", "aggregation"):
            assert getattr(said, word) in (None, getattr(one(both, said.name), word))
    for role in NAMING:
        assert named(both, role) == (named(request, role) or named(both, role))[:1]
    assert lay_over(request, both) == both == lay_over(both, ())
    assert lay_over((), file) == file
    # Nothing comes of it that could not have been declared at once, but for a target without a type of its own.
    naming = [column for column in both if column.role in NAMING]
    assert read_columns({c.name: {"dataType": c.type, "role": c.role} for c in naming}) == tuple(
        Column(c.name, c.type, c.role) for c in naming
    )
