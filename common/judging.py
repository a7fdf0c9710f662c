"""Judge a line: the event that it is, or why it is none. The same for an object's lines and for events that are pushed.

The rules of one line, in the order in which they are asked; the first that fails names the reject:

1. ``invalid_utf8``: anywhere in the line.
2. ``too_deep``: more than 512 brackets open at once, strings left out.
3. ``invalid_json``: not what RFC 8259 and Postgres' type ``json`` call a value; also two values.
4. ``not_an_object``.
5. ``lone_surrogate``: an escape for half of a surrogate pair, in any key or string.
6. ``invalid_id``, ``empty_id``, ``id_too_long``: of the first of the mapping's id names that is there and not
   null. Of a repeated key the last counts. The id is a string or an integer; 1.0 and 1e3 are no integers.
7. ``invalid_time``: likewise, see ``parse_time``; where the mapping takes months first, ``parse_month_first`` as well.
   Where the mapping says that the time is the id, a line without an id that has a time is named by it from here on.
8. ``event_too_large``: more bytes than the mapping's rules say.
9. ``invalid_name`` (it holds a period), ``name_too_long``: at any depth, the first such name. Then, of the names at the
   top, ``reserved_prefix``, ``reserved_name``. By the mapping's rules, see ``common.naming``.
10. Last, where the mapping has rules: those of ``common.ruling``.

msgspec is the judge of JSON throughout. It agrees with Postgres on every odd line tried (tests/stores), but for what
this page adds: it does not see invalid UTF-8 in what it skips, and it refuses lone surrogates where Postgres does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec

from common.model.events import MAX_ID_BYTES, Event, Identity, derived_prefix, time_id
from common.model.mapping import Mapping
from common.model.rejects import RejectCode
from common.model.times import parse_any_time, parse_time
from common.naming import name_judge
from common.ruling import Known, ruling_of

#: msgspec's own limit moves with the depth of Python's stack (900 to 1,000 levels were seen): ours is lower.
MAX_DEPTH = 512

#: Blank to a line, which ends with its newline.
BLANK = b" \t\r"
#: On which every json operator of Postgres fails.
NUL = b"\\u0000"
#: A JSON string, or what stands for one in a line that is no JSON. Possessive (``++``): it cannot backtrack.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
#: A string, to be passed over, or what JSON is put together with.
_STRUCTURE = re.compile(_STRING.pattern + rb"|[][{},]", re.DOTALL)
#: An escape in a string; those of surrogates have a group.
_ESCAPE = re.compile(rb"\\(?:(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)

#: Stands for an integer of more digits than we read: as an id it is too long, as a time out of range.
_HUGE = 10**MAX_ID_BYTES


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)
_TEXT = msgspec.json.Decoder(str)


class LineJudge:
    """Judges lines by the rules of one mapping. Holds no state between them but what is known."""

    #: Whether an empty string counts as absent where the mapping's rules ask for a member.
    _empty_is_absent = False

    def __init__(
        self,
        mapping: Mapping,
        *,
        identity: Identity,
        import_number: int,
        source_ordinal: int,
        default_time: int,
        known: Known | None = None,
    ) -> None:
        """Take the rules.

        ``default_time`` (microseconds since 1970) is the time of a line that holds none; ``known``: what lines may
        refer to, which is told what they do. OverflowError if ``import_number`` or ``source_ordinal`` has more bits
        than an id derived from them has room for (48, 23).
        """
        self._identity = identity
        self._prefix = derived_prefix(import_number, source_ordinal)
        self._default_time = default_time
        self._id_names, self._time_names = mapping.id_names, mapping.time_names
        self._id_is_time, self._month_first = mapping.id_is_time, mapping.month_first
        self._parse_time = parse_any_time if mapping.month_first else parse_time

        self._of_integer = identity.of_digits if mapping.rules.digits_are_text else identity.of_integer
        self._longest = mapping.rules.longest
        self._names = name_judge(mapping.rules.names)

        names = tuple(dict.fromkeys((*self._id_names, *self._time_names)))
        fields = dict(zip(names, _fields_for(names), strict=True))
        self._id_fields = [attrgetter(fields[name]) for name in self._id_names]
        self._time_fields = [attrgetter(fields[name]) for name in self._time_names]
        self._typed = _typed_decoder(names)
        self._ruling = ruling_of(mapping.rules, known, identity=identity, empty_is_absent=self._empty_is_absent)

    def judge(self, payload: bytes, offset: int) -> Event | RejectCode:
        """Return the event that a line is, without its line end and not blank, or why it is none.

        ``offset`` is where it stands. Raises nothing for any bytes.
        """
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                return RejectCode.INVALID_UTF8
        if is_too_deep(payload):
            return RejectCode.TOO_DEEP
        values = self._read(payload)
        if isinstance(values, RejectCode):
            return values
        id_value, time_value = values
        event_id = self._identify(id_value, offset)
        if isinstance(event_id, RejectCode):
            return event_id
        time = self._default_time if time_value is None else self._parse_time(time_value)
        if time is None:
            return RejectCode.INVALID_TIME
        has_id = id_value is not None
        if self._id_is_time and not has_id and time_value is not None:
            event_id, has_id = time_id(time), True
        event = Event(event_id, has_id, offset, time, NUL in payload, payload)
        return self._judge_form(payload) or self._ruled(event)

    def _read(self, payload: bytes) -> tuple[Any, Any] | RejectCode:
        """Return a line's id and time as they stand in it (None: it has none), or why it cannot be read."""
        if self._typed is not None:
            try:
                found = self._typed.decode(payload)
            except msgspec.MsgspecError:
                return self._read_patiently(payload)
            return first_of(found, self._id_fields), first_of(found, self._time_fields)
        return self._read_patiently(payload)

    def _read_patiently(self, payload: bytes) -> tuple[Any, Any] | RejectCode:
        """Do as ``_read`` does, without types: only the values that count are looked into."""
        try:
            members = _MEMBERS.decode(payload)
        except msgspec.MsgspecError:
            # Lone surrogates are all that msgspec refuses and JSON does not: is it well without surrogates?
            mended = _ESCAPE.sub(lambda found: b"\\u0041" if found[1] else found[0], payload)
            try:
                _ANYTHING.decode(mended)
            except msgspec.MsgspecError:
                return RejectCode.INVALID_JSON
            is_object = payload.lstrip(BLANK).startswith(b"{")
            return RejectCode.LONE_SURROGATE if is_object else RejectCode.NOT_AN_OBJECT
        return self._value(members, self._id_names), self._value(members, self._time_names)

    def _value(self, members: dict[str, msgspec.Raw], names: Sequence[str]) -> Any:
        """Return the first named member that is not null: its string or number, or False for others."""
        tokens = (bytes(members[name]) for name in names if name in members)
        token = next((token for token in tokens if token != b"null"), None)
        if token is None:
            return None
        if token.startswith(b'"'):
            return _TEXT.decode(token)
        if token[0] not in b"-0123456789":
            return False
        if not {*b".eE"}.isdisjoint(token):
            return float(token)
        # Python reads no integer of more than 4,300 digits.
        return int(token) if len(token) <= MAX_ID_BYTES else _HUGE

    def _identify(self, value: Any, offset: int) -> bytes | RejectCode:
        """Return the 16 bytes of the id a line holds (None: it holds none), or why we refuse it."""
        if value is None:
            return self._prefix + offset.to_bytes(7, "big")
        if type(value) is str:
            if not value:
                return RejectCode.EMPTY_ID
            if len(value) > MAX_ID_BYTES // 4 and len(value.encode()) > MAX_ID_BYTES:
                return RejectCode.ID_TOO_LONG
            return self._identity.of_string(value)
        if type(value) is int:
            return self._of_integer(value) if -_HUGE // 10 < value < _HUGE else RejectCode.ID_TOO_LONG
        return RejectCode.INVALID_ID

    def _ruled(self, event: Event) -> Event | RejectCode:
        """Return an event as the rules of the mapping have it, or why it is none. Nothing is asked after it."""
        return event if self._ruling is None else self._ruling.judge(event)

    def _judge_form(self, payload: bytes) -> RejectCode | None:
        """Return why an object is not taken for its size or its names; None where it is."""
        if self._longest is not None and len(payload) > self._longest:
            return RejectCode.EVENT_TOO_LARGE
        return self._names.judge(payload) if self._names else None


