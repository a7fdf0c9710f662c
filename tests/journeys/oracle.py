"""Objects in which all goes wrong that may, and what has to come of them.

Nothing here knows the product's decoder: lines are judged by the standard library's ``json``, one at a time, by the
rules that the documents give. Connect's names are looked for: ``id``, then ``$unique_id``; ``timestamp``, then
``$time``.
"""

from __future__ import annotations

import json
import re
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from random import Random
from typing import Any, NamedTuple, NoReturn

ID_NAMES, TIME_NAMES = ("id", "$unique_id"), ("timestamp", "$time")
SENTENCES = {
    "invalid_json": "The JSON specified was not valid.",
    "not_an_object": "The line is valid JSON but not an object.",
    "invalid_utf8": "The line is not valid UTF-8.",
    "invalid_id": "The id is neither a string nor an integer.",
    "empty_id": "The id is an empty string.",
    "lone_surrogate": "The line holds half of a surrogate pair (\\ud800 to \\udfff), which is no character.",
    "too_deep": "The line is nested more deeply than 512 levels.",
    "line_too_long": "The line is longer than this service accepts.",
    "id_too_long": "The id is longer than 512 bytes.",
    "invalid_time": "The time is neither an ISO 8601 time nor a number of seconds or milliseconds since 1970.",
}

_KEPT_BYTES = 64 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CANONICAL = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Line(NamedTuple):
    """A line of an object, judged: an event, or rejected, or blank."""

    index: int
    #: Of its first byte.
    offset: int
    #: Without line end.
    payload: bytes
    #: What names the event in its collection; None where the line has no id.
    key: str | None
    #: Microseconds since 1970; None where the line has none.
    time: int | None
    #: Why it is rejected; "blank"; or "" for an event.
    code: str


@dataclass(frozen=True, eq=False)
class Object:
    """An object's bytes and what they come to. ``name`` tells how to make it again."""

    name: str
    content: bytes

    @cached_property
    def lines(self) -> list[Line]:
        return list(_judge_all(self.content))

    @cached_property
    def _offsets(self) -> list[int]:
        return [line.offset for line in self.lines]

    def owned(self, start: int, end: int) -> list[Line]:
        """Return the lines whose first byte lies in ``[start, end)``."""
        return self.lines[bisect_left(self._offsets, start) : bisect_left(self._offsets, end)]

    @cached_property
    def events(self) -> list[Line]:
        return [line for line in self.lines if not line.code]

    @cached_property
    def rejects(self) -> list[Line]:
        return [line for line in self.lines if line.code not in ("", "blank")]

    @cached_property
    def firsts(self) -> list[Line]:
        """The lines that have to be stored in an empty collection."""
        return first_of_each(self.events)


def first_of_each(events: list[Line]) -> list[Line]:
    """Return the first line of each id, and every line without one."""
    firsts: dict[str | int, Line] = {}
    for line in events:
        firsts.setdefault(line.index if line.key is None else line.key, line)
    return list(firsts.values())


def canonical(key: str | None) -> str | None:
    """Return the id that is stored of an event, where the documents tell: of a canonical UUID, itself."""
    text = (key or "").removeprefix("string ")
    return text if _CANONICAL.fullmatch(text) else None


# --- judging


def _judge_all(content: bytes) -> Iterator[Line]:
    offset = 0
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()  # behind a last newline is no line
    for index, raw in enumerate(lines):
        payload = raw.removesuffix(b"\r")
        yield Line(index, offset, payload, *_judge(payload))
        offset += len(raw) + 1


@cache
def _judge(payload: bytes) -> tuple[str | None, int | None, str]:
    if not payload.strip(b" \t\r"):
        return None, None, "blank"
    try:
        value = json.loads(payload.decode(), parse_constant=_refuse)
    except ValueError as error:
        return None, None, "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "invalid_json"
    if code := _wrong_value(payload, value):
        return None, None, code
    event_id, moment = _first(value, ID_NAMES), _first(value, TIME_NAMES)
    if code := _wrong_id(event_id):
        return None, None, code
    try:
        time = None if moment is None else _micros(moment)
    except ValueError:
        return None, None, "invalid_time"
    key = None if event_id is None else f"{'string' if isinstance(event_id, str) else 'integer'} {event_id}"
    return key, time, ""


def _wrong_value(payload: bytes, value: Any) -> str:
    if not isinstance(value, dict):
        return "not_an_object"
    # To look into every value takes time; without this escape there is nothing to be found.
    return "lone_surrogate" if b"\\ud" in payload.lower() and not _is_encodable(value) else ""


def _wrong_id(event_id: Any) -> str:
    if event_id is None:
        return ""
    if isinstance(event_id, bool) or not isinstance(event_id, str | int):
        return "invalid_id"
    if event_id == "":
        return "empty_id"
    return "id_too_long" if len(str(event_id).encode()) > 512 else ""


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _micros(moment: Any) -> int:
    if isinstance(moment, str):
        parsed = datetime.fromisoformat(moment)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).__sub__(_EPOCH) // timedelta(microseconds=1)
    if isinstance(moment, bool) or not isinstance(moment, int | float):
        raise ValueError(moment)
    return round(moment * (1_000_000 if abs(moment) < 10**11 else 1000))


def _is_encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


# --- making


