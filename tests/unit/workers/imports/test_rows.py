"""CSV: one verdict for a record, wherever the source is cut and whatever stands beside it."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.events import Event, Identity, derived_id, time_id
from common.model.mapping import ColumnType, Mapping
from common.model.rejects import KEPT_BYTES, Reject, RejectCode
from common.model.rules import NameRules, Rules
from common.model.times import parse_month_first, parse_time
from tests.unit.common.test_naming import expected as expected_of_names
from workers.imports.decoding import Decoded
from workers.imports.framing import Block, owned_blocks, reading_start
from workers.imports.header import read_header
from workers.imports.records import has_quoted_line_breaks, record_blocks
from workers.imports.rows import RowDecoder, _lay_out

BOM = b"\xef\xbb\xbf"
DEFAULT_TIME = 1_700_000_000_000_000
IDENTITY = Identity(b"k" * 32)
LONG = 1 << 20
NAMES = ("$unique_id", "n", "a.b", "$time", "r", "a.c.d", "r", "yes", "text")
TYPES = (
    ("n", ColumnType.NUMBER),
    ("yes", ColumnType.BOOLEAN),
    ("a.c.d", ColumnType.STRING),
    ("absent", ColumnType.NUMBER),
)
MAPPING = Mapping(id_names=("$unique_id", "n", "a.b"), time_names=("$time", "n"), types=TYPES)
PLAIN = Mapping()
#: Of a table whose rows are named by their moments, but for those that have an id.
TABLE = Mapping(("yes",), ("$time", "a.b"), dots_nest=False, month_first=True, id_is_time=True)


def decoder(names: Sequence[str] = NAMES, mapping: Mapping = MAPPING, max_line: int = LONG) -> RowDecoder:
    return RowDecoder(
        names,
        mapping,
        identity=IDENTITY,
        import_number=7,
        source_ordinal=3,
        default_time=DEFAULT_TIME,
        max_line=max_line,
    )


# --- an oracle that shares nothing with the decoder ---------------------------------------------------------


class Record(NamedTuple):
    offset: int
    #: Of text, in the source.
    line: int
    #: With its carriage return.
    raw: bytes
    #: None where it is no CSV.
    cells: list[bytes] | None
    closed: bool


#: What a byte makes of the place in a record where one stands; the last is what all other bytes do.
STEPS = {
    "cell": ({b'"': "quoted", b",": "cell", b"\r": "return"}, "plain"),
    "plain": ({b'"': "fault", b",": "cell", b"\r": "return"}, "plain"),
    "quoted": ({b'"': "closed"}, "quoted"),
    "closed": ({b'"': "quoted", b",": "cell", b"\r": "return"}, "fault"),
    "return": ({}, "fault"),
    "fault": ({}, "fault"),
}


def parse(source: bytes, *, lines_only: bool) -> list[Record]:
    """Go through the source byte by byte."""
    records: list[Record] = []
    start, line = 0, 0
    while start < len(source):
        at = start + 3 * (start == 0 and source.startswith(BOM))
        state, found = "cell", [b""]
        while at < len(source) and (source[at : at + 1] != b"\n" or (state == "quoted" and not lines_only)):
            byte = source[at : at + 1]
            steps, other = STEPS[state]
            before, state = state, steps.get(byte, other)
            if state == "plain" or before == state == "quoted" or (before, state) == ("closed", "quoted"):
                found[-1] += byte
            found += [b""] * (state == "cell")
            at += 1
        raw = source[start:at]
        well = state in ("cell", "plain", "closed", "return")
        records.append(Record(start, line, raw, found if well else None, state != "quoted"))
        start, line = at + 1, line + raw.count(b"\n") + 1
    return records


class Raw(str):
    __slots__ = ()


def to_json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{to_json(key)}:{to_json(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return str(value) if isinstance(value, Raw) else json.dumps(value, ensure_ascii=False)


def typed(cell: str, kind: ColumnType | None) -> Any:
    if kind is None:
        return cell
    if cell == "":
        return Raw("null")
    if kind is ColumnType.NUMBER:
        return Raw(cell) if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", cell) else None
    if kind is ColumnType.BOOLEAN:
        return Raw(cell.lower()) if cell.lower() in ("true", "false") else None
    return cell


def made(cells: list[str], names: Sequence[str], mapping: Mapping) -> dict[str, Any] | None:
    types = dict(mapping.types)
    row: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=True):
        value = typed(cell, types.get(name))
        if value is None:
            return None
        *above, last = name.split(".") if mapping.dots_nest else [name]
        inner = row
        for part in above:
            inner = inner.setdefault(part, {})
        if names.count(name) > 1:
            inner.setdefault(last, []).append(value)
        else:
            inner[last] = value
    return row


def first_of(row: dict[str, Any], names: Sequence[str]) -> Any:
    found = next((row[name] for name in names if row.get(name) not in (None, "", "null")), None)
    if not isinstance(found, Raw):
        return found
    if found in ("true", "false"):
        return False
    return float(found) if set(found) & set(".eE") else int(found)


def judged(record: Record, names: Sequence[str], mapping: Mapping, max_line: int, unclosed: RejectCode) -> Any:
    """Return "blank", a code, or the event."""
    body = record.raw.removesuffix(b"\r")
    if len(body) > max_line:
        return RejectCode.LINE_TOO_LONG
    if not body.strip(b" \t\r"):
        return "blank"
    try:
        body.decode()
    except UnicodeDecodeError:
        return RejectCode.INVALID_UTF8
    if record.cells is None:
        return RejectCode.INVALID_CSV if record.closed else unclosed
    if len(record.cells) != len(names):
        return RejectCode.RAGGED_ROW
    row = made([cell.decode() for cell in record.cells], names, mapping)
    return RejectCode.INVALID_VALUE if row is None else event_of(row, record.offset, mapping)


def event_of(row: dict[str, Any], offset: int, mapping: Mapping) -> Event | RejectCode:
    event_id, moment = first_of(row, mapping.id_names), first_of(row, mapping.time_names)
    if isinstance(event_id, bool | float):
        return RejectCode.INVALID_ID
    if event_id is not None and len(str(event_id).encode()) > 512:
        return RejectCode.ID_TOO_LONG
    if event_id is None:
        key = derived_id(7, 3, offset)
    else:
        key = IDENTITY.of_string(event_id) if isinstance(event_id, str) else IDENTITY.of_integer(event_id)
    micros = DEFAULT_TIME if moment is None else parse_time(moment)
    if micros is None and mapping.month_first:
        micros = parse_month_first(str(moment))
    if micros is None:
        return RejectCode.INVALID_TIME
    payload = to_json(row).encode()
    if mapping.rules.longest is not None and len(payload) > mapping.rules.longest:
        return RejectCode.EVENT_TOO_LARGE
    if mapping.rules.names and (code := expected_of_names(payload, mapping.rules.names)):
        return code
    by_time = mapping.id_is_time and event_id is None and moment is not None
    key = time_id(micros) if by_time else key
    return Event(key, by_time or event_id is not None, offset, micros, rb"\u0000" in payload, payload)


def expected(
    source: bytes, *, lines_only: bool, names: Sequence[str] = NAMES, mapping: Mapping = MAPPING, max_line: int = LONG
) -> Decoded:
    """Return what a whole source comes to."""
    unclosed = RejectCode.QUOTED_LINE_BREAK if lines_only else RejectCode.INVALID_CSV
    everything = parse(source, lines_only=lines_only)
    events, rejects, blank = [], [], 0
    for record in everything[1:]:
        verdict = judged(record, names, mapping, max_line, unclosed)
        if verdict == "blank":
            blank += 1
        elif isinstance(verdict, RejectCode):
            over = verdict is RejectCode.LINE_TOO_LONG
            body = record.raw[: max_line + 1] if over else record.raw.removesuffix(b"\r")
            rejects.append(Reject(record.line, record.offset, len(body), verdict, body[:KEPT_BYTES]))
        else:
            events.append(verdict)
    text_lines = sum(record.raw.count(b"\n") + 1 for record in everything)
    return Decoded(events, rejects, blank, max(len(everything) - 1, 0), text_lines)


# --- both ways through a source, in any pieces --------------------------------------------------------------


def pieces_of(source: bytes, start: int, sizes: Sequence[int]) -> Iterator[bytes]:
    at, turn = start, 0
    while at < len(source):
        size = sizes[turn % len(sizes)]
        yield source[at : at + size]
        at, turn = at + size, turn + 1


def together(parts: Sequence[Decoded]) -> Decoded:
    return Decoded(
        [event for part in parts for event in part.events],
        [reject for part in parts for reject in part.rejects],
        sum(part.blank for part in parts),
        sum(part.lines for part in parts),
        sum(part.text_lines or 0 for part in parts),
    )


def cut_into_ranges(source: bytes, chunk: int, sizes: Sequence[int], one: RowDecoder, max_line: int = LONG) -> Decoded:
    """Load the source in chunks of so many bytes; lines count on over all chunks."""
    parts: list[Decoded] = []
    line = 0
    for start in range(0, len(source), chunk):
        end = min(start + chunk, len(source))
        pieces = pieces_of(source, reading_start(start), sizes)
        for block in owned_blocks(pieces, start=start, end=end, max_line=max_line + 1):
            parts.append(one.decode(block, line))
            line += parts[-1].text_lines or 0
    return together(parts)


def walked(source: bytes, blocks_a_walk: int, sizes: Sequence[int], one: RowDecoder, max_line: int = LONG) -> Decoded:
    """Load the source in walks, each of which goes on where the last block of the one before has said."""
    parts: list[Decoded] = []
    start = line = 0
    while start < len(source):
        pieces = pieces_of(source, start, sizes)
        for _, block in zip(
            range(blocks_a_walk), record_blocks(pieces, start=start, max_line=max_line + 1), strict=False
        ):
            parts.append(one.decode(block, line))
            line += parts[-1].text_lines or 0
            assert block.end is not None
            start = block.end
    return together(parts)


# --- material -----------------------------------------------------------------------------------------------

cells = st.sampled_from(
    [
        "a",
        "",
        '""',
        '"x"',
        '"x,y"',
        '"x""y"',
        '""""',
        '"x\ny"',
        '"x\r\n""y"',
        '"\n"',
        "é",
        "\ufeff",
        " b ",
        "\\",
        "\x00",
    ]
)
odd_cells = st.sampled_from(
    ['5" p', '"x"y', '"open', ' "x"', 'x"', '"x" ', "\r", "a\rb", '"x"\r', "\x0b", "\u2028", "\x85", r"\u0000", "x\ty"]
)
ids = st.sampled_from(
    ["", "a", "1", '"b"', '"c,""d"', "f81d4fae-7dec-41d0-a765-00a0c91e6bf6", "x" * 512, "x" * 513, "é" * 257, " "]
)
numbers = st.sampled_from(
    [
        "", "1", "-0", '"7"', "1.50", "1e3", "01", "+1", "1.", ".5", "NaN", " 1", "9" * 400, "9" * 512, "9" * 513,
        "-" + "9" * 512, "1e999", '"1\n2"', "\u0661", "1700000000",
    ]
)  # fmt: skip
times = st.sampled_from(
    [
        "",
        "2024-02-29T12:00:00Z",
        '"2024-02-29"',
        "2023-02-29",
        "2/29/2024",
        "2/29/2023",
        '"2-29-2024 12:00 pM"',
        "1700000000",
        "2024-05-01T00:00:00.5+02:00",
    ]
)
booleans = st.sampled_from(["", "true", "FALSE", '"True"', "yes", "1"])
timed_rows = st.builds(
    lambda day, other, id_: f"x,1,{other},{day},,,,{id_},",
    st.sampled_from(["2024-05-01", "5/1/2024", "5-2-2024 1:00 AM", ""]),
    st.sampled_from(["", "6/1/2024"]),
    st.sampled_from(["", "", "true"]),
)
good_rows = st.builds(
    lambda n, text: f"e{n},{n},{text},2024-05-01T00:00:00Z,,,{text},true,",
    st.integers(0, 99),
    st.sampled_from(["", "x", '"x,y"', '"x ""y"""', "é"]),
)
rows = st.tuples(ids, numbers, cells, times, cells, cells, cells, booleans, cells).map(",".join)
mostly_good = st.tuples(ids, st.just("1"), cells, st.just("2024-05-01"), cells, cells, cells, st.just("true"), cells)
odd_rows = st.lists(cells | odd_cells, min_size=1, max_size=9).map(",".join)
blanks = st.sampled_from(["", " ", "\t\r", "\r"])
lines = st.one_of(good_rows, good_rows, mostly_good.map(",".join), rows, odd_rows, blanks)
ends = st.sampled_from(["\n", "\n", "\n", "\r\n"])
text_bodies = st.lists(st.tuples(lines, ends).map("".join), max_size=8).map("".join)
bodies = st.one_of(
    text_bodies.map(str.encode),
    text_bodies.map(str.encode),
    st.lists(st.tuples(good_rows, st.just("\n")).map("".join), max_size=200).map("".join).map(str.encode),
    st.lists(st.tuples(timed_rows, st.just("\n")).map("".join), max_size=70).map("".join).map(str.encode),
    st.tuples(text_bodies, st.sampled_from([b"\xff", b"\xed\xa0\x80"]), text_bodies).map(
        lambda drawn: drawn[0].encode() + drawn[1] + drawn[2].encode()
    ),
    st.text('",\n\r a', max_size=60).map(str.encode),
    st.lists(good_rows, max_size=3).map(lambda drawn: "\n".join(drawn).encode()),
)
sources = st.builds(
    lambda mark, end, body: mark + ",".join(NAMES).encode() + end + body,
    st.sampled_from([b"", BOM]),
    st.sampled_from([b"\n", b"\r\n"]),
    bodies,
)
piece_sizes = st.lists(st.integers(1, 90), min_size=1, max_size=4) | st.just([LONG])
limits = st.sampled_from([3, 20, 60, LONG])

