"""Decoding: one verdict for a line, whichever way it goes through and whatever stands beside it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.judging import MAX_DEPTH
from common.model.events import Identity, derived_id, time_id
from common.model.mapping import Mapping
from common.model.rejects import KEPT_BYTES, Reject, RejectCode
from common.model.rules import NameRules, Rules
from common.model.times import parse_month_first, parse_time
from tests.unit.common.test_naming import expected as expected_of_names
from workers.imports.decoding import Decoded, Decoder
from workers.imports.framing import Block

MAX_LINE = 4000
DEFAULT_TIME = 1_700_000_000_000_000
IDENTITY = Identity(b"k" * 32)
MAPPING = Mapping(id_names=("$unique_id", "id"), time_names=("$time", "id"))
NAMES = NameRules(longest=10, periods=False, reserved=("_id",), reserved_prefixes=("tp_",))
LONGEST = 70
#: Of a table whose rows are named by their moments, but for those that have an id.
TABLE = Mapping(("id",), ("$time", "$unique_id"), month_first=True, id_is_time=True)
RULED_MAPPING = replace(MAPPING, rules=Rules(longest=LONGEST, names=NAMES))
BOM = b"\xef\xbb\xbf"


def decoder(mapping: Mapping = MAPPING, max_line: int = MAX_LINE) -> Decoder:
    return Decoder(
        mapping,
        identity=IDENTITY,
        import_number=7,
        source_ordinal=3,
        default_time=DEFAULT_TIME,
        max_line=max_line,
    )


PLAIN = decoder(Mapping())
MAPPED = decoder()
RULED = decoder(RULED_MAPPING)
TIMED = decoder(TABLE)
#: As most tables are: nothing but the time.
TIMED_ONLY = decoder(replace(TABLE, id_names=(), time_names=("$time",), rules=Rules(required=(("$time",),))))
PATIENT = decoder()
PATIENT._typed = None  # every line goes before the patient judge


# --- material -----------------------------------------------------------------------------------------------

ids = st.sampled_from(
    [
        '"a"', '"f81d4fae-7dec-41d0-a765-00a0c91e6bf6"', '"F81D4FAE-7DEC-41D0-A765-00A0C91E6BF6"', '""',
        "1", "-0",
        "1.0", "1e3", "1e400", "null", "true", "false", "[]", '{"a":1}', "9" * 512, "9" * 513, "9" * 5000,
        "-" + "9" * 512, '"' + "x" * 512 + '"', '"' + "x" * 513 + '"', '"' + "é" * 257 + '"', r'"\u0000"',
        r'"\ud83d\ude00"', r'"\ud83d"', r'"\\ud83d"', r'"\ude00\ud83d"', "01", "1.", "NaN", "-", '"\x01"',
    ]
)  # fmt: skip
times = st.sampled_from(
    [
        '"2024-02-29T12:00:00Z"', '"2024-02-29T12:00:00.123456Z"', '"2024-02-29"', '"2023-02-29"', '""',
        "0", "-1",
        "1700000000", "1700000000123", "1.5", "1e3", "1e400", "-1e400", "1e-400", "null", "true", "[]", "{}",
        '"2/29/2024"', '"2/29/2023"', '"02-29-2024 12:00:00.000 PM"', "1709208000000", "1709208000.0",
        "9" * 30, "9" * 5000, r'"2024-02-29T12:00:00\u005a"', '"2024-02-29T24:00:00Z"', "Infinity", "0123",
    ]
)  # fmt: skip
values = st.sampled_from(
    [
        "1", '""', '"}\\n{"', '"}{"', '"{\\"a\\":1}"', "[{},{}]", '{"$unique_id":1}', "1e999999", "9" * 400,
        r'"\u0000"', r'"\\u0000"', r'"\ud800"', r'"\\ud800"', '"\t"', '"\x7f"', '"\u2028\x85"',
        "NaN", "nul", "",
        '{"b":{"a.b":1,"_id":2}}', '"v1.2"', '[{"tp_b":"tp_.c"}]', '"x\\".y\\":"', "[1,]",
        "'a'", "[" * 511 + "]" * 511, "[" * 512 + "]" * 512, "[" * 600, '"' + "[" * 600 + '"',
        '"' + "[" * 600 + '\\"]"', "[" * 1100 + "]" * 1100,
    ]
)  # fmt: skip
keys = st.sampled_from(
    ["$unique_id", "$time", "id", "other", r"$uniq\u0075e_id", r"\ud800", r"\u0000", "", '"', "$TIME",
     "a.b", "Tp_a", "_id", r"\u005fid", "too_long_a_name"]
)  # fmt: skip
spaces = st.sampled_from(["", "", "", " ", "\t", "\r", "\x0b", "\u00a0"])


@st.composite
def objects(draw: st.DrawFn) -> str:
    """Draw a line that is nearly always nearly an event."""
    members = []
    for _ in range(draw(st.integers(0, 3))):
        key = draw(keys)
        value = draw({"$unique_id": ids, "$time": times}.get(key, st.one_of(ids, times, values)))
        members.append(f'"{key}":{draw(spaces)}{value}')
    return "{" + ",".join(members) + "}"


good = st.integers(0, 99).map(lambda n: f'{{"$unique_id":"e{n}","$time":"2024-05-01T00:00:00Z","n":{n}}}')
timed = st.builds(
    lambda day, more: f'{{"$time":"{day}"{more}}}',
    st.sampled_from(["2024-05-01", "5/1/2024", "5-2-2024 1:00 AM"]),
    st.sampled_from(["", ',"id":"2024-05-01"', ',"id":null']),
)
near = st.sampled_from(
    [
        "", " ", "\r", "\t \r", "{}", "{} {}", "{}{}", "{", "}", "}{", "{}}", "{{}", '{"a":', "1}",
        '{"a":{"b":',
        "1}}", '{"a":"x}', '{y"}', "[]", "1", "null", '"\\ud800"', '"a"', "\ufeff{}", "{}\x00", "{},", ",{}",
        '{"a":[{}', "{}]}", "{}\r", "\r{}", "nul", '{"$unique_id":"a","$unique_id":null}', "\ufeff",
        '{"$unique_id":[],"$unique_id":"x"}', '{"$unique_id":"x","$unique_id":[]}', '{"a\\":1}', "{\"a\":1,}",
    ]
)  # fmt: skip
lines_of_text = st.one_of(good, good, good, objects(), near, near.map(lambda text: text + "\r"))
lines = st.one_of(
    lines_of_text.map(str.encode),
    lines_of_text.map(str.encode),
    st.tuples(objects(), st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])).map(
        lambda drawn: drawn[0].encode()[:-1] + drawn[1] + b"}"
    ),
    st.sampled_from([b'{"a":"\xff"}', b'{"\xed\xa0\x80":1}', b"{" + b" " * MAX_LINE + b"}", b" " * 5000]),
    st.text('{}[]":,\\ud80ce1.-+ntfa\r \t$', max_size=40).map(str.encode),
)
blocks = st.builds(
    lambda offset, mark, body: Block(offset, mark + b"\n".join(body)),
    st.sampled_from([0, 1, 2**40]),
    st.sampled_from([b"", b"", BOM]),
    st.lists(good.map(str.encode), min_size=1, max_size=8)
    | st.lists(timed.map(str.encode), min_size=1, max_size=8)
    | st.lists(lines, min_size=1, max_size=8),
)


# --- one verdict, whichever way -----------------------------------------------------------------------------


@given(blocks)
@settings(max_examples=500)
def test_the_quick_the_slow_and_the_patient_way_never_differ(block: Block) -> None:
    for one in (MAPPED, PLAIN, RULED, TIMED, TIMED_ONLY):
        slow = one._decode_by_line(block, 5)
        quick = one._decode_at_once(block)

        assert quick is None or quick == slow
        assert one.decode(block, 5) == slow
    assert PATIENT.decode(block, 5) == MAPPED.decode(block, 5)


@given(lines)
@settings(max_examples=500)
def test_rules_refuse_only_what_would_be_an_event_and_for_its_size_or_else_for_its_names(line: bytes) -> None:
    free, ruled = MAPPED.decode(Block(9, line), 4), RULED.decode(Block(9, line), 4)
    code = None
    if free.events:
        (event,) = free.events
        too_large = len(event.payload) > LONGEST
        code = RejectCode.EVENT_TOO_LARGE if too_large else expected_of_names(event.payload, NAMES)

    if code is None:
        assert ruled == free
    else:
        assert (ruled.events, ruled.blank) == ([], 0)
        assert ruled.rejects == [Reject(4, 9, len(event.payload), code, event.payload)]


@pytest.mark.parametrize("end", [b"", b"\r"])
@pytest.mark.parametrize("over", [0, 1])
def test_a_line_may_have_as_many_bytes_as_the_rules_say_and_none_more(over: int, end: bytes) -> None:
    line = b'{"a":"' + b"x" * (LONGEST - 8 + over) + b'"}' + end
    block = Block(0, line + b"\n{}")
    quick, slow = RULED._decode_at_once(block), RULED._decode_by_line(block, 0)

    assert [reject.code for reject in slow.rejects] == [RejectCode.EVENT_TOO_LARGE] * over
    assert quick == (None if over else slow)


#: Lines whose objects are as many as they are, but not one each.
MISLEADING = [
    '{"a":\n1}\n{}{}',
    '{}{}\n{"a":\n1}',
    '{"a":{\n}}\n{} {}',
    '{"a":[{\n}]}\n{}{}',
    '{}{}\n{"a":1\n,"b":2}',
]


@pytest.mark.parametrize("rows", MISLEADING)
def test_objects_that_are_as_many_as_the_lines_but_lie_otherwise_are_told_apart(rows: str) -> None:
    data = f"{{}}\n{rows}\n{{}}".encode()
    decoded = PLAIN.decode(Block(0, data), 0)

    assert decoded == PLAIN._decode_by_line(Block(0, data), 0)
    assert [event.payload for event in decoded.events] == [b"{}", b"{}"]
    assert {reject.code for reject in decoded.rejects} == {RejectCode.INVALID_JSON}


@given(blocks)
@settings(max_examples=300)
def test_a_line_is_judged_the_same_alone_and_among_others(block: Block) -> None:
    whole = MAPPED.decode(block, 0)
    parts, offset = [], block.offset
    for index, line in enumerate(block.data.split(b"\n")):
        parts.append(MAPPED.decode(Block(offset, line), index))
        offset += len(line) + 1

    assert whole.events == [event for part in parts for event in part.events]
    assert whole.rejects == [reject for part in parts for reject in part.rejects]
    assert (whole.blank, whole.lines) == (sum(part.blank for part in parts), len(parts))
    assert whole.lines == len(whole.events) + len(whole.rejects) + whole.blank


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    decoded = MAPPED.decode(Block(0, data), 0)

    assert decoded.lines == data.count(b"\n") + 1


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", BOM])
def test_plain_events_go_the_quick_way_with_blank_lines_and_any_line_end(end: str, mark: bytes) -> None:
    rows = [
        '{"$unique_id":"a"}',
        "",
        '{"$unique_id":2,"$time":1.5}',
        " \t",
        '{"$time":"2024-05-01"}',
        '{"é":[]}',
    ]
    decoded = PLAIN._decode_at_once(Block(0, mark + end.join(rows).encode()))

    assert decoded is not None
    assert [event.payload.decode() for event in decoded.events] == [row for row in rows if row.strip()]
    assert (decoded.blank, decoded.lines) == (2, 6)


# --- an oracle that shares nothing with the decoder ---------------------------------------------------------


class NotJson(ValueError):
    pass


def refuse_constant(name: str) -> Any:
    raise NotJson(name)


class Number(str):
    __slots__ = ()


def depth_of(line: str) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for character in line:
        if in_string:
            if not escaped and character == '"':
                in_string = False
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string, escaped = True, False
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def has_lone_surrogate(value: Any) -> bool:
    """Walk without recursion: the line may be 512 deep."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, tuple):
            for key, member in value:
                waiting += [key, member]
        elif isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            return True
    return False


