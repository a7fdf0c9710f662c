"""Frame the records of CSV, which may hold quoted line breaks, and tell whether a source has any.

One grammar, RFC 4180's, taken strictly. A cell that begins with a double quote is quoted: it ends at the next quote
that is not doubled, behind which a comma or the end of the record must stand. Any other cell holds neither quotes nor
carriage returns. Only the comma parts cells. A record ends at a line feed outside quotes; a carriage return before it
belongs to the line end.

Where a record breaks the grammar (a *fault*: a quote inside an unquoted cell, text behind a closing quote, a carriage
return that ends no line), it ends at the end of that line of text, so that ``5" pipe`` costs one row and not all up
to the next quote. From this follows what the cut by byte ranges rests on: a line of text that begins a record and has
an even number of quotes is the whole record, faulty or not. So a source in which every line of text has an even number
has the same records whether it is cut at line feeds or framed here; ``LineQuotes`` looks for that.

What no framing can mend is a quote that opens and never closes: all that follows is inside it. Such a record is one
reject, up to its closing quote or the end of the source. Over ``max_line`` bytes it is read but not kept.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from itertools import accumulate
from operator import methodcaller, sub, xor

from workers.imports.framing import NEWLINE, Block

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_QUOTE = b'"'

#: Whole cells, each with its comma. Possessive (``*+``), like the others: it cannot backtrack.
_CELLS = re.compile(rb'(?:(?:[^",\r\n]*+|"(?:[^"]++|"")*+"),)*+')
#: The inside of a quoted cell, as far as it goes.
_INSIDE = re.compile(rb'(?:[^"]++|"")*+')
#: What may end an unquoted cell, but for the comma.
_STOP = re.compile(rb'["\r\n]')
_ALL_BUT_MARKS = bytes(set(range(256)) - set(b'"\n'))
_count_quotes = methodcaller("count", _QUOTE)

#: Lines of text that are counted of what a record over the limit drops. Their number reaches the decoder as so many
#: line feeds, the one part of such a record that grows; beyond, the line numbers of later rejects come out too small.
_MOST_DROPPED = 1 << 24

# The standard library refuses cells of more than 131,072 characters, by a limit of the whole process: it is meant for
# readers of endless input. Ours is cut to ``max_line`` before it gets there, so a second limit could only be wrong.
csv.field_size_limit(2**31 - 1)


def read_rows(records: Iterable[str]) -> list[list[str]]:
    """Return the cells of each record; they come without line ends, and may hold quoted line breaks.

    csv.Error where a record is no CSV. The standard library takes more than our grammar does (a quote inside an
    unquoted cell), and goes on in the next record where one does not close: the caller has to look before.
    """
    return list(csv.reader(records, strict=True))


class State(Enum):
    """Where in a record one stands."""

    #: Before the first byte of a cell.
    CELL = auto()
    #: Inside an unquoted cell.
    PLAIN = auto()
    #: Inside a quoted cell.
    QUOTED = auto()
    #: Behind a quote in a quoted cell, which closes it or is the first of two.
    CLOSED = auto()
    #: Behind a carriage return outside quotes.
    RETURN = auto()
    #: Behind a fault.
    FAULT = auto()


#: What the next byte makes of these two; it is a fault where it is not here.
_BEHIND = {
    State.CLOSED: {ord('"'): State.QUOTED, ord(","): State.CELL, ord("\r"): State.RETURN},
    State.RETURN: dict[int, State](),
}


class Quotes:
    """Follows the quotes of one record, whose bytes may come in pieces of any size."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        """Stand at the beginning of a record."""
        self.state = State.CELL

    def end(self, data: bytes, at: int = 0) -> int:
        """Go through ``data[at:]`` and return where the line feed stands that ends the record, or -1.

        With -1 ``state`` tells where the data left off.
        """
        while at < len(data):
            if self.state is State.QUOTED:
                at = self._leave_quotes(data, at)
            elif self.state is State.FAULT:
                return data.find(NEWLINE, at)
            elif data[at] == ord("\n"):
                return at
            elif self.state in _BEHIND:
                self.state = _BEHIND[self.state].get(data[at], State.FAULT)
                at += 1
            else:
                at = self._leave_plain(data, at)
        return -1

    def _leave_quotes(self, data: bytes, at: int) -> int:
        end = _end_of(_INSIDE.match(data, at))
        if end < len(data):
            self.state = State.CLOSED
        return end + 1

    def _leave_plain(self, data: bytes, at: int) -> int:
        """Pass whole cells and unquoted text, and return where to go on: at a line feed, or behind another stop."""
        if self.state is State.CELL:
            # Cell by cell in Python, a megabyte of short quoted cells took 0.8 s.
            at = _end_of(_CELLS.match(data, at))
        found = _STOP.search(data, at)
        stop = found.start() if found is not None else len(data)
        if stop > at:
            self.state = State.CELL if data[stop - 1] == ord(",") else State.PLAIN
        if stop == len(data) or data[stop] == ord("\n"):
            return stop
        if data[stop] == ord("\r"):
            self.state = State.RETURN
        else:
            self.state = State.QUOTED if self.state is State.CELL else State.FAULT
        return stop + 1


def _end_of(found: re.Match[bytes] | None) -> int:
    assert found is not None  # these patterns match nothing, too
    return found.end()


def is_well_quoted(data: bytes) -> bool:
    """Tell whether records, joined by line feeds and the last without its own, are free of faults, all at once.

    The last may be open, or end with a carriage return: these are no faults here.
    """
    parts = data.split(_QUOTE)
    # Each second part stands outside quotes, as long as there is no fault, and the first fault shows before that ends.
    parts[0] = NEWLINE + parts[0]
    if len(parts) % 2:
        parts[-1] += NEWLINE
    return all(map(_is_between, set(parts[::2])))


def _is_between(part: bytes) -> bool:
    """Tell whether what stands between a closing and an opening quote may; nothing is a doubled quote."""
    if not part:
        return True
    # Every carriage return is before a line feed: so one that comes first is a line end.
    return part[0] in b",\r\n" and part[-1] in b",\n" and part.count(b"\r") == part.count(b"\r\n")


class LineQuotes:
    """Looks for a line of text with an odd number of quotes: only then may a quoted cell hold a line break.

    Fed with a source's pieces in order. 2.4 GB/s where every cell is quoted: once all but quotes and line feeds is
    deleted, little is left to look at.
    """

    def __init__(self) -> None:
        """Stand at the beginning of a source, or of any line of it."""
        self._found = False
        #: Whether the unfinished line has an odd number of quotes so far.
        self._odd = False

    def add(self, piece: bytes) -> None:
        """Look at the next piece."""
        if self._found or not (self._odd or _QUOTE in piece):
            return
        marks = (_QUOTE if self._odd else b"") + piece.translate(None, _ALL_BUT_MARKS)
        lines, _, rest = marks.rpartition(NEWLINE)
        # In the marks of a line all quotes are neighbours.
        self._found = _QUOTE in lines.replace(b'""', b"")
        self._odd = len(rest) % 2 == 1

    @property
    def found(self) -> bool:
        """Whether there was such a line, the last, unfinished one included."""
        return self._found or self._odd


def has_quoted_line_breaks(pieces: Iterable[bytes]) -> bool:
    """Tell whether a source, given in pieces of any size, may have quoted line breaks; pull no more than that needs."""
    lines = LineQuotes()
    for piece in pieces:
        lines.add(piece)
        if lines._found:
            return True
    return lines.found


def record_blocks(pieces: Iterable[bytes], *, start: int, max_line: int) -> Iterator[Block]:
    """Yield, in order, all records from ``start`` on, which is 0 or where a record begins.

    ``pieces`` are the source's bytes from ``start`` on, in pieces of any size. What records come out does not depend
    on them, only how many share a Block does. ``Block.offsets`` tells where each begins, since the lines do not;
    behind ``Block.end`` a record begins, or the source is at its end. A byte order mark at byte 0 is part of the first
    record, but does not keep its first cell from being quoted.

    A record longer than ``max_line`` bytes is alone in its Block and cut to ``max_line + 1``; as many line feeds
    follow as the lines of text it had besides, so that whoever counts lines can go on. It ends where its quote closes
    and the line does, or with the source, and until then nothing is yielded.

    Holds one piece, one Block and at most ``max_line`` bytes of an unfinished record. Whatever pulling a piece raises
    passes through, once all records that were whole before it are yielded.
    """
    framer = _Framer(start, max_line)
    for piece in _with_whole_mark(pieces) if start == 0 else pieces:
        yield from framer.add(piece)
    yield from framer.finish()


def _with_whole_mark(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces, the first ones joined for as long as they may be the head of a byte order mark."""
    head = b""
    joining = True
    for piece in pieces:
        head = head + piece if joining else piece
        joining = joining and len(head) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(head)
        if not joining:
            yield head
    if joining:
        yield head