TYPED = decoder()
#: The last three forbid names that the header has, at the top or deeper.
rules = st.builds(
    Rules,
    longest=st.sampled_from([None, 95, 130]),
    names=st.sampled_from(
        [
            None,
            NameRules(10, periods=False, reserved=("b", "_id"), reserved_prefixes=("tp_",)),
            NameRules(9, periods=True),
            NameRules(10, periods=True, reserved=("a",)),
            NameRules(10, periods=True, reserved_prefixes=("$UNI",)),
        ]
    ),
)


@given(sources, st.integers(20, 400), piece_sizes, limits)
@settings(max_examples=300)
def test_a_source_cut_into_ranges_of_any_size_comes_to_the_same(
    source: bytes, chunk: int, sizes: list[int], max_line: int
) -> None:
    found = cut_into_ranges(source, chunk, sizes, decoder(max_line=max_line), max_line)

    assert found == expected(source, lines_only=True, max_line=max_line)
    assert found.lines == len(found.events) + len(found.rejects) + found.blank


@given(sources, st.integers(1, 4), piece_sizes, limits)
@settings(max_examples=300)
def test_a_source_walked_in_any_steps_comes_to_the_same(
    source: bytes, blocks: int, sizes: list[int], max_line: int
) -> None:
    found = walked(source, blocks, sizes, decoder(max_line=max_line), max_line)

    assert found == expected(source, lines_only=False, max_line=max_line)
    assert found.lines == len(found.events) + len(found.rejects) + found.blank


