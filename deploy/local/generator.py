"""
A file of events in which everything that can go well or badly on the way does, and what must come of it.

Line by line a pure function of a seed and the number of events: the file is never held, and a second
pass tells what has to be in the table. What a line must come to is known because the line was built so;
nothing here decodes. Every thousand events have each oddity once (a null id, a time in seconds, CRLF,
...) among their first hundred, so that a small file has all of them too; one event in a hundred has the
id of an earlier one, ten times out of eleven of one anywhere before it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import Enum
from itertools import islice
from typing import NamedTuple

from common.model.rejects import RejectCode

#: The longest line that the service takes unless a setting says otherwise; one bad line is a byte longer.
MAX_LINE = 1024 * 1024
#: Below this not every oddity would be there.
FEWEST_EVENTS = 100

_PERIOD = 1000
_REPEAT_PERIOD = 100
_MASK = (1 << 64) - 1
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND

#: The first event's time; each later one's is five seconds later, for 1,024 days.
_FIRST_DAY = date(2024, 1, 1)
_DAYS = [str(_FIRST_DAY + timedelta(days=day)) for day in range(1024)]
_CLOCK = [f"T{h:02}:{m:02}:{s:02}." for h in range(24) for m in range(60) for s in range(60)]
_START = (_FIRST_DAY - date(1970, 1, 1)).days * _DAY
#: How many different middles of lines there are: prime, so that each meets every oddity.
_RESTS = 1021

_PRODUCTS = ["12 red roses", "White bouquet", "Rosé bouquet", "Blåklokke, små", "向日葵", "Édelweiss 🌼", "Тюльпан"]
_NAMES = ["Zoë Müller", "José Ñandú", "Łukasz Żak", "Ann O'Hara", "李小龍", "Ωμέγα Παπά"]
_CITIES = ["Kraków", "Göteborg", "São Paulo", "Brisbane", "大阪", "Αθήνα", "Zürich", "Hà Nội"]
_NOTES = [
    r"Für \"Zoë\" \u2014 with love\n\ud83c\udf39",
    r"C:\\orders\\new\tby hand",
    r"Leave it at the door\/gate, 5 \u20ac",
    r"no note",
]


class Fate(Enum):
    """What has to become of a line."""

    STORED = "stored"
    DUPLICATE = "a duplicate"
    REJECTED = "rejected"
    BLANK = "blank"


class Line(NamedTuple):
    """A line of the file."""

    #: The bytes that are stored of an event: without the line end.
    payload: bytes
    #: What ends the line: LF, CRLF, or nothing at the end of the file.
    end: bytes
    fate: Fate
    #: Of an event, in microseconds since 1970; None where the line holds none.
    time: int | None = None
    #: Of a rejected line.
    code: RejectCode | None = None


class Row(NamedTuple):
    """An event that has to be in the table."""

    #: Of the line's first byte in the file.
    offset: int
    #: Microseconds since 1970; None for the import's creation time.
    time: int | None
    payload: bytes


class BadLine(NamedTuple):
    """A line that has to be listed as rejected."""

    #: 0-based index among all lines of the file.
    line: int
    offset: int
    length: int
    code: RejectCode


@dataclass(slots=True)
class Receipt:
    """What has to come of the lines seen so far."""

    lines: int = 0
    size: int = 0
    stored: int = 0
    duplicates: int = 0
    blank: int = 0
    rejects: list[BadLine] = field(default_factory=list)

    def add(self, line: Line) -> None:
        """Count the file's next line."""
        if line.fate is Fate.STORED:
            self.stored += 1
        elif line.fate is Fate.DUPLICATE:
            self.duplicates += 1
        elif line.code:
            self.rejects.append(BadLine(self.lines, self.size, line_length(line), line.code))
        else:
            self.blank += 1
        self.lines += 1
        self.size += len(line.payload) + len(line.end)


def line_length(line: Line) -> int:
    """Return the length that a reject is listed with: of a line over the limit nobody counts the rest."""
    return min(len(line.payload), MAX_LINE + 1)