def verdict(line: bytes, mapping: Mapping = MAPPING, max_line: int = MAX_LINE) -> RejectCode | str | dict[str, Any]:
    """Say the rules over again with the standard library: a code, "blank", or the id and time."""
    if len(line) > max_line:
        return RejectCode.LINE_TOO_LONG
    line = line.removesuffix(b"\r")
    if not line.strip(b" \t\r"):
        return "blank"
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return RejectCode.INVALID_UTF8
    return RejectCode.TOO_DEEP if depth_of(text) > MAX_DEPTH else judged_json(text, mapping)


def judged_json(text: str, mapping: Mapping) -> RejectCode | dict[str, Any]:
    try:
        value = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_int=lambda digits: Number("i" + digits),
            parse_float=lambda digits: Number("f" + digits),
            object_pairs_hook=tuple,
        )
    except ValueError:
        return RejectCode.INVALID_JSON
    if not isinstance(value, tuple):
        return RejectCode.NOT_AN_OBJECT
    return RejectCode.LONE_SURROGATE if has_lone_surrogate(value) else judged_members(dict(value), mapping)


def judged_id(event_id: Any) -> RejectCode | None:
    if isinstance(event_id, Number) and event_id.startswith("i"):
        return RejectCode.ID_TOO_LONG if len(event_id[1:]) > 512 else None
    if isinstance(event_id, Number) or not isinstance(event_id, str | None):
        return RejectCode.INVALID_ID
    if event_id == "":
        return RejectCode.EMPTY_ID
    return RejectCode.ID_TOO_LONG if event_id is not None and len(event_id.encode()) > 512 else None