@given(sources, st.integers(20, 400), piece_sizes, st.integers(1, 4))
@settings(max_examples=200)
def test_a_table_comes_to_the_same_cut_or_walked(source: bytes, chunk: int, sizes: list[int], blocks: int) -> None:
    one = decoder(mapping=TABLE)

    assert cut_into_ranges(source, chunk, sizes, one) == expected(source, lines_only=True, mapping=TABLE)
    assert walked(source, blocks, sizes, one) == expected(source, lines_only=False, mapping=TABLE)


@given(sources, st.integers(1, 90))
@settings(max_examples=200)
def test_a_source_without_odd_lines_is_the_same_cut_or_walked(source: bytes, size: int) -> None:
    odd = any(line.count(b'"') % 2 for line in source.split(b"\n"))
    assert has_quoted_line_breaks(pieces_of(source, 0, [size])) == odd
    if not odd:
        assert cut_into_ranges(source, 100, [size], TYPED) == walked(source, 2, [size], TYPED)


@given(sources, st.integers(1, 4), rules)
@settings(max_examples=200)
def test_a_source_whose_events_have_rules_comes_to_what_each_of_them_says(
    source: bytes, blocks: int, asked: Rules
) -> None:
    mapping = replace(MAPPING, rules=asked)
    found = walked(source, blocks, [LONG], decoder(mapping=mapping))

    assert found == expected(source, lines_only=False, mapping=mapping)