class EventFile:
    """The file made of a number of events and a seed. Holds a thousand middles of lines and no line."""

    def __init__(self, events: int, *, seed: int = 1) -> None:
        """Take how many lines are events; bad and blank ones come on top. ValueError below 100."""
        if events < FEWEST_EVENTS:
            message = f"a file with an event of every kind has {FEWEST_EVENTS} events or more"
            raise ValueError(message)
        self.events = events
        self._salt = _mix(seed)
        self._rests = [_rest(_mix(number ^ self._salt)) for number in range(_RESTS)]

    def lines(self) -> Iterator[Line]:
        """Yield every line in order. The first and the last are events; the last has no line end."""
        done, last = 0, self.events - 1
        for place, line in self._asides():
            yield from map(self.event, range(done, place))
            yield line
            done = place
        yield from map(self.event, range(done, last))
        yield self.event(last)._replace(end=b"")

    def rows(self) -> Iterator[Row]:
        """Yield what has to be in the table, in the order of the file."""
        offset = 0
        for payload, end, fate, time, _ in self.lines():
            if fate is Fate.STORED:
                yield Row(offset, time, payload)
            offset += len(payload) + len(end)

    # --- lines that are events

    def event(self, number: int) -> Line:
        """Return an event's line, as one that another follows."""
        if odd := _ODDITIES.get(number % _PERIOD):
            return self._odd(number, odd)
        if number % _REPEAT_PERIOD == _REPEAT:
            return self._plain(number, self.id_of(self.first_with_id_of(number)), Fate.DUPLICATE)
        return self._plain(number, self.id_of(number), Fate.STORED)

    def first_with_id_of(self, number: int) -> int:
        """Return the earlier event whose id a repeat has: mostly any, now and then one near by."""
        bits = _mix(self._salt + number)
        near = number // _REPEAT_PERIOD % 11 == 5
        first = number - 1 - bits % 40 if near else bits % number
        while first % _PERIOD in _WITHOUT_ID or first % _REPEAT_PERIOD == _REPEAT:
            first -= 1
        return first

    def id_of(self, number: int) -> str:
        """Return the JSON text of the id that an event brings along: no two events bring the same."""
        odd = _ODD_IDS.get(number % _PERIOD)
        return odd(self, number) if odd else f'"{self.uuid(number)}"'

    def uuid(self, number: int) -> str:
        """Return a UUID for each number, never the same: ``_mix`` can be undone, and all of x can be read off it."""
        x = _mix(number + self._salt)
        digits = f"{x:016x}{x * 0xD6E8FEB86659FD93 & _MASK:016x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def _plain(self, number: int, id_text: str, fate: Fate) -> Line:
        """Return the usual line. Bytes are put together in a third of the time of text that is not ASCII."""
        time, micros = _time(number)
        rest = self._rests[number % _RESTS]
        payload = b'{"$unique_id":%b,"$time":"%bZ","order":%d,%b}' % (id_text.encode(), time.encode(), number, rest)
        return Line(payload, b"\n", fate, micros)

    def _odd(self, number: int, odd: Oddity) -> Line:
        """Return a line of which something is unusual."""
        time, micros = _time(number)
        text = odd.text.format(
            id=self.id_of(number),
            time=time,
            day=time[:10],
            millis=micros // 1000,
            seconds=micros // _SECOND,
            rest=f'"order":{number},{self._rests[number % _RESTS].decode()}',
        )
        return Line(text.encode(), odd.end, Fate.STORED, odd.time(micros))

    # --- lines that are none

    def _asides(self) -> list[tuple[int, Line]]:
        """Return the bad and the blank lines, each with the number of the event before which it stands."""
        bad = self._bad_lines()
        blank = [Line(payload, end, Fate.BLANK) for payload, end in _BLANKS * (1 + self.events // 80_000)]
        asides = [*zip(self._places(len(bad), 1), bad, strict=True)]
        asides += zip(self._places(len(blank), 2), blank, strict=True)
        return sorted(asides, key=lambda aside: aside[0])

    def _places(self, count: int, salt: int) -> Iterator[int]:
        """Yield so many places from 1 on, spread over the file."""
        room = self.events - 1
        for number in range(count):
            within = _mix(self._salt + (salt << 32) + number) % room
            yield 1 + (number * room + within) // count

    def _bad_lines(self) -> list[Line]:
        """Return the bad lines. The id in them is a late event's, which has to be stored all the same."""
        late = self.events - 1
        while late % _PERIOD in _WITHOUT_ID or late % _REPEAT_PERIOD == _REPEAT:
            late -= 1
        kinds = bad_payloads(self.id_of(late).encode())
        bad = [(code, payload) for code, payloads in kinds.items() for payload in payloads]
        return [
            Line(payload, b"\r\n" if number % 5 == 4 else b"\n", Fate.REJECTED, code=code)
            for number, (code, payload) in enumerate(bad)
        ]


class EventStream(io.RawIOBase):
    """A file's bytes to be read from start to end, as S3 clients do; counts the lines that go by."""

    def __init__(self, file: EventFile) -> None:
        """Take the file. Nothing is made before the first read."""
        self.receipt = Receipt()
        self._lines = file.lines()
        self._held = bytearray()

    def readable(self) -> bool:
        """Return True; it cannot be sought in."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer only at the end. Holds a thousand lines more than that."""
        while size < 0 or len(self._held) < size:
            lines = list(islice(self._lines, 1000))
            if not lines:
                break
            for line in lines:
                self.receipt.add(line)
            self._held += b"".join([part for line in lines for part in line[:2]])
        size = len(self._held) if size < 0 else size
        piece = bytes(memoryview(self._held)[:size])
        del self._held[:size]
        return piece


def _mix(number: int) -> int:
    """Return 64 bits in which those of a number are stirred; can be undone, so no two numbers give the same."""
    number = (number + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 29) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 32


def _time(number: int) -> tuple[str, int]:
    """Return an event's time without its zone, and in microseconds since 1970."""
    millis = number * 5_011 % (len(_DAYS) * 86_400_000)
    second, milli = divmod(millis, 1000)
    return f"{_DAYS[second // 86_400]}{_CLOCK[second % 86_400]}{milli:03}", _START + millis * 1000


def _rest(bits: int) -> bytes:
    """Return the middle of a line, nested and with text of many scripts, as 64 bits will have it."""
    price = f"{bits >> 12 & 127}.{bits >> 20 & 63:02}"
    name, city = _NAMES[bits % 6], _CITIES[bits >> 32 & 7]
    return (
        f'"product":"{_PRODUCTS[bits % 7]}","quantity":{bits >> 8 & 15},"price":{price},'
        f'"customer":{{"name":"{name}","address":{{"city":"{city}"}},"tags":["web",null,{bits >> 44}]}},'
        f'"note":"{_NOTES[bits >> 30 & 3]}"'
    ).encode()


# --- oddities, by the last three digits of the event's number; all below 100


def _as_written(micros: int) -> int | None:
    return micros


def _without_time(_micros: int) -> int | None:
    return None


class Oddity(NamedTuple):
    """What is unusual about a line that is an event all the same."""

    text: str
    #: From the usual time of such an event to what the line says instead.
    time: Callable[[int], int | None] = _as_written
    end: bytes = b"\n"


_USUAL = '"$unique_id":{id},"$time":"{time}Z"'
_ODDITIES = {
    # No id: one is made of its place, so it is stored once even if its chunk is loaded twice.
    3: Oddity('{{"$time":"{time}Z",{rest}}}'),
    5: Oddity('{{"id":null,"$unique_id":null,"$time":"{time}Z",{rest}}}'),
    # No time: it gets the import's creation time.
    7: Oddity('{{"$unique_id":{id},{rest}}}', _without_time),
    9: Oddity('{{"$unique_id":{id},"$time":null,{rest}}}', _without_time),
    11: Oddity("{{" + _USUAL + ",{rest}}}", end=b"\r\n"),
    # Connect's own names win over ours.
    17: Oddity('{{"$time":"1999-12-31","timestamp":{millis},"$unique_id":"not this","id":{id},{rest}}}'),
    # Other ways to write a time.
    23: Oddity(
        '{{"$unique_id":{id},"$time":"{time}456+02:00",{rest}}}', lambda micros: micros - 2 * 3600 * _SECOND + 456
    ),
    25: Oddity('{{"$unique_id":{id},"$time":{seconds}.25,{rest}}}', lambda micros: micros - micros % _SECOND + 250_000),
    27: Oddity('{{"$unique_id":{id},"$time":"{day}",{rest}}}', lambda micros: micros - micros % _DAY),
    # What parsers and databases stumble over, and what must come back byte by byte.
    29: Oddity("{{" + _USUAL + r',"zero":"a\u0000b",{rest}}}'),
    31: Oddity(' \t{{ "$unique_id" :\t{id} , "$time":"{time}Z" , {rest} }} '),
    33: Oddity("{{" + _USUAL + ',"numbers":[1e999999,-0,1E-400,1.10,123456789012345678901234567890],{rest}}}'),
    35: Oddity('{{"$unique_id":"not this",' + _USUAL + ",{rest}}}"),
    37: Oddity("{{" + _USUAL + ',"deep":' + "[" * 511 + "]" * 511 + ",{rest}}}"),
    43: Oddity("{{" + _USUAL + ',"]}}{{[":"\u2028\x7f }}{{ ",{rest}}}'),
}
#: Ids that are no UUIDs, of lines that are usual otherwise. An integer is another id than its digits in quotes.
_ODD_IDS: dict[int, Callable[[EventFile, int], str]] = {
    13: lambda _file, number: f"{number}",
    14: lambda _file, number: f'"{number - 1}"',
    19: lambda file, number: f'"{file.uuid(number - 1).upper()}"',
    21: lambda _file, number: f'"Straße {number} \\ud83c\\udf39"',
    39: lambda _file, number: f'"{number:0512}"',
}
_WITHOUT_ID = frozenset({3, 5})
_REPEAT = 57
_BLANKS = [(b"", b"\n"), (b"", b"\r\n"), (b" \t ", b"\n"), (b"  ", b"\r\n")]


def bad_payloads(id_text: bytes) -> dict[RejectCode, list[bytes]]:
    """Return lines that must be rejected, by reason; those that can have an id have this one."""
    start = b'{"$unique_id":%b,"$time":"2024-02-29T12:00:00Z",' % id_text
    rest = b',"$time":"2024-02-29T12:00:00Z","product":"White bouquet"}'
    too_long = start + b'"note":"'
    return {
        RejectCode.INVALID_JSON: [
            start + b'"note":"cut he',
            start + b'"note":"one comma too many",}',
            start + b'"price":NaN}',
            start + b'"quantity":012}',
            start + b'"quantity":1} ' + start + b'"quantity":2}',
            b"{'$unique_id': 'single quotes'}",
        ],
        RejectCode.NOT_AN_OBJECT: [b'[{"$unique_id":"in an array"}]', b'"12 red roses"', b"null"],
        RejectCode.INVALID_UTF8: [
            start + b'"city":"Z\xfcrich"}',
            start + b'"half of a pair":"\xed\xa0\xbc"}',
            start + b'"a slash too long":"\xc0\xaf"}',
        ],
        RejectCode.LONE_SURROGATE: [start + b'"note":"\\ud83c"}', start + b'"\\udf39":"in a name"}'],
        RejectCode.TOO_DEEP: [
            start + b'"deep":' + b"[" * 512 + b"]" * 512 + b"}",
            start + b'"deep":' + b'{"a":' * 600 + b"1" + b"}" * 601,
        ],
        RejectCode.LINE_TOO_LONG: [too_long + b"x" * (MAX_LINE + 1 - len(too_long) - 2) + b'"}'],
        RejectCode.INVALID_ID: [b'{"$unique_id":%b' % odd + rest for odd in (b"true", b"1.0", b'["1"]')],
        RejectCode.EMPTY_ID: [b'{"$unique_id":""' + rest],
        RejectCode.ID_TOO_LONG: [
            b'{"$unique_id":"' + "ü".encode() * 257 + b'"' + rest,
            b'{"$unique_id":' + b"7" * 513 + rest,
        ],
        RejectCode.INVALID_TIME: [
            b'{"$unique_id":%b,"$time":"2024-02-30T12:00:00Z"}' % id_text,
            b'{"$unique_id":%b,"$time":"soon"}' % id_text,
        ],
    }