@cache
def make_object(
    seed: int,
    events: int,
    *,
    repeated: float = 0.1,
    bad: float = 0.004,
    longest: int = 140,
    from_ids_of: int | None = None,
) -> Object:
    """Return an object of about so many lines, the same for the same arguments.

    A smaller one of the same seed and shares is the beginning of a larger one: journeys into collections of their own
    take the same lines, which are made and judged once.
    ``repeated`` and ``bad`` are shares of the lines; one line in fifty has up to ``longest`` bytes more. With
    ``from_ids_of`` half of the ids are those of the object of that other seed.
    """
    name = (
        f"make_object({seed}, {events}, repeated={repeated}, bad={bad}, longest={longest}, from_ids_of={from_ids_of})"
    )
    # The ids of another are taken from its other end: such a beginning is one of no other.
    maker = _maker(seed, repeated, bad, longest, from_ids_of, events if from_ids_of is not None else None)
    return Object(name, maker.content(events))


class _Maker:
    def __init__(
        self, seed: int, repeated: float, bad: float, longest: int, from_ids_of: int | None, events: int | None
    ) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.events = events
        self.repeated, self.bad, self.longest, self.from_ids_of = repeated, bad, longest, from_ids_of
        self.used: list[Any] = []
        self.made: list[bytes] = []
        #: The numbers of those that are events.
        self.events_at: set[int] = set()

    def content(self, events: int) -> bytes:
        last = events
        while len(self.made) <= last or last not in self.events_at:
            if len(self.made) > last:
                last += 1
            else:
                self.made.append(self._line(len(self.made)))
        # The last line has no newline, and is an event so that a reader which drops it is found out.
        return b"".join(self.made[:last]) + self.made[last].rstrip(b"\r\n")

    def _line(self, number: int) -> bytes:
        chance = self.random.random()
        if chance < self.bad:
            return self.random.choice(_BAD) + b"\n"
        if chance < self.bad + 0.004:
            return self.random.choice([b"\n", b"\r\n", b"  \t \n", b" \r\n"])
        self.events_at.add(number)
        return self._event(number)

    def _event(self, number: int) -> bytes:
        random = self.random
        event: dict[str, Any] = {}
        self._name(event, number)
        self._date(event, number)
        event["customer"] = {"name": random.choice(_NAMES), "tags": ["a", None, True, number, random.random()]}
        event["padding"] = "x" * random.randrange(20, self.longest if random.random() < 0.02 else 140)
        if random.random() < 0.01:
            event["odd"] = random.choice(["\0", 'tab\tline\nquote"back\\slash', "\u2028\x7f", "𝄞", {"id": "inner"}])
        shape = random.random()
        separators = (",", ":") if shape < 0.5 else (", ", ": ")
        text = json.dumps(event, ensure_ascii=0.5 < shape < 0.8, separators=separators)
        if shape > 0.99:
            text = f"  {text}\t"
        if 0.3 < shape < 0.301:
            text = text[:-1] + ',"huge":1e999,"dup":1,"dup":2}'
        return text.encode() + (b"\r\n" if shape < 0.05 else b"\n")

    def _name(self, event: dict[str, Any], number: int) -> None:
        random = self.random
        chance = random.random()
        if chance < 0.02:
            if chance < 0.01:
                event["id"] = None
            return
        if self.used and random.random() < self.repeated:
            # Mostly from anywhere before, so from other chunks; now and then a neighbour.
            value = random.choice(self.used if random.random() < 0.8 else self.used[-20:])
        else:
            value = self._fresh_id(number)
            self.used.append(value)
        event["$unique_id" if random.random() < 0.1 else "id"] = value

    def _fresh_id(self, number: int) -> Any:
        seed = self.seed
        if self.from_ids_of is not None and self.events is not None and self.random.random() < 0.5:
            # From the other end: so each of two imports that run side by side is ahead of the other for half of them.
            seed, number = self.from_ids_of, self.events - number
        kind = number % 20
        text = str(uuid.UUID(int=Random(f"{seed} {number}").getrandbits(128), version=4))
        odd: dict[int, Callable[[], Any]] = {
            0: lambda: text.upper(),
            1: lambda: f"order-{seed}-{number}",
            2: lambda: seed * 1_000_000 + number,
            3: lambda: f"{seed * 1_000_000 + number}",
            4: lambda: f"bestellung-ß-{seed}-{number}-🌹",
        }
        return odd[kind]() if kind in odd else text

    def _date(self, event: dict[str, Any], number: int) -> None:
        random = self.random
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number * 977)
        kind = random.random()
        if kind < 0.02:
            return
        name = "$time" if kind > 0.95 else "timestamp"
        if kind < 0.06:
            event[name] = int(moment.timestamp())
        elif kind < 0.1:
            event[name] = int(moment.timestamp() * 1000)
        elif kind < 0.15:
            event[name] = moment.isoformat().replace("+00:00", "+02:00")
        else:
            event[name] = moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@cache
def _maker(*wishes: Any) -> _Maker:
    return _Maker(*wishes)


_NAMES = ["Zoë Müller", "Ann O'Hara", "李小龍", "Łukasz Żak", "José"]
_BAD = [
    b'{"id": "cut off", "timestamp": "2024-01-01T00:0',
    b"not json at all",
    b'{"id": "two"} {"id": "objects"}',
    b'{"id": "trailing comma",}',
    b'{"id": "nan", "value": NaN}',
    b'{"id": "zero", "value": 01}',
    b'{"id": "control\x01"}',
    b'["an", "array"]',
    b"17",
    b'"a string"',
    b"null",
    b'{"id": "latin-1 \xe9"}',
    b'{"id": "lone", "half": "\\ud83c"}',
    b'{"id": ""}',
    b'{"id": 1.5}',
    b'{"id": true}',
    b'{"id": ["a"]}',
    b'{"id": "when", "timestamp": "yesterday"}',
    b'{"id": "when", "timestamp": {}}',
    b'{"id": "' + b"long" * 200 + b'"}',
]
