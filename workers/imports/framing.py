"""Cut a chunk's bytes into the lines the chunk owns.

A source is cut at byte offsets that fall anywhere, even inside a character. One rule settles who reads a line
that a cut has split: **a line belongs to the chunk that holds its first byte.** So a reader drops the tail of
a line begun before its chunk, and reads past its own end to finish the last line it began. Every line has
exactly one owner, wherever the cuts fall, and no two workers need to speak.

Two bounds keep an endless line harmless. Of a line longer than ``max_line`` only ``max_line + 1`` bytes are
kept (P10), and nobody reads past the end of a chunk to find the end of a line that is known to be too long:
its successors look for their own first newline, and a chunk that holds none stops at its end. Otherwise each
of the n chunks inside one giant line would read all that follow, n squared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NEWLINE = b"\n"


class Block(NamedTuple):
    """Whole lines joined by newlines, the last one without its own; at least one line, which may be empty."""

    #: Of the first line's first byte in the source.
    offset: int
    data: bytes
    #: Of each line's first byte in the source, where they do not stand one after the other as here.
    offsets: Sequence[int] | None = None
    #: Where to go on behind this block; None where lines alone tell (a cut into ranges needs no such place).
    end: int | None = None


def reading_start(start: int) -> int:
    """Return the offset to read from for a chunk that begins at ``start``.

    One byte early: only the byte before tells whether a line begins at ``start``.
    """
    return max(start - 1, 0)


def owned_blocks(pieces: Iterable[bytes], *, start: int, end: int, max_line: int) -> Iterator[Block]:
    """Yield, in order, the lines whose first byte lies in ``[start, end)``.

    ``pieces`` are the source's bytes from ``reading_start(start)`` on, in pieces of any size. They are pulled
    only as far as the last owned line needs. What lines come out does not depend on the pieces, only how many
    share a Block does. A line longer than ``max_line`` bytes is cut to ``max_line + 1`` and is the last of
    its Block. A source that ends with a newline has no empty line after it; a last line without newline is a
    line.

    Holds one piece, one Block and at most ``max_line`` bytes of an unfinished line. Whatever pulling a piece
    raises passes through.
    """
    if start >= end:
        return
    cutter = _Cutter(start, end, max_line)
    for piece in pieces:
        yield from cutter.cut(piece)
        if cutter.done:
            return
    if cutter.held:
        yield Block(cutter.offset - len(cutter.held), bytes(cutter.held))


class _Cutter:
    """What is known between two pieces. Positions count from the piece's start, offsets from the source's."""

    def __init__(self, start: int, end: int, max_line: int) -> None:
        self._end = end
        self._max_line = max_line
        #: Of the next piece's first byte in the source.
        self.offset = reading_start(start)
        #: The head of a line that the last piece broke off.
        self.held = bytearray()
        #: Whether the next newline is looked for only because a line of ours may begin after it.
        self._seeking = start > 0
        #: Whether no later piece holds a byte of ours.
        self.done = False

    def cut(self, piece: bytes) -> Iterator[Block]:
        """Yield the blocks that this piece completes."""
        at: int | None = 0
        while at is not None:
            at = self._line_start(piece, at)
            if at is not None:
                block, at = self._next(piece, at)
                if block is not None:
                    yield block
        self.offset += len(piece)
        if self._seeking and self.offset >= self._end - 1:
            self.done = True

    def _line_start(self, piece: bytes, at: int) -> int | None:
        """Return where a line of ours begins or goes on, from ``at`` on; None if not in this piece."""
        if not self._seeking:
            return at
        # Only up to ``end - 2``: after a later newline a line begins that is not ours.
        newline = piece.find(NEWLINE, at, max(self._end - 1 - self.offset, 0))
        if newline < 0:
            return None
        self._seeking = False
        return newline + 1

    def _next(self, piece: bytes, at: int) -> tuple[Block | None, int | None]:
        """Return the block made of what is held and of ``piece[at:]``, if any, and where to go on, if so."""
        # The first newline from ``end - 1`` on ends our last line.
        final = piece.find(NEWLINE, max(self._end - 1 - self.offset, at))
        last = final if final >= 0 else piece.rfind(NEWLINE, at)
        stop = final if final >= 0 else len(piece)
        too_long = _first_too_long(piece, at - len(self.held), at, last, stop, self._max_line)
        if too_long is not None:
            cut = too_long + self._max_line + 1
            self._seeking = True
            return self._take(piece, at, cut), cut
        block = None
        if last >= 0:
            block = self._take(piece, at, last)
            at = last + 1
        if final >= 0:
            self.done = True
        else:
            self.held += piece[at:]
        return block, None

    def _take(self, piece: bytes, at: int, stop: int) -> Block:
        """Return what is held and ``piece[at:stop]`` as one Block. The view spares a second copy."""
        block = Block(self.offset + at - len(self.held), b"".join((self.held, memoryview(piece)[at:stop])))
        self.held.clear()
        return block


def _first_too_long(piece: bytes, line: int, at: int, last: int, stop: int, max_line: int) -> int | None:
    """Return where in ``piece[at:stop]`` the first line over ``max_line`` bytes begins, or None.

    ``line`` is where the first line begins (before the piece, so negative, if its head is held), ``last`` the
    newline that ends the last whole line (-1: there is none). What stands between ``last`` and ``stop`` is
    the head of a line that goes on in the next piece.

    Leaps from newline to newline, each time to the farthest within reach: two leaps pass more than
    ``max_line`` bytes, so the cost goes with bytes / ``max_line``, not with the number of lines.
    """
    while last - line > max_line:
        newline = piece.rfind(NEWLINE, max(line, at), line + max_line + 1)
        if newline < 0:
            return line
        line = newline + 1
    if last >= 0:
        line = last + 1
    return line if stop - line > max_line else None
