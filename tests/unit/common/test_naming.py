"""Names of members: what a walk through the object would say is what the search through its bytes says."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.rejects import RejectCode
from common.model.rules import NameRules
from common.naming import NameJudge

RULES = NameRules(longest=9, periods=False, reserved=("_id", "né"), reserved_prefixes=("tp_", "T_"))


# --- an oracle that shares nothing with the judge -----------------------------------------------------------


def names_in(value: Any) -> list[str]:
    """Return the names of a value in the order in which they stand; objects are pairs."""
    if isinstance(value, tuple):
        return [found for name, member in value for found in (name, *names_in(member))]
    return [name for one in value for name in names_in(one)] if isinstance(value, list) else []


def expected(line: bytes, rules: NameRules) -> RejectCode | None:
    """Say the rules over again, on a walk through what the standard library reads."""
    value = json.loads(line, object_pairs_hook=tuple)
    for name in names_in(value):
        if "." in name and not rules.periods:
            return RejectCode.INVALID_NAME
        if len(name) > rules.longest:
            return RejectCode.NAME_TOO_LONG
    small = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})
    for name, _ in value:
        for prefix in rules.reserved_prefixes:
            if name[: len(prefix)].translate(small) == prefix.translate(small):
                return RejectCode.RESERVED_PREFIX
        if name in rules.reserved:
            return RejectCode.RESERVED_NAME
    return None


# --- material -----------------------------------------------------------------------------------------------

texts = st.sampled_from(
    ["a", "tp_a", "TP_", "xtp_", "_id", "_ID", "né", "t_", "a.b", ".", 'q"', '":', '\\".', "\\", "", "a" * 9,
     "a" * 10, "é" * 9, "é" * 10, "😀" * 9, "😀" * 10, "a/b", "x" * 40, "tp_" + "x" * 40, "1.5", "\u212a", "{", "]",
     "\n"]
)  # fmt: skip
spaces = st.sampled_from(["", "", " ", "\t\r "])


@st.composite
def tokens(draw: st.DrawFn) -> str:
    """Draw a string of JSON, with escapes where none are needed."""
    written = json.dumps(draw(texts), ensure_ascii=draw(st.booleans()))
    if "\\" in written or not draw(st.booleans()):
        return written
    inner = [f"\\u{ord(one):04x}" if ord(one) < 1 << 16 and draw(st.booleans()) else one for one in written[1:-1]]
    return '"' + "".join(inner) + '"'


def in_object(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.builds("{}{}{}:{}{}".format, spaces, tokens(), spaces, spaces, values)
    return st.lists(members, max_size=4).map(lambda drawn: "{" + ",".join(drawn) + "}")


scalars = tokens() | st.sampled_from(["1", "2.50", "-1e5", "null", "true", "[]", "{}"])
values = st.recursive(
    scalars,
    lambda inner: in_object(inner) | st.lists(inner, max_size=4).map(lambda drawn: "[" + ", ".join(drawn) + "]"),
    max_leaves=6,
)
lines = in_object(values).map(str.encode)
rules = st.builds(
    NameRules,
    longest=st.sampled_from([2, 9, 38, 255]),
    periods=st.booleans(),
    reserved=st.sampled_from([(), ("_id",), ("né", "a"), ('q"',), ("a/b", "\n")]),
    reserved_prefixes=st.sampled_from([(), ("tp_",), ("T_", "tp_"), ("é",), ("k",)]),
)


@given(rules, st.lists(lines, min_size=1, max_size=4))
@settings(max_examples=150)
def test_names_are_judged_as_a_walk_through_the_object_would_alone_and_together(
    asked: NameRules, found: list[bytes]
) -> None:
    judge = NameJudge(asked)
    verdicts = [expected(line, asked) for line in found]

    assert [judge.judge(line) for line in found] == verdicts
    assert judge.breaks(found, b"\n".join(found)) == any(verdicts)


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"longer_name", RejectCode.NAME_TOO_LONG),
        ("é".encode() * 10, RejectCode.NAME_TOO_LONG),
        (b"a.b", RejectCode.INVALID_NAME),
        (rb"a\u002eb", RejectCode.INVALID_NAME),
        (rb"\"a.\"", RejectCode.INVALID_NAME),
        (b"Tp_a", RejectCode.RESERVED_PREFIX),
        (rb"\u0054p_a", RejectCode.RESERVED_PREFIX),
        (b"_id", RejectCode.RESERVED_NAME),
    ],
)
def test_one_bad_name_among_many_good_ones_is_found_wherever_it_stands(name: bytes, code: RejectCode, at: int) -> None:
    texts = [b'"%s"' % (b"." * (20 * n)) for n in range(8)]
    texts[3], texts[5] = rb'"say \"v1.2\": \\"', b"[12.5, 1.5]"
    members = [b'"m%d": %s' % (n, text) for n, text in enumerate(texts)]
    members.insert(at, b'"' + name + b'" :{"a":"b"}')

    assert NameJudge(RULES).judge(b"{" + b",".join(members) + b"}") is code


@pytest.mark.parametrize(("line", "code"), [('{"\u212a":1}', None), ('{"K":1}', RejectCode.RESERVED_PREFIX)])
def test_the_sign_of_kelvin_is_no_letter_of_a_prefix(line: str, code: RejectCode | None) -> None:
    judge = NameJudge(replace(RULES, reserved_prefixes=("k",)))

    assert judge.judge(line.encode()) is code
    assert judge._look_into(line.encode()) is code


@pytest.mark.parametrize(
    "value",
    ["25.00", "1.5e-3", "10.0.0.7", "https://www.example.com:80/a.b?c=d.e", "Mozilla/5.0 (X11; rv:1.0) a.b/1.2", "tp_",
     'He said "v1.2"', "a\nb.\tc\\", "x" * 1000, "...", "_", "", {"tp": ["_id.", "tp_"]}, [1.5, 2.5, "a.b"]]
)  # fmt: skip
def test_no_value_has_its_line_looked_into(value: Any) -> None:
    line = json.dumps({"a": value, "b": value, "my_id": 1.5}).encode()

    assert not NameJudge(RULES)._may_break(b"\n".join([line] * 3))


def test_a_name_with_an_escape_for_a_letter_that_no_rule_is_about_has_its_line_not_looked_into() -> None:
    line = json.dumps({"prénom": "a.b", "größe": {"日本": "v1.2"}, "c": 'é\n"q":'}).encode()

    assert not NameJudge(replace(RULES, longest=99, reserved=("_id",)))._may_break(line)
    assert NameJudge(replace(RULES, longest=99))._may_break(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":"' + b"." * 1_000_000 + b'"}',
        b'{"a":"' + b"\\\\" * 500_000 + b'"}',
        b'{"a":"' + rb"\"" * 500_000 + b'"}',
        b'{"a":"' + rb".\"_:" * 200_000 + b'"}',
        b'{"a":"' + b"x" * 1_000_000 + b'"}',
        b'{"a":"' + b"tp_" * 300_000 + b'"}',
        b'{"a":[' + b"1.5," * 250_000 + b"1]}",
        b'{"a":[' + b'"",' * 300_000 + b"1]}",
        b"{" + rb'"\u0061":1,' * 100_000 + b'"a":1}',
    ],
)
def test_no_line_takes_long(line: bytes) -> None:
    judge = NameJudge(RULES)
    started = time.perf_counter()

    assert judge.judge(line) is None
    assert time.perf_counter() - started < 0.5
