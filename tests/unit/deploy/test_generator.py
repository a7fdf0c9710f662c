"""The generator against a small reader of its own, made of nothing but the standard library's json."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from common.model.rejects import RejectCode
from deploy.local import generator
from deploy.local.generator import FEWEST_EVENTS, MAX_LINE, BadLine, EventFile, EventStream, Fate, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SIZES = [FEWEST_EVENTS, 101, 1012, 5058]


def content(events: int, seed: int = 1) -> bytes:
    return EventStream(EventFile(events, seed=seed)).read()


def receipt(events: int) -> generator.Receipt:
    stream = EventStream(EventFile(events))
    stream.read()
    return stream.receipt


# --- what the file is like

#: What only a row of CSV can be.
OF_CSV = {
    RejectCode.INVALID_CSV,
    RejectCode.QUOTED_LINE_BREAK,
    RejectCode.RAGGED_ROW,
    RejectCode.INVALID_VALUE,
}
#: What a line can be only where the request has rules for it.
OF_RULES = {
    RejectCode.EVENT_TOO_LARGE,
    RejectCode.INVALID_NAME,
    RejectCode.NAME_TOO_LONG,
    RejectCode.RESERVED_PREFIX,
    RejectCode.RESERVED_NAME,
    RejectCode.MISSING_MEMBER,
    RejectCode.UNKNOWN_REFERENCE,
}


@pytest.mark.parametrize("events", SIZES)
def test_that_many_lines_are_events(events: int) -> None:
    found = receipt(events)
    assert found.stored + found.duplicates == events
    assert found.lines == events + len(found.rejects) + found.blank
    assert len(found.rejects) == 25
    assert found.blank > 0


def test_a_smaller_file_is_refused() -> None:
    with pytest.raises(ValueError, match="100 events or more"):
        EventFile(FEWEST_EVENTS - 1)


def test_events_are_about_280_bytes_long() -> None:
    file = EventFile(3000)
    lengths = [len(file.event(number).payload) for number in range(file.events)]
    assert 270 < sum(lengths) / len(lengths) < 300


def test_the_same_seed_makes_the_same_file_and_another_another() -> None:
    assert content(2000) == content(2000)
    assert content(2000) != content(2000, seed=2)


def test_a_line_does_not_depend_on_those_before_it() -> None:
    file = EventFile(2000)
    events = [line for line in file.lines() if line.fate in (Fate.STORED, Fate.DUPLICATE)]
    assert [file.event(number) for number in (1999, 57, 1012)] == [
        events[1999]._replace(end=b"\n"),
        events[57],
        events[1012],
    ]


@pytest.mark.parametrize("size", [997, 65_536, 10_000_000])
def test_reading_in_pieces_gives_the_same_bytes(size: int) -> None:
    stream = EventStream(EventFile(1500))
    pieces = list(iter(lambda: stream.read(size), b""))
    assert {len(piece) for piece in pieces[:-1]} <= {size}
    assert b"".join(pieces) == content(1500)


@pytest.mark.parametrize("events", SIZES)
def test_the_first_line_is_an_event_and_the_last_has_no_line_end(events: int) -> None:
    lines = list(EventFile(events).lines())
    assert lines[0].fate is Fate.STORED
    assert lines[-1].fate in (Fate.STORED, Fate.DUPLICATE)
    assert [line for line in lines if not line.end] == lines[-1:]
    assert content(events).endswith(b"}")


@pytest.mark.parametrize("events", SIZES)
def test_every_kind_of_line_is_there(events: int) -> None:
    lines = list(EventFile(events).lines())
    assert {line.code for line in lines if line.code} == set(RejectCode) - OF_CSV - OF_RULES
    assert {line.fate for line in lines} == set(Fate)
    taken = [line for line in lines if line.fate is Fate.STORED]
    assert {line.end for line in taken} >= {b"\n", b"\r\n"}
    assert any(line.time is None for line in taken)
    assert any(b"_id" not in line.payload for line in taken), "no line without an id"
    assert any(rb"\u0000" in line.payload for line in taken)
    assert any(rb"\ud83c\udf39" in line.payload for line in taken)
    assert any("🌼".encode() in line.payload for line in taken)
    assert {line.end for line in lines if line.fate is Fate.REJECTED} == {b"\n", b"\r\n"}


def test_one_line_is_a_byte_too_long() -> None:
    long = [line for line in EventFile(FEWEST_EVENTS).lines() if line.code is RejectCode.LINE_TOO_LONG]
    assert [len(line.payload) for line in long] == [MAX_LINE + 1]
    json.loads(long[0].payload)  # nothing else is wrong with it


def test_one_event_in_a_hundred_repeats_an_id() -> None:
    assert receipt(20_000).duplicates == 200


def test_most_repeats_are_in_another_chunk_than_the_first_of_their_id_and_some_in_the_same() -> None:
    """A file of a million events has 35 chunks of 8 MiB; this one has 33 of its own size."""
    events = 20_000
    offset, chunk, chunk_of = 0, len(content(events)) // 32, []
    for line in EventFile(events).lines():
        if line.fate in (Fate.STORED, Fate.DUPLICATE):
            chunk_of.append(offset // chunk)
        offset += len(line.payload) + len(line.end)
    file = EventFile(events)
    apart = [chunk_of[n] != chunk_of[file.first_with_id_of(n)] for n in range(events) if is_repeat(file, n)]
    assert 0.6 < sum(apart) / len(apart) < 0.95


def is_repeat(file: EventFile, number: int) -> bool:
    return file.event(number).fate is Fate.DUPLICATE


def test_no_two_events_bring_the_same_id() -> None:
    file = EventFile(50_000)
    brought = {file.id_of(number) for number in range(50_000)}
    assert len(brought) == 50_000


def test_times_go_up_and_stay_readable_in_a_very_large_file() -> None:
    file = EventFile(40_000_000)
    times = [file.event(number).time for number in (0, 1, 1_000_000, 17_000_001, 39_999_999)]
    read = [EPOCH + timedelta(microseconds=time or 0) for time in times]
    assert all(datetime(2024, 1, 1, tzinfo=UTC) <= time < datetime(2026, 12, 31, tzinfo=UTC) for time in read)
    assert read[1] == read[0] + timedelta(milliseconds=5011)


# --- what it says must become of the lines, against a reader of its own


@pytest.mark.parametrize("events", SIZES)
@pytest.mark.parametrize("seed", [1, 7])
def test_an_independent_reader_comes_to_the_same(events: int, seed: int) -> None:
    stream = EventStream(EventFile(events, seed=seed))
    reader = Reader(stream.read())
    assert list(EventFile(events, seed=seed).rows()) == reader.rows
    found = stream.receipt
    assert found.rejects == reader.rejects
    assert (found.lines, found.blank, found.duplicates) == (reader.lines, reader.blank, reader.duplicates)
    assert (found.stored, found.size) == (len(reader.rows), reader.size)


class Refused(Exception):
    def __init__(self, code: RejectCode) -> None:
        self.code = code


class Reader:
    """Reads a file as the documents say it is to be read, slowly and in the plainest way."""

    def __init__(self, data: bytes) -> None:
        self.rows: list[Row] = []
        self.rejects: list[BadLine] = []
        self.blank = self.duplicates = self.lines = self.size = 0
        seen: set[object] = set()
        for raw in data.split(b"\n"):
            payload = raw.removesuffix(b"\r")
            if not payload.strip():
                self.blank += 1
            else:
                self.take(payload, seen)
            self.lines += 1
            self.size += len(raw) + 1
        self.size -= 1

    def take(self, payload: bytes, seen: set[object]) -> None:
        try:
            event_id, time = read_event(payload)
        except Refused as refused:
            self.rejects.append(BadLine(self.lines, self.size, min(len(payload), MAX_LINE + 1), refused.code))
            return
        # A line without an id repeats nobody.
        key = object() if event_id is None else (type(event_id), event_id)
        if key in seen:
            self.duplicates += 1
            return
        seen.add(key)
        self.rows.append(Row(self.size, time, payload))


def read_event(payload: bytes) -> tuple[str | int | None, int | None]:
    """Return id and time in microseconds, None where there is none."""
    if len(payload) > MAX_LINE:
        raise Refused(RejectCode.LINE_TOO_LONG)
    event = read_object(payload)
    return read_id(first(event, "id", "$unique_id")), read_time(first(event, "timestamp", "$time"))


def read_object(payload: bytes) -> dict[str, Any]:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise Refused(RejectCode.INVALID_UTF8) from None
    if depth(text) > 512:
        raise Refused(RejectCode.TOO_DEEP)
    try:
        value = json.loads(text, parse_constant=refuse_constant)
    except ValueError:
        raise Refused(RejectCode.INVALID_JSON) from None
    if not isinstance(value, dict):
        raise Refused(RejectCode.NOT_AN_OBJECT)
    if any("\ud800" <= character <= "\udfff" for text in strings(value) for character in text):
        raise Refused(RejectCode.LONE_SURROGATE)
    return value


def refuse_constant(name: str) -> None:
    raise ValueError(name)


def depth(text: str) -> int:
    brackets = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    steps = [1 if bracket in "[{" else -1 for bracket in brackets if bracket in "[]{}"]
    return max(itertools.accumulate(steps), default=0)


def strings(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case dict() as members:
                left += [*members.keys(), *members.values()]
            case list() as items:
                left += items


def first(event: dict[str, Any], *names: str) -> Any:
    return next((event[name] for name in names if event.get(name) is not None), None)


def read_id(value: Any) -> str | int | None:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise Refused(RejectCode.INVALID_ID)
    if value == "":
        raise Refused(RejectCode.EMPTY_ID)
    if len(str(value).encode()) > 512 and value is not None:
        raise Refused(RejectCode.ID_TOO_LONG)
    return value


def read_time(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            raise Refused(RejectCode.INVALID_TIME) from None
        return (time.replace(tzinfo=time.tzinfo or UTC) - EPOCH) // timedelta(microseconds=1)
    return round(value * (1_000_000 if value < 10**11 else 1000))


# --- the reader must not agree with everything


def test_the_reader_sees_who_was_first() -> None:
    lines = list(EventFile(1000).lines())
    turned = b"\n".join(line.payload for line in reversed(lines))
    reader = Reader(turned)
    assert Counter(row.payload for row in reader.rows) != Counter(row.payload for row in EventFile(1000).rows())
    assert all(one.offset < other.offset for one, other in pairwise(reader.rows))
