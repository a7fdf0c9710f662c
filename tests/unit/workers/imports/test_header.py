"""The header: what it makes of rows, and that one which makes nothing sensible of them is refused by name."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SourceFailed
from common.model.mapping import ColumnType, Mapping
from workers.imports.header import HEADER_BYTES, NAME_BYTES, lay_out, read_header

PLAIN = Mapping()


def read(header: bytes, mapping: Mapping = PLAIN, *, whole: bool = True) -> tuple[str, ...]:
    return read_header(header, mapping, whole=whole)


def reason(header: bytes, mapping: Mapping = PLAIN, *, whole: bool = True) -> str:
    with pytest.raises(SourceFailed) as failed:
        read(header, mapping, whole=whole)
    assert failed.value.code == "invalid_header"
    assert len(failed.value.public) < 600
    return failed.value.public


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (b"a,b", ("a", "b")),
        (b"a,b\r\n1,2", ("a", "b")),
        (b"\xef\xbb\xbfa,b\n", ("a", "b")),
        (b'\xef\xbb\xbf"a",b\n', ("a", "b")),
        (b'"a,b","c""d"\n', ("a,b", 'c"d')),
        (b'"a\nb",c\nd', ("a\nb", "c")),
        (b" a ,\tb\n", (" a ", "\tb")),
        ("é,\ufeff\n".encode(), ("é", "\ufeff")),
        (b"Location.Country,Location.City,x,x", ("Location.Country", "Location.City", "x", "x")),
    ],
)
def test_the_header_is_the_first_record(header: bytes, names: tuple[str, ...]) -> None:
    assert read(header) == names


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "first line is blank"),
        (b"\n\na,b", "first line is blank"),
        (b" \t\r\na", "first line is blank"),
        (b"a,\xff\n", "not UTF-8"),
        (b"a,,b\n", "column 2 ('') has no name"),
        (b"a,b,\n", "column 3 ('') has no name"),
        (b'""\n', "column 1 ('') has no name"),
        (b"a,.b\n", "column 2 ('.b') has nothing before"),
        (b"a.,b\n", "column 1 ('a.') has nothing before"),
        (b"a..b\n", "column 1 ('a..b') has nothing before"),
        (b"a,a.b\n", "column 2 ('a.b') lies inside column 1 ('a'), which is a value itself"),
        (b"x,a.b.c,a.b\n", "column 2 ('a.b.c') lies inside column 3 ('a.b'), which is a value itself"),
        (b'a"b,c\n', "a quote stands inside a name"),
        (b'"a"b,c\n', "a quote stands inside a name"),
        (b"a\rb,c\n", "carriage return stands outside quotes"),
        (b"a,b\r1,2\r3,4\r", "carriage return stands outside quotes"),
        (b"a,b\r\r\n1,2", "carriage return stands outside quotes"),
        (b'a,"b\n1,2\n', "a quote in it is not closed"),
        (b"x" * 61 + b".", "('" + "x" * 60 + "'...) has nothing before"),
        (b",".join(b"a%d" % at + b".a" * 499 for at in range(263)), "more than 131,072 levels in sum"),
        (b"a" * (NAME_BYTES + 1), "longer than 1,024 bytes"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_used_is_refused_by_name(header: bytes, words: str) -> None:
    assert words in reason(header)


def test_a_line_break_in_a_name_needs_leave() -> None:
    lines = Mapping(quoted_line_breaks=False)

    assert "not closed on its line" in reason(b'"a\nb",c\n', lines)
    assert read(b'"a",c\n1,2\n', lines) == ("a", "c")


def test_a_column_that_the_mapping_names_is_one_value() -> None:
    mapping = Mapping(id_names=("id",), time_names=("at",), types=(("m.n", ColumnType.NUMBER),))

    assert "column 3 ('id') is there twice" in reason(b"id,x,id\n", mapping)
    assert "column 1 ('at.x') lies inside 'at'" in reason(b"at.x,y\n", mapping)
    assert "column 2 ('m.n') is there twice" in reason(b"m.n,m.n\n", mapping)
    assert "column 1 ('m.n.o') lies inside 'm.n'" in reason(b"m.n.o\n", mapping)
    assert read(b"x,x,y.id,y.id,m.o,m.n,id\n", mapping)[-1] == "id"


FLAT = Mapping(id_names=("k.a",), time_names=("at",), dots_nest=False)


@pytest.mark.parametrize("header", [b"a,,b,", b'""', b"a.,.a,a..b,.", b"a,a.b,a", b"a." * 512, b"k,k.a.b,at."])
def test_where_dots_do_not_nest_every_name_is_one_member(header: bytes) -> None:
    names = read(header, FLAT)
    form = lay_out(names, dots_nest=False)

    assert list(json.loads(form.template % ((b"1",) * len(names)))) == list(dict.fromkeys(names))


def test_where_dots_do_not_nest_a_name_may_be_too_long_and_what_names_rows_is_one_value_all_the_same() -> None:
    assert "longer than 1,024 bytes" in reason(b"a" * (NAME_BYTES + 1), FLAT)
    assert "column 3 ('k.a') is there twice" in reason(b"k.a,x,k.a\n", FLAT)
    assert "column 2 ('at') is there twice" in reason(b"at,at\n", FLAT)
    assert "first line is blank" in reason(b"\n", FLAT)


def test_512_levels_are_taken_and_one_more_is_not() -> None:
    deepest = ".".join("a" * 512)
    form = lay_out(read(deepest.encode()))

    assert form.template == b'{"a":' * 512 + b"%b" + b"}" * 512
    assert "more deeply than 512" in reason(f"{deepest},{deepest}".encode())
    assert "more deeply than 512" in reason(deepest.encode() + b".a")


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b"\r\n1,2\n", b""])
def test_a_header_up_to_the_limit_is_taken_if_its_end_is_there(tail: bytes) -> None:
    header = b",".join(b"%0100d" % at for at in range(HEADER_BYTES // 101 + 1))[:HEADER_BYTES]
    whole = b"\xef\xbb\xbf" + header + tail
    sample = whole[: HEADER_BYTES + 5]

    assert len(read(sample, whole=sample == whole)) == HEADER_BYTES // 101 + 1
    assert "does not end within 1,048,576 bytes" in reason(b"\xef\xbb\xbf" + header + b"x" + tail)


def test_a_header_whose_end_is_not_in_the_sample_is_refused() -> None:
    assert "does not end within 3 bytes" in reason(b"a,b", whole=False)
    assert read(b"a,b\n", whole=False) == ("a", "b")
    assert "does not end within 6 bytes" in reason(b'a,"b\nc', whole=False)


names = st.lists(
    st.sampled_from(["a", "b", "a.x", "a.y", "b.x.y", "b.x.z", "c", "c", "%b", 'q"', "é", "%", "{}", "\x00"]),
    min_size=1,
    max_size=8,
)


@given(names)
def test_the_form_holds_every_cell_once_where_its_name_says(columns: list[str]) -> None:
    written = io.StringIO()
    csv.writer(written).writerow(columns)
    try:
        assert read(written.getvalue().encode()) == tuple(columns)
        form = lay_out(columns)
    except SourceFailed:
        assert any(f"{one}." in other for one in columns for other in columns)
        return

    row = json.loads(form.template % tuple(b"%d" % at for at in form.columns))
    for name in columns:
        inner: Any = row
        for level in name.split("."):
            inner = inner[level]
        places = [at for at, other in enumerate(columns) if other == name]
        assert inner == (places if len(places) > 1 else places[0])
    assert sorted(form.columns) == list(range(len(columns)))


@pytest.mark.parametrize("name", ["{at}", "a.{at}.b", "a{at}" + ".a" * 500])
def test_no_header_takes_long(name: str) -> None:
    columns = min(HEADER_BYTES // (len(name) + 5), 130_000 // (name.count(".") + 1))
    header = ",".join(name.format(at=at) for at in range(columns))
    started = time.perf_counter()
    form = lay_out(read(header.encode()))

    assert time.perf_counter() - started < 4
    assert len(form.columns) == header.count(",") + 1