@given(sources, st.booleans(), limits, rules, st.sampled_from([MAPPING, TABLE]))
@settings(max_examples=400)
def test_many_at_once_and_one_at_a_time_never_differ(
    source: bytes, lines_only: bool, max_line: int, asked: Rules, mapping: Mapping
) -> None:
    one = decoder(mapping=replace(mapping, rules=asked), max_line=max_line)
    unclosed = RejectCode.QUOTED_LINE_BREAK if lines_only else RejectCode.INVALID_CSV
    pieces = [source]
    blocks = (
        owned_blocks(pieces, start=0, end=len(source), max_line=max_line + 1)
        if lines_only
        else record_blocks(pieces, start=0, max_line=max_line + 1)
    )
    for block in blocks:
        laid = _lay_out(block)
        quick, slow = one._decode_rows(laid), one._decode_one_by_one(laid, unclosed)

        assert quick is None or quick == slow
        assert quick is not None or slow.rejects or '"' in source.decode(errors="ignore")


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise(body: bytes, lines_only: bool) -> None:
    source = ",".join(NAMES).encode() + b"\n" + body
    if lines_only:
        cut_into_ranges(source, 50, [LONG], TYPED)
    else:
        walked(source, 1, [LONG], TYPED)
    (block,) = [Block(5, body, [5, 5 + len(body) // 2])]
    TYPED.decode(block, 0)


@pytest.mark.parametrize("over", [0, 1])
def test_the_object_of_a_record_may_have_as_many_bytes_as_the_rules_say_and_none_more(over: int) -> None:
    mapping = replace(PLAIN, rules=Rules(longest=len('{"a":"xyz"}')))
    found = decoder(["a"], mapping).decode(Block(2, b"xyz" + b"x" * over + b"\nz", [2, 6 + over]), 0)

    assert [reject.code for reject in found.rejects] == [RejectCode.EVENT_TOO_LARGE] * over
    assert len(found.events) == 2 - over


# --- against the standard library ---------------------------------------------------------------------------

# The standard library's writer leaves a cell with a carriage return and no more unquoted, and its own reader then takes
# it for a line end. Quoted such a cell is fine, here too.
characters = st.characters(codec="utf-8", exclude_characters="\r")
values = st.text(characters, max_size=8) | st.sampled_from(["", 'a"b', "a,b", "a\nb", "a\r\nb"])


@given(
    st.lists(st.tuples(values, values, values), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.integers(1, 200),
)
@settings(max_examples=200)
def test_what_the_standard_library_writes_is_read_as_it_reads_it(
    table: list[tuple[str, str, str]], end: str, quoting: Any, size: int
) -> None:
    written = io.StringIO(newline="")
    out = csv.writer(written, lineterminator=end, quoting=quoting)
    out.writerows([("x", "y", "z"), *table])
    source = written.getvalue()
    read = list(csv.DictReader(io.StringIO(source, newline=""), strict=True))

    found = walked(source.encode(), 1000, [size], decoder(("x", "y", "z"), PLAIN))

    assert found.rejects == []
    assert [json.loads(event.payload) for event in found.events] == read
    assert found.lines == len(table)


@given(
    st.lists(values | st.text(max_size=3).filter(str.isprintable) | st.just("a\rb\x7f\u2028/"), min_size=1, max_size=5)
)
def test_an_object_is_written_as_the_standard_library_writes_it(row: list[str]) -> None:
    names = [f"c{at}" for at in range(len(row))]
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="").writerow(row)

    decoded = decoder(names, PLAIN).decode(Block(9, written.getvalue().encode(), [9]), 0)

    text = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, separators=(",", ":"))
    assert [event.payload.decode() for event in decoded.events] == [text]


# --- examples -----------------------------------------------------------------------------------------------


def code_of(line: bytes, names: Sequence[str] = ("a", "b"), mapping: Mapping = PLAIN) -> str:
    decoded = decoder(names, mapping, 4000).decode(Block(100, line, [100]), 0)
    return decoded.rejects[0].code if decoded.rejects else "blank" if decoded.blank else "event"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"x,y", "event"),
        (b"x,y\r", "event"),
        (b"x,y\r\r", "invalid_csv"),
        (b'"x",y\r\r', "invalid_csv"),
        (b'"x",y\r', "event"),
        (b'x,"y"\r\r', "invalid_csv"),
        (b'x,"y\r', "invalid_csv"),
        (b",", "event"),
        (b"", "blank"),
        (b" \t\r", "blank"),
        (b"x", "ragged_row"),
        (b"x,y,", "ragged_row"),
        (b"x;y", "ragged_row"),
        (b'"x,y"', "ragged_row"),
        (b'"x","y"', "event"),
        (b'"x\ny",z', "event"),
        (b'"x\r\ny",z', "event"),
        (b'"x\ry",z', "event"),
        (b"x\ry,z", "invalid_csv"),
        (b'x"y,z', "invalid_csv"),
        (b'x,"y"z', "invalid_csv"),
        (b'x, "y"', "invalid_csv"),
        (b'"x" ,y', "invalid_csv"),
        (b'x,"y', "invalid_csv"),
        (b'x,"y""', "invalid_csv"),
        (b"x,'y", "event"),
        (b'x,\\"', "invalid_csv"),
        (b"x,\xff", "invalid_utf8"),
        (b'x"\xff', "invalid_utf8"),
        (b"x,\x00", "event"),
        (b"x," + b"y" * 3998, "event"),
        (b"x," + b"y" * 3999, "line_too_long"),
        (b" " * 4001, "line_too_long"),
    ],
)
def test_the_table_of_records(line: bytes, code: str) -> None:
    assert code_of(line) == code


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("", "event"), ("1", "event"), ("-0", "event"), ("1.0", "invalid_id"), ("1e3", "invalid_id"),
        ("x", "invalid_value"), ("01", "invalid_value"), ("NaN", "invalid_value"), ("9" * 512, "event"),
        ("9" * 513, "id_too_long"), ("9" * 3000, "id_too_long"),
    ],
)  # fmt: skip
def test_an_id_in_a_column_of_numbers_is_judged_as_a_number_of_json(cell: str, code: str) -> None:
    mapping = Mapping(id_names=("a",), types=(("a", ColumnType.NUMBER),))

    assert code_of(f"{cell},x".encode(), mapping=mapping) == code