class _Framer:
    """What is known between two pieces."""

    def __init__(self, start: int, max_line: int) -> None:
        self._max_line = max_line
        #: Of the next piece's first byte in the source.
        self._offset = start
        self._begin(start)

    def _begin(self, offset: int) -> None:
        """Stand where a record begins."""
        self._record = offset
        #: The unfinished record's bytes; of one over the limit the head.
        self._held = b""
        #: Where in it the last piece left off.
        self._quotes = Quotes()
        self._over = False
        #: Line feeds of a record over the limit that were not kept.
        self._dropped = 0

    def add(self, piece: bytes) -> Iterator[Block]:
        """Yield the blocks that this piece completes."""
        self._offset += len(piece)
        if self._over:
            end = self._quotes.end(piece)
            self._dropped += piece.count(NEWLINE, 0, end if end >= 0 else len(piece))
            if end < 0:
                return
            piece = piece[end + 1 :]
            yield _cut(self._record, self._held, self._dropped, self._offset - len(piece))
            self._begin(self._offset - len(piece))
        data = self._held + piece
        ends = self._ends(data)
        if ends:
            yield from self._blocks(data, ends)
            self._begin(self._record + ends[-1] + 1)
            data = data[ends[-1] + 1 :]
            self._quotes.end(data)
        self._keep(data)

    def finish(self) -> Iterator[Block]:
        """Yield the record that the end of the source ends."""
        if self._over:
            yield _cut(self._record, self._held, self._dropped, self._offset)
        elif self._held:
            yield Block(self._record, self._held, (self._record,), self._offset)

    def _keep(self, data: bytes) -> None:
        """Keep the unfinished record, or its head if it is over the limit."""
        kept = self._max_line + 1
        self._over = len(data) >= kept
        self._held = data[:kept]
        self._dropped = data.count(NEWLINE, kept)

    def _ends(self, data: bytes) -> list[int]:
        """Return where the line feeds stand that end records in ``data``, which begins with what is held."""
        seen = len(self._held)
        if not seen and self._record == 0 and data.startswith(BYTE_ORDER_MARK):
            seen = len(BYTE_ORDER_MARK)
        if not seen and (ends := _ends_of_records(data, 0)):
            return ends
        first = self._quotes.end(data, seen)
        return [first, *_ends_of_records(data, first + 1)] if first >= 0 else []

    def _blocks(self, data: bytes, ends: list[int]) -> Iterator[Block]:
        """Yield the records that end at ``ends``: each that is over the limit alone, the others in runs."""
        starts = [0, *[end + 1 for end in ends[:-1]]]
        lengths = map(sub, ends, starts)
        first = 0
        for at in [at for at, length in enumerate(lengths) if length > self._max_line]:
            if at > first:
                yield self._block(data, starts[first:at], ends[at - 1])
            kept = starts[at] + self._max_line + 1
            dropped = data.count(NEWLINE, kept, ends[at])
            yield _cut(self._record + starts[at], data[starts[at] : kept], dropped, self._record + ends[at] + 1)
            first = at + 1
        if first < len(ends):
            yield self._block(data, starts[first:], ends[-1])

    def _block(self, data: bytes, starts: list[int], end: int) -> Block:
        """Return the records that begin at ``starts``, the last of which the line feed at ``end`` ends."""
        record = self._record
        return Block(record + starts[0], data[starts[0] : end], [record + at for at in starts], record + end + 1)


