"""Judge a chunk's lines: each becomes an event, a reject, or is counted as blank.

The rules of one line, in the order in which they are asked; the first that fails names the reject:

1. ``line_too_long``: more than ``max_line`` bytes before its line end (a byte order mark counts). Then a byte order
   mark at byte 0 of the source and one carriage return at the end of the line are dropped.
2. Blank (nothing but spaces, tabs, carriage returns): counted, no more.
3. Those of ``common.judging``.

There are three ways through, from quick to slow, and they never differ in a verdict: a whole block in one
call; a line at a time by the same decoder; and, for a line that this one refuses, a patient judge that finds
the reason (or that there is none: numbers too large for a float are fine in a line).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, compress, repeat
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from common.judging import BLANK, MAX_DEPTH, NUL, LineJudge, first_of, is_too_deep
from common.model.events import MAX_ID_BYTES, Event, Identity, time_id
from common.model.mapping import Mapping
from common.model.rejects import KEPT_BYTES, Reject, RejectCode
from common.model.times import parse_times
from common.ruling import Known
from workers.imports.framing import NEWLINE, Block

#: A valid line of ``MAX_DEPTH + 1`` levels has that many brackets of each side.
_SHORTEST_TOO_DEEP = 2 * (MAX_DEPTH + 1)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: ``Event._make`` without its check of the length: 0.20 us an event, and no Python frame.
_make_event = partial(tuple.__new__, Event)
_ALWAYS, _NEVER = True, False
_first_byte, _last_byte = itemgetter(0), itemgetter(-1)


#: Ids, and whether each came from its line.
_Ids = tuple[list[bytes], Iterable[bool]]


class Decoded(NamedTuple):
    """What a block's lines are: ``lines`` = events + rejects + ``blank``."""

    events: list[Event]
    rejects: list[Reject]
    blank: int
    lines: int
    #: Lines of text that the lines take up, where it is not one each (a header; quoted line breaks).
    text_lines: int | None = None