def test_the_digits_make_an_integer_of_a_typed_column_and_a_string_of_another() -> None:
    numbers = Mapping(id_names=("a",), types=(("a", ColumnType.NUMBER),))
    strings = Mapping(id_names=("a",))
    block = Block(9, b"12,x")

    (number,) = decoder(("a", "b"), numbers).decode(block, 0).events
    (string,) = decoder(("a", "b"), strings).decode(block, 0).events

    assert (number.event_id, number.payload) == (IDENTITY.of_integer(12), b'{"a":12,"b":"x"}')
    assert (string.event_id, string.payload) == (IDENTITY.of_string("12"), b'{"a":"12","b":"x"}')


def test_an_empty_cell_counts_as_absent_for_id_and_time() -> None:
    one = decoder(("id", "other", "at"), Mapping(id_names=("id", "other"), time_names=("at",)))
    first, second, third = one.decode(Block(9, b"a,b,2024-05-01\n,b,\n,,"), 0).events

    assert [first.event_id, second.event_id] == [IDENTITY.of_string("a"), IDENTITY.of_string("b")]
    assert third.event_id == derived_id(7, 3, third.offset)
    assert [second.time, third.time] == [DEFAULT_TIME, DEFAULT_TIME]
    assert third.payload == b'{"id":"","other":"","at":""}'


