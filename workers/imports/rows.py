"""Judge the records of CSV: each becomes an event, a reject, or is counted as blank.

The rules of one record, in the order in which they are asked; the first that fails names the reject:

1. ``line_too_long``: more than ``max_line`` bytes before its line end. Then one carriage return at the end is dropped.
2. Blank (nothing but spaces, tabs, carriage returns): counted, no more. A row of one empty cell is written ``""``.
3. ``invalid_utf8``: anywhere in the record.
4. ``invalid_csv``, see ``records``; but ``quoted_line_break`` where a quote does not close and every line is a record.
5. ``ragged_row``: more or fewer cells than the header has columns.
6. ``invalid_value``: a cell that is not of its column's type. A number is one of JSON, without spaces around it; its
   digits are kept. A boolean is true or false, in letters of any case. An empty cell of a typed column, whatever the
   type, is null.
7. ``invalid_id``, ``id_too_long``, ``invalid_time``: as of a line of JSON (see ``decoding``). The id is the first cell
   that is not empty in the columns of the mapping's id names; the time likewise. CSV has no null, so an empty cell
   counts as absent, and no id is ``empty_id``. Cells are strings; in a column typed as a number they are numbers. A row
   without an id is named by its time where the mapping says so, likewise.
8. ``event_too_large`` and those of names: likewise, of the object that the record becomes. The header makes its names.
9. Those of ``common.ruling``, of the same object.

The header is no line of the receipt: it is passed over in the block that begins at byte 0. Cells stay as they stand,
spaces included; a cell of an untyped column that is empty is the empty string.

There are two ways through, and they never differ in a verdict: many records at once, and a record at a time. Where a
block holds anything but events and blank records, it goes the first way in slices, and the second only those slices
that do: with one bad row in 300 it took 9.7 us a row to go through all records of such a block singly, and takes 3.3.
What is stored is built by msgspec; ujson took 0.8 us a row more for the same bytes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, compress, repeat
from operator import methodcaller
from typing import Any, NamedTuple

import msgspec

from common.model.events import MAX_ID_BYTES, Event, time_id
from common.model.mapping import ColumnType, Mapping
from common.model.rejects import KEPT_BYTES, Reject, RejectCode
from workers.imports.decoding import Decoded, Decoder, named_by_time
from workers.imports.framing import NEWLINE, Block
from workers.imports.header import lay_out
from workers.imports.records import is_well_quoted, read_rows

_BLANK = b" \t\r"
_NUL = b"\\u0000"
_NULL = b"null"
_EMPTY = b'""'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
#: Cells of a column of numbers, each with a line feed behind it.
_NUMBERS = re.compile(f"(?:(?:{_NUMBER})?\n)*+")
_BOOLEANS = {"true": b"true", "false": b"false", "": _NULL}
#: Stands for an integer of more digits than we read: as an id it is too long, as a time out of range.
_HUGE = 10**MAX_ID_BYTES

#: Records of a block that are decoded at once where not all of it can be.
_SLICE = 32

_NEVER = False
_strip = methodcaller("strip", _BLANK)
_drop_return = methodcaller("removesuffix", b"\r")
_ends_with_return = methodcaller("endswith", b"\r")
_count_commas = methodcaller("count", b",")

#: A column and its type, None if it has none.
_Column = tuple[int, ColumnType | None]


class RowDecoder(Decoder):
    """Decodes the records of one source of CSV for one import. Holds no state between blocks but what is known.

    Ids and times are judged by the decoder of lines of JSON, once they are read.
    """

    _empty_is_absent = True

    def __init__(self, names: Sequence[str], mapping: Mapping, **rules: Any) -> None:
        """Take the names of the columns, as ``read_header`` returned them, and the import's rules.

        These are as ``Decoder`` has them.
        """
        super().__init__(mapping, **rules)
        form = lay_out(names, dots_nest=mapping.dots_nest)
        self._width = len(names)
        self._fill = form.template.__mod__
        #: Whether a name alone makes each row so.
        self._may_be_odd = _NUL in form.template
        in_order = form.columns == tuple(range(self._width))
        self._order = None if in_order else form.columns
        types = dict(mapping.types)
        at = {name: column for column, name in enumerate(names)}
        self._types = [(at[name], kind) for name, kind in types.items() if name in at]
        # A name whose dots nest is not a member of the object itself.
        members = {name: place for name, place in at.items() if not (mapping.dots_nest and "." in name)}
        self._ids = [(members[name], types.get(name)) for name in mapping.id_names if name in members]
        self._times = [(members[name], types.get(name)) for name in mapping.time_names if name in members]
        empty_row = form.template % ((_NULL,) * self._width)
        self._has_bad_names = self._names is not None and self._names.judge(empty_row) is not None
        self._to_json = msgspec.json.Encoder().encode_lines

    def decode(self, block: Block, first_line: int) -> Decoded:
        """Return what the records of ``block`` are, in order.

        Where ``block.offsets`` is None, each line is a record. ``first_line`` is the index within the chunk of the
        block's first line of text, from 0, the header's line counted; so is that of a reject, which is where its
        record begins. Raises nothing for any bytes.
        """
        laid = _lay_out(block)
        decoded = self._decode_rows(laid)
        if decoded is None:
            unclosed = RejectCode.QUOTED_LINE_BREAK if block.offsets is None else RejectCode.INVALID_CSV
            slices = [_slice(laid, at) for at in range(0, len(laid.records), _SLICE)]
            parts = [self._decode_rows(one) or self._decode_one_by_one(one, unclosed) for one in slices]
            rejects = _with_lines([reject for part in parts for reject in part.rejects], block, first_line)
            events = [event for part in parts for event in part.events]
            decoded = Decoded(events, rejects, sum(part.blank for part in parts), len(laid.records))
        return decoded._replace(text_lines=block.data.count(NEWLINE) + 1)

    def _decode_rows(self, laid: _Layout) -> Decoded | None:
        """Decode records at once, or return None if one may be anything but blank or an event."""
        if max(map(len, laid.records), default=0) > self._max_line:
            return None
        records, offsets = _without_blank(laid)
        if not records:
            return Decoded([], [], len(laid.records), len(laid.records))
        data = NEWLINE.join(records)
        cells = self._cells(records, data)
        payloads = self._objects(cells) if cells is not None else None
        if cells is None or payloads is None or not self._have_good_form(payloads):
            return None
        moments = self._first_of_each(self._times, cells)
        times = self._time_all(moments)
        if times is None:
            return None
        ids = self._identify_all(self._first_of_each(self._ids, cells), offsets)
        if ids is None:
            return None
        if self._id_is_time:
            ids = named_by_time(ids, moments, times)
        odd: Iterable[bool] = repeat(_NEVER)
        if self._may_be_odd or b"\\" in data or b"\0" in data:
            odd = [_NUL in payload for payload in payloads]
        event_ids, has_id = ids
        # Not strict: ``repeat`` has no end.
        rows = zip(event_ids, has_id, offsets, times, odd, payloads, strict=False)
        return self._make_events(rows, lines=len(laid.records))

    def _have_good_form(self, payloads: list[bytes]) -> bool:
        """Tell whether all payloads have the size and the names that the rules allow."""
        return not self._has_bad_names and (self._longest is None or max(map(len, payloads)) <= self._longest)

    def _cells(self, records: list[bytes], data: bytes) -> list[str] | None:
        """Return the cells of well-formed records, row after row; None if one of them may not be well-formed.

        ``data`` is the same, joined by line feeds.
        """
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        if b'"' not in data:
            if b"\r" in data or set(map(_count_commas, records)) != {self._width - 1}:
                return None
            # 0.6 us a row less than the reader takes.
            return text.replace("\n", ",").split(",")
        if not is_well_quoted(data) or (b"\r" in data and any(map(_ends_with_return, records))):
            return None
        texts = text.split("\n")
        if len(texts) != len(records):
            texts = [record.decode() for record in records]
        return self._quoted_cells(texts)

    def _quoted_cells(self, texts: list[str]) -> list[str] | None:
        """Do as ``_cells`` does, of records without faults, of which one may not close."""
        try:
            rows = read_rows(texts)
        except csv.Error:
            return None
        # A quote that does not close takes the next record in.
        if len(rows) != len(texts) or set(map(len, rows)) != {self._width}:
            return None
        return list(chain.from_iterable(rows))

    def _objects(self, cells: list[str]) -> list[bytes] | None:
        """Return the object of each row, as JSON; None if a cell is not of its column's type."""
        width = self._width
        # One call encodes all cells: no string of JSON holds a line feed.
        values = self._to_json(cells).split(NEWLINE)
        del values[len(cells) :]
        for at, kind in self._types:
            typed = _typed(cells[at::width], values[at::width], kind)
            if typed is None:
                return None
            values[at::width] = typed
        if self._order is not None:
            in_order = values.copy()
            for place, at in enumerate(self._order):
                in_order[place::width] = values[at::width]
            values = in_order
        one = iter(values)
        return list(map(self._fill, zip(*[one] * width, strict=True)))

    def _first_of_each(self, columns: list[_Column], cells: list[str]) -> list[Any]:
        """Return of each row the first value of the columns that is there, else None; all cells are of their types."""
        values: list[Any] = [None] * (len(cells) // self._width)
        for nth, (at, kind) in enumerate(columns):
            found = _values(cells[at :: self._width], kind)
            if nth == 0:
                values = found
            else:
                values = [new if old is None else old for old, new in zip(values, found, strict=True)]
        return values

    def _decode_one_by_one(self, laid: _Layout, unclosed: RejectCode) -> Decoded:
        """Decode a record at a time; ``unclosed`` is what is wrong where a quote does not close. Lines are not told."""
        events: list[Event] = []
        rejects: list[Reject] = []
        blank = 0
        for raw, offset in zip(laid.records, laid.offsets, strict=True):
            record = raw.removesuffix(b"\r")
            if len(record) > self._max_line:
                length = self._max_line + 1  # framing may have cut it; how much more there was nobody looked
                body = raw[: min(length, KEPT_BYTES)]
                rejects.append(Reject(0, offset, length, RejectCode.LINE_TOO_LONG, body))
                continue
            if not record.strip(_BLANK):
                blank += 1
                continue
            judged = self._judge_record(record, offset, unclosed)
            if isinstance(judged, RejectCode):
                rejects.append(Reject(0, offset, len(record), judged, record[:KEPT_BYTES]))
            else:
                events.append(judged)
        return Decoded(events, rejects, blank, len(laid.records))

    def _judge_record(self, record: bytes, offset: int, unclosed: RejectCode) -> Event | RejectCode:
        """Return the event that a record is (neither blank nor too long), or why it is none."""
        cells = self._read_cells(record, unclosed)
        if isinstance(cells, RejectCode):
            return cells
        payloads = self._objects(cells)
        if payloads is None:
            return RejectCode.INVALID_VALUE
        (id_value,) = self._first_of_each(self._ids, cells)
        event_id = self._identify(id_value, offset)
        if isinstance(event_id, RejectCode):
            return event_id
        (moment,) = self._first_of_each(self._times, cells)
        times = self._time_all([moment])
        if times is None:
            return RejectCode.INVALID_TIME
        has_id = id_value is not None
        if self._id_is_time and not has_id and moment is not None:
            event_id, has_id = time_id(times[0]), True
        event = Event(event_id, has_id, offset, times[0], _NUL in payloads[0], payloads[0])
        return self._judge_form(payloads[0]) or self._ruled(event)

    def _read_cells(self, record: bytes, unclosed: RejectCode) -> list[str] | RejectCode:
        """Return a record's cells, as many as there are columns, or why they cannot be had."""
        try:
            text = record.decode()
        except UnicodeDecodeError:
            return RejectCode.INVALID_UTF8
        if not is_well_quoted(record):
            return RejectCode.INVALID_CSV
        if record.count(b'"') % 2:
            return unclosed
        try:
            (cells,) = read_rows([text])
        except csv.Error:
            return RejectCode.INVALID_CSV  # a line feed outside quotes, which no framer leaves
        if record.endswith(b"\r"):
            return RejectCode.INVALID_CSV  # the second of two; the reader takes any number
        return cells if len(cells) == self._width else RejectCode.RAGGED_ROW


class _Layout(NamedTuple):
    """Records, as they stand but for the line feed, and where each begins in the source."""

    records: list[bytes]
    offsets: list[int]


def _lay_out(block: Block) -> _Layout:
    """Return the records of a block, without the header."""
    records = block.data.split(NEWLINE)
    if block.offsets is None:
        offsets = list(accumulate([len(record) + 1 for record in records[:-1]], initial=block.offset))
    else:
        offsets = list(block.offsets)
    if len(offsets) != len(records):
        begins = [offset - block.offset for offset in offsets]
        ends = [*[begin - 1 for begin in begins[1:]], len(block.data)]
        records = [block.data[begin:end] for begin, end in zip(begins, ends, strict=True)]
    return _Layout(records[1:], offsets[1:]) if block.offset == 0 else _Layout(records, offsets)


def _slice(laid: _Layout, at: int) -> _Layout:
    return _Layout(laid.records[at : at + _SLICE], laid.offsets[at : at + _SLICE])


def _with_lines(rejects: list[Reject], block: Block, first_line: int) -> list[Reject]:
    """Return the rejects with the line of text on which each begins."""
    numbered = []
    line, counted = first_line, 0
    for reject in rejects:
        at = reject.offset - block.offset
        line, counted = line + block.data.count(NEWLINE, counted, at), at
        numbered.append(reject._replace(line=line))
    return numbered


def _without_blank(laid: _Layout) -> tuple[list[bytes], list[int]]:
    """Return the records that are not blank, without carriage returns at their ends, and where they begin."""
    bodies = list(map(_strip, laid.records))
    records = list(map(_drop_return, laid.records))
    if b"" not in bodies:
        return records, laid.offsets
    return list(compress(records, bodies)), list(compress(laid.offsets, bodies))


def _typed(cells: list[str], strings: list[bytes], kind: ColumnType) -> list[bytes] | None:
    """Return a typed column's cells as JSON, given the same as JSON strings; None if one is not of the type."""
    if kind is ColumnType.STRING:
        return [_NULL if string == _EMPTY else string for string in strings]
    if kind is ColumnType.BOOLEAN:
        values = [_BOOLEANS.get(cell.lower()) for cell in cells]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) else None
    column = "\n".join(cells) + "\n"
    # A cell may hold line feeds of its own.
    if _NUMBERS.fullmatch(column) is None or column.count("\n") != len(cells):
        return None
    return [cell.encode() or _NULL for cell in cells]


def _values(cells: list[str], kind: ColumnType | None) -> list[Any]:
    """Return a column's values, None for an empty cell, False for what is neither string nor number."""
    if kind is ColumnType.NUMBER:
        return [_number(cell) if cell else None for cell in cells]
    if kind is ColumnType.BOOLEAN:
        return [False if cell else None for cell in cells]
    return [cell or None for cell in cells] if "" in cells else cells


def _number(text: str) -> int | float:
    if not {*".eE"}.isdisjoint(text):
        return float(text)
    # Python reads no integer of more than 4,300 digits.
    return int(text) if len(text) <= MAX_ID_BYTES else _HUGE