def _cut(offset: int, head: bytes, dropped: int, end: int) -> Block:
    """Return the block of a record over the limit, with line feeds for those it lost."""
    return Block(offset, head + NEWLINE * min(dropped, _MOST_DROPPED), (offset,), end)


def _ends_of_records(data: bytes, at: int) -> list[int]:
    """Return where the line feeds stand that end records in ``data[at:]``, where a record begins.

    From quick to slow: no quotes, or no line with an odd number (each line is a record); no faults (a line feed ends a
    record if the number of quotes before it is even); else record by record.
    """
    last = data.rfind(NEWLINE, at)
    if last < 0:
        return []
    body = data[at:last]
    lines = body.split(NEWLINE)
    ends = list(accumulate([len(line) + 1 for line in lines], initial=at - 1))[1:]
    if _QUOTE not in body:
        return ends
    odd = [quotes & 1 for quotes in map(_count_quotes, lines)]
    if not any(odd):
        return ends
    if is_well_quoted(body):
        return [end for end, is_open in zip(ends, accumulate(odd, xor), strict=True) if not is_open]
    return list(_ends_among_faults(data, at, ends, odd))


def _ends_among_faults(data: bytes, at: int, ends: list[int], odd: list[int]) -> Iterator[int]:
    """Yield which of the ends of lines end records, given which lines have an odd number of quotes."""
    line = 0
    while line < len(ends):
        if odd[line]:
            end = Quotes().end(data, at)
            if end < 0:
                return
            line = bisect_left(ends, end, line)
        yield ends[line]
        at = ends[line] + 1
        line += 1