def test_ids_and_times_are_members_of_the_object_itself_so_that_no_dotted_name_finds_one() -> None:
    one = decoder(("a.id", "a.at"), Mapping(id_names=("a.id",), time_names=("a.at",)))
    (event,) = one.decode(Block(9, b"x,2024-05-01"), 0).events

    assert (event.has_id, event.time) == (False, DEFAULT_TIME)


def test_dots_that_do_not_nest_are_part_of_a_name_that_may_be_an_id_or_a_time() -> None:
    types = (("a.", ColumnType.NUMBER),)
    mapping = Mapping(id_names=("a.id",), time_names=("a.at",), types=types, dots_nest=False)
    source = b"a.id,a.at,a,a.,.,,a,a..b\nx,2024-05-01,1,2,3,4,5,6\n"
    names = read_header(source, mapping, whole=True)
    (event,) = walked(source, 9, [LONG], decoder(names, mapping)).events

    assert event.payload == b'{"a.id":"x","a.at":"2024-05-01","a":["1","5"],"a.":2,".":"3","":"4","a..b":"6"}'
    assert (event.event_id, event.time) == (IDENTITY.of_string("x"), parse_time("2024-05-01"))


def test_rows_of_endpoints_become_the_objects_that_their_service_documents_for_them() -> None:
    source = (
        b"ChannelType,Address,Location.Country,Demographic.Platform,Demographic.Make,User.UserId\n"
        b"SMS,2065550182,CAN,Android,LG,example-user-id-1\n"
        b"EMAIL,john.stiles@example.com,USA,iOS,Apple,example-user-id-2\n"
    )
    one = decoder(read_header(source, PLAIN, whole=True), PLAIN)

    sms, email = [event.payload.decode() for event in cut_into_ranges(source, 100, [LONG], one).events]

    assert sms == (
        '{"ChannelType":"SMS","Address":"2065550182","Location":{"Country":"CAN"},'
        '"Demographic":{"Platform":"Android","Make":"LG"},"User":{"UserId":"example-user-id-1"}}'
    )
    assert email == (
        '{"ChannelType":"EMAIL","Address":"john.stiles@example.com","Location":{"Country":"USA"},'
        '"Demographic":{"Platform":"iOS","Make":"Apple"},"User":{"UserId":"example-user-id-2"}}'
    )