def judged_members(members: dict[str, Any], mapping: Mapping) -> RejectCode | dict[str, Any]:
    event_id = next((members[name] for name in mapping.id_names if members.get(name) is not None), None)
    time = next((members[name] for name in mapping.time_names if members.get(name) is not None), None)
    if refused := judged_id(event_id):
        return refused
    if isinstance(time, Number):
        read = parse_time(float(time[1:]) if time.startswith("f") or len(time) > 30 else int(time[1:]))
    elif isinstance(time, str):
        read = parse_time(time)
        if read is None and mapping.month_first:
            read = parse_month_first(time)
    else:
        read = DEFAULT_TIME if time is None else None
    by_time = mapping.id_is_time and event_id is None and time is not None
    return RejectCode.INVALID_TIME if read is None else {"id": event_id, "time": read, "by time": by_time}


@given(lines)
@settings(max_examples=1000)
def test_verdicts_are_those_of_the_standard_library_and_the_rules(line: bytes) -> None:
    for one, mapping in ((MAPPED, MAPPING), (TIMED, TABLE)):
        compare(one.decode(Block(9, line), 4), verdict(line, mapping), line)


def compare(decoded: Decoded, expected: RejectCode | str | dict[str, Any], line: bytes) -> None:
    if expected == "blank":
        assert decoded == Decoded([], [], 1, 1)
    elif isinstance(expected, RejectCode):
        assert [reject.code for reject in decoded.rejects] == [expected]
    else:
        assert isinstance(expected, dict)
        (event,) = decoded.events
        assert event.time == expected["time"]
        assert event.has_id == (expected["id"] is not None or expected["by time"])
        assert event.event_id[8] >> 7 == (expected["id"] is not None)
        assert (event.event_id == time_id(event.time)) == expected["by time"]
        assert event.payload == line.removesuffix(b"\r")
        assert event.odd == (rb"\u0000" in line)