class Decoder(LineJudge):
    """Decodes the lines of one source for one import. Holds no state between blocks but what is known."""

    def __init__(
        self,
        mapping: Mapping,
        *,
        identity: Identity,
        import_number: int,
        source_ordinal: int,
        default_time: int,
        max_line: int,
        known: Known | None = None,
    ) -> None:
        """Take the import's rules: those of ``LineJudge``, and the longest line taken, in bytes."""
        super().__init__(
            mapping,
            identity=identity,
            import_number=import_number,
            source_ordinal=source_ordinal,
            default_time=default_time,
            known=known,
        )
        self._max_line = max_line

    def decode(self, block: Block, first_line: int) -> Decoded:
        """Return what the lines of ``block`` are, in order.

        ``first_line`` is the index within the chunk of the block's first line, from 0. Raises nothing for any
        bytes.
        """
        return self._decode_at_once(block) or self._decode_by_line(block, first_line)

    def _decode_at_once(self, block: Block) -> Decoded | None:
        """Decode a block in one call, or return None if a line may be anything but blank or an event."""
        laid = _lay_out(block)
        found = self._read_at_once(laid)
        if found is None or not self._have_form(laid):
            return None
        moments = _first_of_each(found, self._time_fields)
        times = self._time_all(moments)
        if times is None:
            return None
        ids = self._identify_all(_first_of_each(found, self._id_fields), laid.offsets)
        if ids is None:
            return None
        if self._id_is_time:
            ids = named_by_time(ids, moments, times)
        odd: Iterable[bool] = repeat(_NEVER)
        # The search for one byte is memchr, 60 times as quick as the search for the text.
        if b"\\" in laid.data and NUL in laid.data:
            odd = [NUL in payload for payload in laid.payloads]
        event_ids, has_id = ids
        # Not strict: ``repeat`` has no end.
        rows = zip(event_ids, has_id, laid.offsets, times, odd, laid.payloads, strict=False)
        return self._make_events(rows, lines=laid.lines)

    def _make_events(self, rows: Iterable[tuple[Any, ...]], *, lines: int) -> Decoded | None:
        """Return what so many lines are, all of them events or blank; None if the mapping's rules may refuse one.

        The last thing to be asked of a line: what it names may be registered now.
        """
        events = list(map(_make_event, rows))
        ruled = events if self._ruling is None else self._ruling.judge_all(events)
        return None if ruled is None else Decoded(ruled, [], blank=lines - len(ruled), lines=lines)

    def _read_at_once(self, laid: _Layout) -> list[Any] | None:
        """Return the typed fields of each payload, or None if that cannot be told in one call.

        The one call takes two objects on a line and one object over two lines. But once every line begins
        with ``{`` and ends with ``}``, each line break stands between ``}`` and ``{``, where JSON allows
        nothing but the top level (in a string it would be a control character, elsewhere a comma is missing).
        So no object goes over a line, each line holds at least one, and equal numbers mean one each.
        """
        if self._typed is None or laid.longest > self._max_line or not _all_look_like_objects(laid.bodies):
            return None
        if laid.longest >= _SHORTEST_TOO_DEEP and any(map(is_too_deep, laid.payloads)):
            return None
        try:
            if not laid.data.isascii():
                laid.data.decode()  # msgspec does not look into what it skips
            found: list[Any] = self._typed.decode_lines(laid.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return found if len(found) == len(laid.payloads) else None

    def _have_form(self, laid: _Layout) -> bool:
        """Tell whether all payloads, objects by now, have the size and the names that the rules allow."""
        if self._longest is not None and laid.longest > self._longest and max(map(len, laid.payloads)) > self._longest:
            return False
        return not (self._names and self._names.breaks(laid.payloads, laid.data))

    def _identify_all(self, values: list[Any], offsets: Sequence[int]) -> _Ids | None:
        """Return the ids and whether each came from its line; None if one of them is refused."""
        if set(map(type, values)) == {str}:
            lengths = set(map(len, values))
            # 128 characters are at most 512 bytes: most blocks need no second look.
            if max(lengths) > MAX_ID_BYTES // 4 and any(len(text.encode()) > MAX_ID_BYTES for text in values):
                return None
            return None if 0 in lengths else (self._identity.of_strings(values), repeat(_ALWAYS))
        ids = [self._identify(value, offset) for value, offset in zip(values, offsets, strict=True)]
        taken = [made for made in ids if not isinstance(made, RejectCode)]
        return (taken, [value is not None for value in values]) if len(taken) == len(ids) else None

    def _time_all(self, values: list[Any]) -> list[int] | None:
        """Return the times in microseconds; None if one of them is refused."""
        if set(map(type, values)) == {str}:
            quick = parse_times(values)
            if quick is not None or not self._month_first:
                return quick
        times = [self._default_time if value is None else self._parse_time(value) for value in values]
        taken = [time for time in times if time is not None]
        return taken if len(taken) == len(times) else None

    def _decode_by_line(self, block: Block, first_line: int) -> Decoded:
        """Decode a block a line at a time."""
        events: list[Event] = []
        rejects: list[Reject] = []
        blank = 0
        lines = block.data.split(NEWLINE)
        offsets = _offsets_of(block, map(len, lines))
        for line, (raw, offset) in enumerate(zip(lines, offsets, strict=True), first_line):
            if len(raw.removesuffix(b"\r")) > self._max_line:
                length = self._max_line + 1  # framing may have cut it; how much more there was nobody looked
                body = raw[: min(length, KEPT_BYTES)]
                rejects.append(Reject(line, offset, length, RejectCode.LINE_TOO_LONG, body))
                continue
            payload = _without_mark(raw, offset).removesuffix(b"\r")
            if not payload.strip(BLANK):
                blank += 1
                continue
            judged = self.judge(payload, offset)
            if isinstance(judged, RejectCode):
                rejects.append(Reject(line, offset, len(payload), judged, payload[:KEPT_BYTES]))
            else:
                events.append(judged)
        return Decoded(events, rejects, blank, len(lines))


class _Layout(NamedTuple):
    """A block's lines that are not blank, without line ends, and where each begins in the source."""

    payloads: list[bytes]
    offsets: Sequence[int]
    #: The payloads without blanks around them: to the decoder the same, and to the check below plain to see.
    bodies: list[bytes]
    #: The bodies, joined.
    data: bytes
    #: Bytes of the longest line as it stood, its carriage return included.
    longest: int
    #: How many lines there were, blank ones included.
    lines: int


def named_by_time(ids: _Ids, moments: Sequence[Any], times: Sequence[int]) -> _Ids:
    """Return the ids, those of a line that has none made of its time, if it holds one (``moments``: None if not)."""
    event_ids, has_id = list(ids[0]), []
    # Not strict: ``repeat`` has no end.
    for at, (has, moment) in enumerate(zip(ids[1], moments, strict=False)):
        if not has and moment is not None:
            event_ids[at] = time_id(times[at])
        has_id.append(has or moment is not None)
    return event_ids, has_id


def _lay_out(block: Block) -> _Layout:
    """Return the lines of a block; quick when there is nothing to take out."""
    payloads = block.data.split(NEWLINE)
    lengths = list(map(len, payloads))
    longest, lines = max(lengths), len(lengths)
    offsets = _offsets_of(block, lengths)
    if _all_look_like_objects(payloads):
        return _Layout(payloads, offsets, payloads, block.data, longest, lines)
    payloads[0] = _without_mark(payloads[0], block.offset)
    payloads = [payload.removesuffix(b"\r") for payload in payloads]
    bodies = [payload.strip(BLANK) for payload in payloads]
    payloads, offsets = list(compress(payloads, bodies)), list(compress(offsets, bodies))
    bodies = list(filter(None, bodies))
    return _Layout(payloads, offsets, bodies, NEWLINE.join(bodies), longest, lines)


def _offsets_of(block: Block, lengths: Iterable[int]) -> Sequence[int]:
    """Return where each line begins in the source."""
    if block.offsets is not None:
        return block.offsets
    offsets = list(accumulate([length + 1 for length in lengths], initial=block.offset))
    del offsets[-1]  # behind the last line
    return offsets


def _all_look_like_objects(lines: list[bytes]) -> bool:
    """Tell whether every line begins with ``{`` and ends with ``}``. 0.04 us a line."""
    if b"" in lines:
        return False
    return set(map(_first_byte, lines)) <= {ord("{")} and set(map(_last_byte, lines)) <= {ord("}")}


def _without_mark(line: bytes, offset: int) -> bytes:
    """Return a line without byte order mark, which only the first byte of a source may begin."""
    return line.removeprefix(_BYTE_ORDER_MARK) if offset == 0 else line


def _first_of_each(found: list[Any], fields: Sequence[Callable[[Any], Any]]) -> list[Any]:
    """Return ``[first_of(one, fields) for one in found]``, sooner: nearly always the first field is all."""
    if not fields:
        return [None] * len(found)
    values = list(map(fields[0], found))
    if len(fields) > 1 and type(None) in set(map(type, values)):
        return [first_of(one, fields) for one in found]
    return values
