from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.relaxed import MAX_QUERY, read_query
from common.errors import Refusal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, {}),
        ("", {}),
        (" \n", {}),
        ("{}", {}),
        ("null", None),
        ("{select:{totalPrice:{sum:'price'}}}", {"select": {"totalPrice": {"sum": "price"}}}),
        ("{filter:{'product.name':'it\\'s \"one\"'}}", {"filter": {"product.name": 'it\'s "one"'}}),
        ('{"filter": {"a": 1, "a": 2}}', {"filter": {"a": 2}}),
        ("{filter: {a: 1, a: 2,},}", {"filter": {"a": 2}}),
        ("{a:.5,b:+1,c:0x10,d:true,e:null,f:-0}", {"a": 0.5, "b": 1, "c": 16, "d": True, "e": None, "f": 0}),
        ("/* today */ {timeframe: 'today'}", {"timeframe": "today"}),
        ("{\u00e9: '\u00e9\\u00e9'}", {"\u00e9": "\u00e9\u00e9"}),
        ('{"a":' + "9" * 300 + "}", {"a": int("9" * 300)}),
    ],
)
def test_a_query_is_read_as_json_or_as_people_write_it(text: str | None, value: Any) -> None:
    assert read_query(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "{", "}", "{a}", "{a:}", "a", "{a:b}", "{a:1}{b:2}", "{a:1} 2", "{a:'x}", "{a:01}", "{a:undefined}",
        "{a:NaN}", "{a:[1,{b:-Infinity}]}", '{"a":NaN}', "NaN", '{"a":1e999}', "{a:1e999999}", "{a:" + "9" * 5000 + "}",
        '{"a":' + "9" * 5000 + "}", "{a:0x" + "f" * 8000 + "}", r"{a:'\ud800'}", r'{"a":"\ud800"}', "{a:'\ud800'}",
        "{'\ud800':1}", "[" * 4000, "{a:" * 2000, "[" * 33 + "'a'" + "]" * 33, "{a:'x\ny'}", "{a:1,,}", "// {}", "\0",
    ],
)  # fmt: skip
def test_what_is_no_json_in_any_reading_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_query(text, field="q")

    assert (refused.value.code, refused.value.field) == ("malformed_query", "q")
    assert refused.value.public == "The query JSON supplied is not valid."


def test_a_query_has_a_longest_length_in_bytes() -> None:
    longest = '"' + "\u00e9" * (MAX_QUERY // 2 - 1) + '"'

    assert len(read_query(longest)) == MAX_QUERY // 2 - 1
    with pytest.raises(Refusal, match=f"longer than {MAX_QUERY} bytes"):
        read_query(longest + " ")


def is_json(value: Any) -> bool:
    match value:
        case dict():
            return all(type(name) is str and is_json(held) for name, held in value.items())
        case list():
            return all(map(is_json, value))
        case float():
            return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


tokens = st.sampled_from(
    ["{", "}", "[", "]", ":", ",", "'", '"', "a", "b.c", "\\", "\\u", "d800", "0", "1", ".", "e", "-", "+", "0x", "NaN",
     "Infinity", "null", "true", "/*", "*/", "//", "\n", "\u2028", "\ufeff", "\0", "\ud800", "{a:1}", "'x'"]
)  # fmt: skip


@given(st.lists(tokens, max_size=12).map("".join))
def test_any_text_is_json_values_or_refused(text: str) -> None:
    try:
        value = read_query(text)
    except Refusal:
        return

    assert is_json(value)
    json.dumps(value, ensure_ascii=False).encode()


texts = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0x300), max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8))
def test_strict_json_means_what_it_says(value: Any) -> None:
    written = json.dumps(value)

    assert read_query(written) == value
    assert read_query(written + "/* relaxed */") == value