# --- examples -----------------------------------------------------------------------------------------------


def code_of(line: bytes) -> str:
    decoded = PLAIN.decode(Block(100, line), 0)
    assert decoded == PLAIN._decode_by_line(Block(100, line), 0)
    return decoded.rejects[0].code if decoded.rejects else "blank" if decoded.blank else "event"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        # reliability.md 4.6, row by row; where this table and design.md differ, design.md wins.
        (rb'{"a":"\u0000"}', "event"),  # type json keeps it; marked odd
        (b'{"a":"\x00"}', "invalid_json"),
        (b'{"a":1}\x00', "invalid_json"),
        (rb'{"a":"\ud800"}', "lone_surrogate"),
        (rb'{"\udc00":1}', "lone_surrogate"),
        (rb'{"a":{"b":["\ude00\ud83d"]}}', "lone_surrogate"),
        (rb'{"a":"\ud83d\ude00"}', "event"),
        (rb'{"a":"\\ud800"}', "event"),
        (rb'{"a":"\ud800",}', "invalid_json"),
        (rb'{"a":"\ud83d\\ude00"}', "lone_surrogate"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a":"\xc0\xaf"}', "invalid_utf8"),
        (b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}', "invalid_utf8"),
        (b'{"a":"\xf4\x90\x80\x80"}', "invalid_utf8"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":Infinity}', "invalid_json"),
        (b'{"a":-Infinity}', "invalid_json"),
        (b'{"a":1e400}', "event"),
        (b'{"a":1e999999}', "event"),
        (b'{"a":' + b"9" * 400 + b"}", "event"),
        (b'{"a":18446744073709551616}', "event"),
        (b'{"a":0.' + b"1" * 3000 + b"}", "event"),
        (b'{"a":1,"a":2}', "event"),
        (b'{"$unique_id":1,"$unique_id":"b"}', "event"),
        (b"[" * 513 + b"]" * 513, "too_deep"),
        (b'{"a":' + b"[" * 511 + b"]" * 511 + b"}", "event"),
        (b'{"a":' + b"[" * 512 + b"]" * 512 + b"}", "too_deep"),
        (b'{"a":' + b"[" * 600, "too_deep"),
        (b'{"a":"' + b"[{" * 600 + b'"}', "event"),
        (b'{"a":"\\"' + b"[{" * 600 + b'"}', "event"),
        (b'{"a":[' + b"[]," * 600 + b"[]]}", "event"),
        (b"[]", "not_an_object"),
        (b'"a"', "not_an_object"),
        (rb'"\ud800"', "not_an_object"),
        (b"null", "not_an_object"),
        (b"1", "not_an_object"),
        (b"{}{}", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"{} x", "invalid_json"),
        (BOM + b"{}", "invalid_json"),
        (b"{}\r", "event"),
        (b"{}\r\r", "event"),
        (b" \t{} ", "event"),
        (b"\x0b{}", "invalid_json"),
        (b"\x0b", "invalid_json"),
        (b"\xc2\xa0{}", "invalid_json"),
        (b"{}\xe2\x80\xa8", "invalid_json"),
        ('{"a":"\u2028"}'.encode(), "event"),
        (b"", "blank"),
        (b" \t\r", "blank"),
        (b"{" + b" " * (MAX_LINE - 2) + b"}", "event"),
        (b"{" + b" " * (MAX_LINE - 1) + b"}", "line_too_long"),
        (b" " * (MAX_LINE + 1), "line_too_long"),
        (b'{"a":1', "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b'{"a":1.}', "invalid_json"),
        (b'{"a":.5}', "invalid_json"),
        (b'{"a":+1}', "invalid_json"),
        (b'{"a":"\t"}', "invalid_json"),
        (b'{"a":"\x7f"}', "event"),
        (rb'{"a":"\x"}', "invalid_json"),
        (rb'{"a":"\u12"}', "invalid_json"),
        # Ids.
        (b'{"$unique_id":""}', "empty_id"),
        (b'{"$unique_id":null}', "event"),
        (b'{"$unique_id":1.0}', "invalid_id"),
        (b'{"$unique_id":1e3}', "invalid_id"),
        (b'{"$unique_id":1e400}', "invalid_id"),
        (b'{"$unique_id":true}', "invalid_id"),
        (b'{"$unique_id":{}}', "invalid_id"),
        (b'{"$unique_id":[1]}', "invalid_id"),
        (b'{"$unique_id":"' + b"x" * 512 + b'"}', "event"),
        (b'{"$unique_id":"' + b"x" * 513 + b'"}', "id_too_long"),
        (b'{"$unique_id":"' + "é".encode() * 256 + b'"}', "event"),
        (b'{"$unique_id":"' + "é".encode() * 257 + b'"}', "id_too_long"),
        (b'{"$unique_id":-' + b"9" * 511 + b"}", "event"),
        (b'{"$unique_id":-' + b"9" * 512 + b"}", "id_too_long"),
        (b'{"$unique_id":' + b"9" * 513 + b"}", "id_too_long"),
        # Times.
        (b'{"$time":"yesterday"}', "invalid_time"),
        (b'{"$time":null}', "event"),
        (b'{"$time":true}', "invalid_time"),
        (b'{"$time":1e400}', "invalid_time"),
        (b'{"$time":' + b"9" * 3000 + b"}", "invalid_time"),
        (b'{"$unique_id":"","$time":"yesterday"}', "empty_id"),
    ],
)
def test_the_table_of_inputs(line: bytes, code: str) -> None:
    assert code_of(line) == code


def test_an_integer_of_more_digits_than_python_reads_is_a_clean_reject() -> None:
    huge = b"9" * 100_000
    rows = [b'{"$unique_id":%b}' % huge, b'{"$time":%b}' % huge, b'{"a":%b}' % huge]
    decoded = decoder(Mapping(), max_line=1 << 20).decode(Block(0, b"\n".join(rows)), 0)

    assert [reject.code for reject in decoded.rejects] == [RejectCode.ID_TOO_LONG, RejectCode.INVALID_TIME]
    assert [event.payload for event in decoded.events] == [rows[2]]


def test_a_reject_says_where_and_keeps_its_bytes() -> None:
    long = b'{"a":' + b"x" * 100_000
    decoded = decoder(max_line=1 << 20).decode(Block(1000, b"{}\nnope\r\n\n" + long), 40)

    assert decoded.rejects == [
        Reject(41, 1003, 4, RejectCode.INVALID_JSON, b"nope"),
        Reject(43, 1010, len(long), RejectCode.INVALID_JSON, long[:KEPT_BYTES]),
    ]
    assert (decoded.blank, decoded.lines) == (1, 4)


def test_a_carriage_return_before_the_newline_does_not_count_for_the_limit() -> None:
    decoded = decoder(max_line=10).decode(Block(0, b'{"a":1234}\r\n{"a":12345}\r'), 0)

    assert [event.payload for event in decoded.events] == [b'{"a":1234}']
    assert [reject.code for reject in decoded.rejects] == [RejectCode.LINE_TOO_LONG]


@pytest.mark.parametrize("end", [b"\r", b"x", b"x" * 1000])
def test_a_line_over_the_limit_reads_the_same_however_long_it_is(end: bytes) -> None:
    """Even if framing cut it just behind a carriage return that was no line end."""
    decoded = decoder(max_line=10).decode(Block(0, b'{"a":1234}\r' + end), 0)

    assert decoded.rejects == [Reject(0, 0, 11, RejectCode.LINE_TOO_LONG, b'{"a":1234}\r')]


def test_a_byte_order_mark_is_dropped_at_the_first_byte_of_a_source_alone() -> None:
    decoded = PLAIN.decode(Block(0, BOM + b"{}\n" + BOM + b"{}"), 0)

    assert [(event.offset, event.payload) for event in decoded.events] == [(0, b"{}")]
    assert [(reject.offset, reject.code) for reject in decoded.rejects] == [(6, RejectCode.INVALID_JSON)]
    assert PLAIN.decode(Block(0, BOM), 0).blank == 1


def test_the_first_name_that_is_there_counts() -> None:
    rows = [
        b'{"$unique_id":"a","id":5}',
        b'{"$unique_id":null,"id":5}',
        b'{"id":5}',
        b'{"$unique_id":"a","id":[]}',
        b'{"$unique_id":1.5,"id":5}',
        b'{"$unique_id":"a","$unique_id":null,"id":5}',
    ]
    found = [MAPPED.decode(Block(0, row), 0) for row in rows]
    a, five = IDENTITY.of_string("a"), IDENTITY.of_integer(5)

    assert [one.events[0].event_id if one.events else None for one in found] == [
        a,
        five,
        five,
        None,
        None,
        five,
    ]
    assert [one.rejects[0].code for one in found if one.rejects] == ["invalid_time", "invalid_id"]


def test_the_quotes_make_an_integer_another_id() -> None:
    rows = [b'{"$unique_id":%b}' % value for value in (b"1", b'"1"', b"-0", b"0")]
    made = [event.event_id for event in PLAIN.decode(Block(0, b"\n".join(rows)), 0).events]

    assert made[0] != made[1]
    assert made[2] == made[3]


def test_a_line_without_id_or_time_gets_them_from_its_place_and_its_import() -> None:
    twice = [PLAIN.decode(Block(50, b'{"n":1}\n{"n":2}'), 0).events for _ in range(2)]

    assert twice[0] == twice[1]
    assert [(event.has_id, event.time) for event in twice[0]] == [(False, DEFAULT_TIME)] * 2
    assert twice[0][0].event_id < twice[0][1].event_id


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\x01b", "é", "", "\u2028", "$type", "f0"])
def test_a_mapping_may_name_any_member(name: str) -> None:
    one = decoder(Mapping(id_names=(name,), time_names=()))
    row = json.dumps({name: "x", "$time": "ignored"}).encode()

    (event,) = one.decode(Block(0, row), 0).events

    assert event.event_id == IDENTITY.of_string("x")


def test_a_line_is_named_by_its_moment_however_that_is_written_unless_it_has_an_id() -> None:
    rows = [
        b'{"$time":"2017-01-01"}',
        b'{"$time":"1/1/2017"}',
        b'{"$time":"2017-01-01T01:00:00.000+01:00","id":null}',
        b'{"$time":1483228800}',
        b'{"$time":"2017-01-01T00:00:00.000001Z"}',
        b'{"$time":"2017-01-01","id":"a"}',
        b'{"$time":null}',
        b"{}",
    ]
    offsets = [0, *accumulate(len(row) + 1 for row in rows)]
    events = TIMED.decode(Block(0, b"\n".join(rows)), 0).events
    one = time_id(1_483_228_800_000_000)

    assert [event.event_id for event in events] == [
        one, one, one, one, time_id(1_483_228_800_000_001), IDENTITY.of_string("a"),
        derived_id(7, 3, offsets[6]), derived_id(7, 3, offsets[7]),
    ]  # fmt: skip
    assert [event.has_id for event in events] == [True] * 6 + [False] * 2


def test_months_come_first_only_where_the_mapping_says_so() -> None:
    row = b'{"$time":"1/31/2017"}'

    assert [reject.code for reject in PLAIN.decode(Block(0, row), 0).rejects] == [RejectCode.INVALID_TIME]
    assert [reject.code for reject in TIMED.decode(Block(0, row.replace(b"31", b"32")), 0).rejects] == ["invalid_time"]
    assert TIMED.decode(Block(0, row), 0).events[0].time == parse_time("2017-01-31")


def test_a_mapping_without_names_derives_every_id() -> None:
    (event,) = decoder(Mapping(id_names=(), time_names=())).decode(Block(0, b'{"$unique_id":"a"}'), 0).events

    assert (event.has_id, event.time) == (False, DEFAULT_TIME)


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":"' + b"\\" * 100_000,
        b'{"a":' + b'"' * 100_000,
        b"[" * 100_000,
        b'{"a":"' + rb"\ud800" * 20_000 + b'"}',
        b'{"a":"' + b'\\"' * 50_000 + b"[" * 600,
        b'"' + b"\\u" * 50_000,
    ],
)
def test_no_line_takes_long(line: bytes) -> None:
    import time

    one = decoder(max_line=1 << 20)
    started = time.perf_counter()
    one.decode(Block(0, line), 0)

    assert time.perf_counter() - started < 0.5
