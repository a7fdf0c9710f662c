"""Follow a source from a place on, for as much as makes a chunk: where its ranges cannot be told beforehand.

A JSON array, or a CSV with line breaks inside quotes, shows only to who reads it in order where its lines begin; what
is compressed in one stream can only be entered at its beginning. So a walk loads lines from where its chunk starts
until they are enough for one, and the commit makes the rest of the source the next chunk: leases, retries, progress
and fairness stay what they are. Where the next one can be entered anywhere, anybody takes it. Else whoever has the
stream open goes on with it, and only a successor after a death decompresses again what came before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from common.errors import SourceFailed
from common.ledger import chunks
from common.model.chunks import MOST_LINES, Kind, Step
from common.model.formats import Format, Layout
from common.model.mapping import Mapping
from workers.imports.elements import element_blocks
from workers.imports.framing import Block, owned_blocks, reading_start
from workers.imports.lease import Lease
from workers.imports.lines import Lines
from workers.imports.look import row_bytes
from workers.imports.reading import Reading, open_reading
from workers.imports.records import record_blocks
from workers.imports.work import Judge, Work

#: Stands for the end of a source of which nobody knows it.
_ENDLESS = 2**62


@dataclass(frozen=True, slots=True)
class Ending:
    """How far a walk came. Of a chunk with an exact range nothing has to be said."""

    #: Where the rest begins, and the object's own bytes that the chunk took; None where the range tells.
    end: int | None = None
    size: int | None = None
    #: What the rest is to be done with; None at the end of the source.
    rest: Step | None = None
    #: Whether who has the stream open goes on with the rest, which then has this chunk's turn.
    goes_on: bool = False
    #: Why the source cannot be read any further.
    failure: SourceFailed | None = None


class Trail:
    """A walk's place in its source, kept open from one chunk to the next."""

    def __init__(self) -> None:
        """Begin without a source."""
        self._reading: Reading | None = None
        self._blocks: Iterator[Block] = iter(())
        self._taken = 0
        self._lease: Lease | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._reading:
            self._reading.close()

    @property
    def goes_on(self) -> bool:
        """Return whether the rest should be taken here, where the stream is open."""
        return self._reading is not None and not self._reading.anywhere

    def follow(self, work: Work) -> tuple[Lines, Ending]:
        """Load lines from the chunk's start on, until they are enough for one or the source ends, or breaks."""
        self._lease = work.lease
        reading = self._reading = self._reading or self._open(work)
        settings, chunk = work.runtime.settings, work.chunk
        most = settings.chunk_bytes
        if work.layout.header:
            most = min(most, row_bytes(work.layout, dots_nest=work.job.mapping.dots_nest))
        judge, end, failure = Judge(work), chunk.start, None
        try:
            for block in self._blocks:
                judge.take(block)
                end = _end(block)
                if end - chunk.start >= most or judge.lines.lines >= MOST_LINES:
                    return judge.lines, self._ending(end, reading.upto(end), Step(Kind.WALK, long=chunk.long), None)
        except SourceFailed as error:
            failure = error
        # What was not taken of a source that broke does not count as read.
        upto = reading.upto(end) if failure else work.source.size
        return judge.lines, self._ending(end, upto, None, failure)

    def _ending(self, end: int, upto: int, rest: Step | None, failure: SourceFailed | None) -> Ending:
        size, self._taken = max(upto - self._taken, 0), max(upto, self._taken)
        return Ending(end, size, rest, rest is not None and self.goes_on, failure)

    def _advance(self) -> None:
        """Renew the lease of the chunk that is followed now: the stream outlives each of them."""
        if self._lease:
            self._lease.advance()

    def _open(self, work: Work) -> Reading:
        with work.runtime.database.transaction() as tx:
            self._taken = chunks.bytes_before(tx, work.chunk)
        reading = open_reading(work, work.chunk.start, advance=self._advance)
        self._blocks = _frame(work, reading)
        return reading


def _frame(work: Work, reading: Reading) -> Iterator[Block]:
    """Return the source's blocks from the chunk's start on."""
    layout, mapping, start = work.layout, work.job.mapping, work.chunk.start
    by_lines = layout.format is Format.NDJSON or (layout.format is Format.CSV and not mapping.quoted_line_breaks)
    pieces = reading.pieces_from(reading_start(start) if by_lines else start)
    return blocks_of(layout, mapping, pieces, start=start, longest=work.longest_line)


def blocks_of(
    layout: Layout, mapping: Mapping, pieces: Iterator[bytes], *, start: int, longest: int
) -> Iterator[Block]:
    """Return the blocks of a source from ``start`` on, to its end.

    ``pieces`` are its bytes from there on; of lines, from ``reading_start(start)`` on.
    """
    match layout.format:
        case Format.JSON:
            return element_blocks(pieces, start=start, wrapped=layout.wrapped, max_line=longest)
        case Format.CSV if mapping.quoted_line_breaks:
            sliced = _sliced(pieces, row_bytes(layout, dots_nest=mapping.dots_nest))
            return record_blocks(sliced, start=start, max_line=longest)
        case _:
            return owned_blocks(pieces, start=start, end=_ENDLESS, max_line=longest)


def _sliced(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Yield the same bytes in pieces of at most so many."""
    for piece in pieces:
        yield from (piece[at : at + most] for at in range(0, len(piece), most))


def _end(block: Block) -> int:
    """Return where to go on behind a block.

    Behind a line that was cut off because it is too long, that is in its middle: who starts there looks for its end.
    """
    return block.offset + len(block.data) + 1 if block.end is None else block.end
