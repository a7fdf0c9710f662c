"""An event gets what its line lacked, at its end, and nothing else of it changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.completing import Completer
from common.model.exports import Fill

EVENT_ID, TIME = "00000000-0000-4000-8000-000000000001", "2024-01-01T00:00:00.000Z"
ID = b'"id":"00000000-0000-4000-8000-000000000001"'
AT = b'"timestamp":"2024-01-01T00:00:00.000Z"'

VALUES = ["25.00", "1e2", "null", '"x"', '""', "0", "false", '{"id":"}"}', "[{}]", '"\\u0000"', '"}\\"{"']
values = st.sampled_from(VALUES)
blanks = st.text(" \t\r", max_size=3)


def complete(payload: bytes, fill: Fill) -> bytes:
    (line,) = Completer(fill).complete([payload], [EVENT_ID], [TIME])
    return line


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        (b"{}", b"{" + ID + b"," + AT + b"}"),
        (b" { \t } ", b" { \t " + ID + b"," + AT + b"} "),
        (b'{"a":{}}', b'{"a":{},' + ID + b"," + AT + b"}"),
        (b'{"a":"{"}', b'{"a":"{",' + ID + b"," + AT + b"}"),
        (b'{"a":1 } ', b'{"a":1 ,' + ID + b"," + AT + b"} "),
        (b'{"id":"x"}', b'{"id":"x",' + AT + b"}"),
        (b'{"timestamp":0}', b'{"timestamp":0,' + ID + b"}"),
        (b'{"id":null,"timestamp":""}', b'{"id":null,"timestamp":"",' + ID + b"}"),
        (b'{"id":"x","id" : null ,"timestamp":1}', b'{"id":"x","id" : null ,"timestamp":1,' + ID + b"}"),
        (b'{"a":{"id":1,"timestamp":1}}', b'{"a":{"id":1,"timestamp":1},' + ID + b"," + AT + b"}"),
        (b'{"id":false,"timestamp":[]} ', b'{"id":false,"timestamp":[]} '),
        (b'{"\\u0069d":1,"timestamp":1}', b'{"\\u0069d":1,"timestamp":1}'),
    ],
)
def test_members_are_added_at_the_end_where_they_count(payload: bytes, wanted: bytes) -> None:
    assert complete(payload, Fill("id", "timestamp")) == wanted


@st.composite
def events(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Names in order, and an event with blanks anywhere."""
    names = draw(st.lists(st.sampled_from(["id", "timestamp", "a", "é"]), max_size=4))
    members = [
        f"{draw(blanks)}{json.dumps(name)}{draw(blanks)}:{draw(blanks)}{draw(st.sampled_from(VALUES))}"
        for name in names
    ]
    return names, f"{draw(blanks)}{{{','.join(members)}{draw(blanks)}}}{draw(blanks)}".encode()


@given(st.lists(events(), max_size=5))
def test_an_event_has_both_and_is_otherwise_byte_for_byte_as_it_was(drawn: list[tuple[list[str], bytes]]) -> None:
    payloads = [payload for _, payload in drawn]
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(len(drawn))]

    lines = Completer(Fill("id", "timestamp")).complete(payloads, ids, [TIME] * len(drawn))

    assert len(lines) == len(drawn)
    for (names, payload), line, event_id in zip(drawn, lines, ids, strict=True):
        held: dict[str, Any] = json.loads(payload)
        lacked = {name: value for name, value in (("id", event_id), ("timestamp", TIME)) if held.get(name) is None}
        pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
        assert [name for name, _ in pairs] == [*names, *lacked]
        assert dict(pairs[len(names) :]) == lacked
        end = payload.rindex(b"}")
        assert line.startswith(payload[:end])
        assert line.endswith(payload[end:])
        assert lacked or line == payload
        # A second time nothing is lacking.
        assert complete(line, Fill("id", "timestamp")) == line


@pytest.mark.parametrize("names", [("é", "☃"), ("$unique_id", "$time"), ("a.b", " ")])
def test_names_are_spelt_as_json(names: tuple[str, str]) -> None:
    line = complete(b"{}", Fill(*names))

    assert json.loads(line) == dict(zip(names, (EVENT_ID, TIME), strict=True))
    assert complete(line, Fill(*names)) == line