def test_names_nest_and_repeat_in_the_order_in_which_they_come_up() -> None:
    names = ("Type", "L.Country", "A.Ride", "x%b", "L.City", "A.Ride", "d.e.f", "d.g", 'q"', "é")
    (event,) = decoder(names, PLAIN).decode(Block(9, "1,2,3,4,5,6,7,8,9,ü".encode()), 0).events

    assert event.payload.decode() == (
        '{"Type":"1","L":{"Country":"2","City":"5"},"A":{"Ride":["3","6"]},"x%b":"4",'
        '"d":{"e":{"f":"7"},"g":"8"},"q\\"":"9","é":"ü"}'
    )


def test_an_empty_cell_is_null_where_its_column_has_a_type_and_an_empty_string_elsewhere() -> None:
    types = (("n", ColumnType.NUMBER), ("b", ColumnType.BOOLEAN), ("s", ColumnType.STRING))
    one = decoder(("n", "b", "s", "x"), Mapping(types=types))
    decoded = one.decode(Block(9, b'1.500e+09,TRUE,x,\n,,,\n-0,"false","",""'), 0)

    assert [event.payload for event in decoded.events] == [
        b'{"n":1.500e+09,"b":true,"s":"x","x":""}',
        b'{"n":null,"b":null,"s":null,"x":""}',
        b'{"n":-0,"b":false,"s":null,"x":""}',
    ]


def test_a_line_break_in_a_cell_of_a_column_of_numbers_does_not_make_two_numbers_of_it() -> None:
    one = decoder(("n", "x"), Mapping(types=(("n", ColumnType.NUMBER),)))
    decoded = one.decode(Block(9, b'1,a\n"2\n3",b\n4,c', [9, 13, 21]), 0)

    assert [(reject.code, reject.line) for reject in decoded.rejects] == [("invalid_value", 1)]


def test_a_quote_that_does_not_close_has_a_code_of_its_own_where_lines_are_records() -> None:
    one = decoder(("a", "b"), PLAIN)
    decoded = one.decode(Block(9, b'1,"x\ny",2\n3,4'), 0)

    assert [reject.code for reject in decoded.rejects] == ["quoted_line_break", "invalid_csv"]
    assert [event.payload for event in decoded.events] == [b'{"a":"3","b":"4"}']