def _fields_for(names: Sequence[str]) -> list[str]:
    return [f"f{at}" for at in range(len(names))]


@lru_cache(maxsize=256)
def _typed_decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any] | None:
    """Return what reads these members of a line, and nothing else; None where msgspec cannot.

    Its types refuse what can be neither id nor time. Kept, since a request that pushes one event needs it too.
    """
    try:
        # ``gc=False``: these can form no cycles.
        line = msgspec.defstruct(
            "Line",
            [(field, str | int | float | None, None) for field in _fields_for(names)],
            rename=dict(zip(_fields_for(names), names, strict=True)),
            gc=False,
        )
        return msgspec.json.Decoder(line)
    except ValueError:
        # msgspec has no field whose name holds a quote, a backslash or a control character.
        return None


def is_too_deep(payload: bytes) -> bool:
    """Tell whether more than ``MAX_DEPTH`` brackets are open at once, those in strings left out.

    Most lines are too short, or have too few opening brackets whatever stands in strings.
    """
    if len(payload) <= MAX_DEPTH or payload.count(b"{") + payload.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", payload).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0) > MAX_DEPTH


def has_more_elements(text: bytes, most: int, *, depths: Container[int]) -> bool:
    """Tell whether what lies so many brackets deep in JSON is far more than ``most`` elements and members.

    To be asked before these are kept one by one: 16 MiB of ``1,`` took a gigabyte as a list. Nothing is looked at
    where all commas are too few for that. Text that is no JSON may be either.
    """
    return text.count(b",") >= 4 * most and count_commas(text, depths=depths, most=most) == most


def count_commas(text: bytes, *, depths: Container[int], most: int) -> int:
    """Return the commas that lie so many brackets deep in JSON, up to ``most``. Flat in memory; stops with the last."""
    opened = count = 0
    for token in _STRUCTURE.finditer(text):
        match text[token.start()]:
            case 0x7B | 0x5B:  # { and [
                opened += 1
            case 0x7D | 0x5D:
                opened -= 1
            case 0x2C if opened in depths:
                count += 1
                if count == most:
                    break
    return count


def first_of(found: Any, fields: Sequence[Callable[[Any], Any]]) -> Any:
    """Return the first of the fields of one line that is not None, else None."""
    for field in fields:
        value = field(found)
        if value is not None:
            return value
    return None


def on_one_line(element: bytes) -> bytes:
    """Return an element of an array, or a body, as a line: line breaks between tokens are spaces.

    A newline in a string, which no JSON has, is a vertical tab, so that it is refused all the same.
    """
    if b"\n" not in element and b"\r" not in element:
        return element
    strings = _STRING.findall(element)
    others = _STRING.split(element)
    joined = [b""] * (len(strings) + len(others))
    joined[::2] = [other.replace(b"\n", b" ").replace(b"\r", b" ") for other in others]
    joined[1::2] = [string.replace(b"\n", b"\v") for string in strings]
    return b"".join(joined)
