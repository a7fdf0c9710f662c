"""Cut a JSON array into its elements: what lines are to a file of lines.

The array stands alone, or as the ``data`` of an object. An element is told by its quotes and brackets only, never by
what it says: one that is no object, or says ``{"a":tru}``, is the Decoder's to refuse, and the array goes on behind
it. But where brackets do not match, or no ``,`` stands between two elements, nobody can tell where the next one
begins: there the source has failed, and what stands before it counts.

Hand-written, since ijson tells no offsets and does 98 MB/s, and msgspec tells no offsets either. Two ways through
that never differ: one match of a regular expression for each element that lies whole in a piece and is not odd, and a
scan that goes from piece to piece and keeps of an element no more than its first ``max_line + 1`` bytes.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from itertools import repeat

import msgspec

from common.errors import SourceFailed
from common.judging import on_one_line
from workers.imports.framing import NEWLINE, Block

#: Brackets open at once whose kinds are remembered; of deeper ones only the number. Far more than the Decoder takes.
KNOWN_DEPTH = 1024

#: Elements that a Block has at the most, or twice as many: a piece of 1 MiB may hold half a million.
MOST_ELEMENTS = 10_000

#: Levels below an element's own that the quick way takes. Each one doubles the expression (this one: 5 KB, 4 ms).
_QUICK_DEPTH = 4
#: A string that holds no line break, with whatever else stands around strings and brackets.
#: (An end at once, before escapes are thought of, spares 15 %.)
_QUICK_TEXT = rb'[^][{}"]*+(?:"[^"\\\r\n]*+(?:"|(?:\\[^\r\n][^"\\\r\n]*+)++")[^][{}"]*+)*+'

_SPACE = rb"[ \t\r\n]*+"
_BLANKS = re.compile(_SPACE)
_MARK = b"\xef\xbb\xbf"
#: The rest of a string, from behind its first quote or from anywhere in it on, as far as it goes.
_STRING_REST = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_IN_STRING = re.compile(_STRING_REST, re.DOTALL)
_TEXT = rb'(?:[^][{}"]++|"' + _STRING_REST + rb'")*+'
#: Whatever stands before the next bracket that counts: text, whole strings, and brackets that close with nothing but
#: these between them.
_TO_BRACKET = re.compile(_TEXT + rb"(?:(?:\{" + _TEXT + rb"\}|\[" + _TEXT + rb"\])" + _TEXT + rb")*+", re.DOTALL)
#: A number, a literal, or what stands for one in an array that is no JSON.
_SCALAR = re.compile(rb'[^][{}",: \t\r\n]*+')
#: Brackets of one kind in a row: 200 MB of them are few steps.
_RUN = re.compile(rb"\[++|\{++|\]++|\}++")

_OPENERS = {ord("]"): ord("["), ord("}"): ord("{")}
_CLOSERS = {opener: closer for closer, opener in _OPENERS.items()}
#: What ``_Walk._peek`` returns where the source ends.
_END = -1
#: What no value begins with.
_NO_VALUE = {_END, *b",:]}"}
#: No name of a member that is ``data`` is longer, even if each of its characters is an escape.
_LONGEST_DATA = len(rb'"\u0064\u0061\u0074\u0061"')


def _quick_value(depth: int) -> bytes:
    """Return an expression for an object or array with up to ``depth`` levels in it. It cannot backtrack."""
    inside = _QUICK_TEXT
    if depth:
        inside += b"(?:(?:" + _quick_value(depth - 1) + b")" + _QUICK_TEXT + b")*+"
    return rb"\{" + inside + rb"\}|\[" + inside + rb"\]"


_QUICK = re.compile(_SPACE + b"," + _SPACE + b"(" + _quick_value(_QUICK_DEPTH) + b")")

#: A part of the walk: yields blocks whenever it pulls a piece, and returns what it was asked for.
_Step = Generator[Block, None, None]
_Asking = Generator[Block, None, int]


def element_blocks(pieces: Iterable[bytes], *, start: int, wrapped: bool, max_line: int) -> Iterator[Block]:
    """Yield, in order, the elements of the array that begin behind byte ``start`` of the source.

    ``pieces`` are the source's bytes from ``start`` on, in pieces of any size. ``start`` is 0, or the ``end`` of an
    earlier block. ``wrapped`` says that the array is the ``data`` of an object; that object's other members are
    passed over. A source that is empty or blank has no elements.

    A Block holds elements joined by newlines, each the bytes that it came in, but for line breaks: between tokens
    each byte of them is a space, and a newline in a string (which no JSON has) is a vertical tab, so that it is
    refused all the same. ``offsets`` are those of the first bytes, ``end`` lies right behind the last element. An
    element longer than ``max_line`` bytes is cut to ``max_line + 1`` and is the last of its Block. What elements
    come out does not depend on the pieces.

    Raises SourceFailed, once everything before has been yielded: ``truncated_array`` where the source ends too
    early, ``broken_array`` where it holds what no array has. Whatever pulling a piece raises passes through, then
    too. Holds one piece, its elements and at most ``max_line`` bytes of an unfinished one.
    """
    walk = _Walk(pieces, start, max_line)
    try:
        if start or (yield from walk.enter(wrapped=wrapped)):
            yield from walk.elements()
            yield from walk.leave(wrapped=wrapped)
    except SourceFailed:
        yield from walk.flush()
        raise


class _Walk:
    """Where we are in a source, and the elements of this piece that are not yielded yet."""

    def __init__(self, pieces: Iterable[bytes], start: int, max_line: int) -> None:
        self._pieces = iter(pieces)
        self._max_line = max_line
        self._piece = b""
        #: Of the piece's first byte in the source.
        self._offset = start
        #: Position in the piece of the byte that comes next.
        self._at = 0
        self._elements: list[bytes] = []
        self._offsets: list[int] = []
        #: Offset behind the last of these elements.
        self._end = start

    # --- the parts of a source ------------------------------------------------------------------------------

    def enter(self, *, wrapped: bool) -> Generator[Block, None, bool]:
        """Go behind the ``[`` and, if one is there, the first element; return False where there is neither."""
        for byte in _MARK if (yield from self._peek()) == _MARK[0] else b"":
            yield from self._take(byte, "a byte order mark")
        if (yield from self._peek()) == _END:
            return False
        if wrapped:
            yield from self._take(ord("{"), "`{`")
            while not (yield from self._member()):
                yield from self._pass_value()
                yield from self._take(ord(","), "`,` and a member named `data`")
        yield from self._take(ord("["), "`[`")
        if (yield from self._peek()) != ord("]"):
            yield from self._element()
        return True

    def elements(self) -> _Step:
        """Go behind the ``]``."""
        while True:
            self._take_quickly()
            if len(self._elements) >= MOST_ELEMENTS:
                yield from self.flush()
            byte = yield from self._peek()
            if byte == ord("]"):
                self._at += 1
                return
            yield from self._take(ord(","), "`,` or `]`")
            yield from self._element()

    def leave(self, *, wrapped: bool) -> _Step:
        """See that what follows the array may follow it."""
        while wrapped and (yield from self._peek()) != ord("}"):
            yield from self._take(ord(","), "`,` or `}`")
            if (yield from self._member()):
                yield from self._peek()
                raise self._broken("no second member named `data`")
            yield from self._pass_value()
        self._at += wrapped
        if (yield from self._peek()) != _END:
            raise self._broken("the end of the file")

    def flush(self) -> _Step:
        """Yield the elements found since the last time."""
        if self._elements:
            yield Block(self._offsets[0], NEWLINE.join(self._elements), self._offsets, self._end)
            self._elements, self._offsets = [], []

    # --- elements -------------------------------------------------------------------------------------------

    def _take_quickly(self) -> None:
        """Take all the elements that lie in this piece, up to the first that is odd."""
        piece, at, longest, match = self._piece, self._at, self._max_line, _QUICK.match
        elements: list[bytes] = []
        firsts: list[int] = []
        while len(elements) < MOST_ELEMENTS and (found := match(piece, at)):
            first, end = found.span(1)
            if end - first > longest:
                break
            elements.append(found[1])
            firsts.append(first)
            at = end
        if not elements:
            return
        for line_break in (b"\n", b"\r"):
            # No string here holds one.
            if piece.find(line_break, self._at, at) >= 0:
                elements = list(map(bytes.replace, elements, repeat(line_break), repeat(b" ")))
        offset = self._offset
        self._elements += elements
        self._offsets += [offset + first for first in firsts]
        self._at, self._end = at, offset + at

    def _element(self) -> _Step:
        """Take an element of any kind, however many pieces it lies in."""
        if (yield from self._peek()) in _NO_VALUE:
            raise self._broken("an element")
        first = self._offset + self._at
        kept = yield from self._value("the rest of an element", keep=self._max_line + 1)
        self._end = self._offset + self._at
        self._elements.append(on_one_line(bytes(kept)))
        self._offsets.append(first)
        if len(kept) > self._max_line:
            yield from self.flush()

    # --- tokens ---------------------------------------------------------------------------------------------

    def _member(self) -> Generator[Block, None, bool]:
        """Go behind the name of a member and its colon; return whether it is named ``data``."""
        if (yield from self._peek()) != ord('"'):
            raise self._broken("a member's name")
        name = yield from self._value("the rest of a member's name", keep=_LONGEST_DATA + 1)
        yield from self._take(ord(":"), "`:`")
        try:
            return bool(msgspec.json.decode(name) == "data")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False  # cut, or no string: not this one in any case

    def _pass_value(self) -> _Step:
        if (yield from self._peek()) in _NO_VALUE:
            raise self._broken("a value")
        yield from self._value("the rest of a value", keep=0)

    def _value(self, rest: str, *, keep: int) -> Generator[Block, None, bytearray]:
        """Go behind the value that begins here, and return its first ``keep`` bytes."""
        scan = _Scan()
        kept = bytearray()
        while True:
            at = self._at
            self._at = scan.go_on(self._piece, at)
            kept += self._piece[at : min(self._at, at + keep - len(kept))]
            if scan.expected is not None:
                raise self._broken(f"`{chr(scan.expected)}`")
            if scan.done:
                return kept
            if not (yield from self._pull()):
                if scan.may_end:
                    return kept
                raise self._truncated(rest)

    def _take(self, byte: int, expected: str) -> _Step:
        """Go behind this byte, or raise."""
        if (yield from self._peek()) != byte:
            raise self._broken(expected)
        self._at += 1

    def _peek(self) -> _Asking:
        """Go to the next byte that is no space and return it; ``_END`` if there is none."""
        while True:
            # Always matches.
            self._at = _BLANKS.match(self._piece, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._piece):
                return self._piece[self._at]
            if not (yield from self._pull()):
                return _END

    def _pull(self) -> Generator[Block, None, bool]:
        """Yield what is ready, go to the next piece, and return whether there is one."""
        yield from self.flush()
        self._offset += len(self._piece)
        self._piece, self._at = next(filter(None, self._pieces), b""), 0
        return bool(self._piece)

    # --- failures -------------------------------------------------------------------------------------------

    def _broken(self, expected: str) -> SourceFailed:
        if self._at == len(self._piece):
            return self._truncated(expected)
        byte = self._piece[self._at]
        found = f"`{chr(byte)}`" if 0x20 < byte < 0x7F else f"0x{byte:02x}"
        return SourceFailed(
            "broken_array",
            f"The JSON array is broken at byte {self._offset + self._at} (decompressed, counted from 0): "
            f"{expected} was expected, but {found} is there. The elements before it were read.",
        )

    def _truncated(self, expected: str) -> SourceFailed:
        return SourceFailed(
            "truncated_array",
            f"The JSON array is cut off: the file ends at byte {self._offset + self._at} (decompressed), "
            f"but {expected} was expected. The elements before it were read.",
        )


class _Scan:
    """How much of a value has been seen: enough to go on in the next piece, in bounded memory."""

    def __init__(self) -> None:
        self.done = False
        #: Whether the value may end where the source does: a number does.
        self.may_end = False
        #: The closing bracket that should stand where another does.
        self.expected: int | None = None
        self._begun = self._in_string = self._escaped = False
        #: The brackets that are open, the outermost ``KNOWN_DEPTH`` of them; and how many more there are.
        self._open = bytearray()
        self._deeper = 0

    def go_on(self, piece: bytes, at: int) -> int:
        """Return how far the value goes in this piece, from ``at`` on. Not called once it is done."""
        if not self._begun:
            self._begun = True
            self.may_end = piece[at] not in b'"[{'
        if self.may_end:
            return self._end_scalar(piece, at)
        while at < len(piece) and not self.done and self.expected is None:
            at = self._end_string(piece, at) if self._in_string else self._next_bracket(piece, at)
        return at

    def _end_scalar(self, piece: bytes, at: int) -> int:
        end = _SCALAR.match(piece, at).end()  # type: ignore[union-attr]
        self.done = end < len(piece)
        return end

    def _end_string(self, piece: bytes, at: int) -> int:
        """Go behind the string's end or, if this piece does not hold it, to that of the piece."""
        if self._escaped:
            self._escaped = False
            return at + 1
        end = _IN_STRING.match(piece, at).end()  # type: ignore[union-attr]
        if end == len(piece):
            return end
        self._in_string = piece[end] != ord('"')
        self._escaped = self._in_string  # by a backslash that is the piece's last byte
        self.done = not self._in_string and not self._open
        return end + 1

    def _next_bracket(self, piece: bytes, at: int) -> int:
        """Go behind the next brackets, or behind the first quote of a string that this piece does not end."""
        if self._open:
            at = _TO_BRACKET.match(piece, at).end()  # type: ignore[union-attr]
        if at == len(piece):
            return at
        if piece[at] == ord('"'):
            self._in_string = True
            return at + 1
        run = _RUN.match(piece, at).end() - at  # type: ignore[union-attr]
        if piece[at] in b"[{":
            known = min(run, KNOWN_DEPTH - len(self._open))
            self._open += piece[at : at + known]
            self._deeper += run - known
            return at + run
        return self._close(piece[at], run, at)

    def _close(self, closer: int, run: int, at: int) -> int:
        """Close up to ``run`` brackets: fewer if the value ends before, or if another kind is open."""
        unknown = min(run, self._deeper)
        self._deeper -= unknown
        at, run = at + unknown, run - unknown
        opener = bytes((_OPENERS[closer],))
        known = min(run, len(self._open) - len(self._open.rstrip(opener)))
        del self._open[len(self._open) - known :]
        self.done = not self._open
        if known < run and self._open:
            self.expected = _CLOSERS[self._open[-1]]
        return at + known