def test_a_stray_quote_costs_one_row_and_not_those_behind_it() -> None:
    source = b'size,n\n5" pipe,1\n6,2\n"x"y,3\n7,4\n'
    found = walked(source, 9, [LONG], decoder(("size", "n"), PLAIN))

    assert [(reject.line, reject.offset, reject.code) for reject in found.rejects] == [
        (1, 7, "invalid_csv"),
        (3, 21, "invalid_csv"),
    ]
    assert [json.loads(event.payload)["n"] for event in found.events] == ["2", "4"]


def test_a_quote_that_never_closes_takes_in_the_rest_and_is_one_reject() -> None:
    source = b'a,b\n1,2\n"x,3\n4,5\n'
    found = walked(source, 9, [LONG], decoder(("a", "b"), PLAIN))

    assert found.rejects == [Reject(2, 8, 9, RejectCode.INVALID_CSV, b'"x,3\n4,5\n')]
    assert (len(found.events), found.lines) == (1, 2)


def test_the_lines_of_a_record_over_the_limit_count_for_those_behind_it() -> None:
    cell = b"line\n" * 1000
    source = b'a,b\n"' + cell + b'",1\nbad\n'
    for size in (7, 100, LONG):
        found = walked(source, 1, [size], decoder(("a", "b"), PLAIN, 100), 100)

        assert [(reject.line, reject.code) for reject in found.rejects] == [(1, "line_too_long"), (1002, "ragged_row")]
        assert found.text_lines == 1003


def test_a_reject_says_where_and_keeps_its_bytes() -> None:
    long = b"x" * 100_000
    block = Block(1000, b'1,2\r\nnope\r\n\r\n"a\nb",\n' + long, [1000, 1005, 1011, 1013, 1020])
    decoded = decoder(("a", "b"), PLAIN).decode(block, 40)

    assert decoded.rejects == [
        Reject(41, 1005, 4, RejectCode.RAGGED_ROW, b"nope"),
        Reject(45, 1020, 100_000, RejectCode.RAGGED_ROW, long[:KEPT_BYTES]),
    ]
    assert (decoded.blank, decoded.lines, decoded.text_lines) == (1, 5, 6)


def test_rows_with_nul_are_marked_odd_and_others_are_not() -> None:
    decoded = decoder(("a",), PLAIN).decode(Block(9, b"x\n\x00\n\\u0000\n\\"), 0)

    assert [event.odd for event in decoded.events] == [False, True, True, False]
    (event,) = decoder(("a\x00",), PLAIN).decode(Block(9, b"x"), 0).events
    assert event.odd


def test_the_header_is_passed_over_even_if_it_holds_line_breaks() -> None:
    source = BOM + b'"a\nb",c\r\n1,2\r\nx\r\n'
    names = read_header(source, PLAIN, whole=True)
    for size in (1, 2, 5, LONG):
        found = walked(source, 9, [size], decoder(names, PLAIN))

        assert [event.payload for event in found.events] == [b'{"a\\nb":"1","c":"2"}']
        assert [(reject.line, reject.offset) for reject in found.rejects] == [(3, 17)]
        assert (found.lines, found.text_lines) == (2, 4)


def test_ten_thousand_columns_are_read_at_the_speed_of_few() -> None:
    names = tuple(f"group{at % 100}.name{at}" for at in range(10_000))
    row = ",".join(map(str, range(10_000)))
    started = time.perf_counter()
    names = read_header(",".join(names).encode() + b"\n", PLAIN, whole=True)
    decoded = decoder(names, PLAIN).decode(Block(9, "\n".join([row] * 20).encode()), 0)

    assert time.perf_counter() - started < 2
    assert json.loads(decoded.events[19].payload)["group7"]["name107"] == "107"


@pytest.mark.parametrize(
    "line",
    [
        b'"' * 500_000,
        b'"' * 500_001,
        b'a"' * 300_000,
        b'"a' * 300_000,
        b'"a",' * 200_000,
        b"," * 900_000,
        b"\r" * 900_000,
    ],
)
def test_no_record_takes_long(line: bytes) -> None:
    one = decoder(("a", "b"), PLAIN)
    started = time.perf_counter()
    for block in record_blocks([b"a,b\n", line], start=0, max_line=LONG):
        one.decode(block, 0)

    assert time.perf_counter() - started < 2
