"""A chunk: the byte range of a source that is read, committed and, where need be, tried again as one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

#: Lines that a chunk should have at the most: what is kept of a line while its chunk is loaded (0.6 KB) does not
#: depend on its length. 8 MiB of ``{}`` were 2.8 million lines and 1.7 GB.
MOST_LINES = 200_000
#: Chunks that a source may come to: its numbers are those from its ordinal times this on, so that the order of numbers
#: is the order of lines however late a source is cut. Times ``MOST_SOURCES`` it stays below 2**31.
CHUNKS_OF_A_SOURCE = 200_000
#: Sources that an import may have, whatever the setting says.
MOST_SOURCES = 10_000


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of lines. ``lines`` is the sum of all the others (P2)."""

    lines: int = 0
    imported: int = 0
    replaced: int = 0
    duplicates: int = 0
    rejected: int = 0
    blank: int = 0

    @property
    def stored(self) -> int:
        """Return the events that were written, in the place of another or not."""
        return self.imported + self.replaced


@dataclass(frozen=True, slots=True)
class Bulk:
    """How much was stored, and the times between which it lies.

    The sum over all that was ever stored in a collection is its size to the byte. Of times it gives bounds, beyond
    which no event lies: what took the place of another may have moved them inwards.
    """

    #: Bytes, with a line break for each event; less those of the rows whose place was taken, so perhaps below zero.
    size: int = 0
    #: The earliest and the latest time stored; None where nothing was.
    first: datetime | None = None
    last: datetime | None = None

    def __add__(self, other: Bulk) -> Bulk:
        """Return both together."""
        times = [time for time in (self.first, self.last, other.first, other.last) if time is not None]
        return Bulk(self.size + other.size, min(times, default=None), max(times, default=None))


class Kind(StrEnum):
    """What is to be done with a chunk."""

    #: Load the lines that begin in an exact range.
    LOAD = "load"
    #: Look at the first bytes of the source, and cut it or say who will.
    LOOK = "look"
    #: Go through all of the source, and cut it then.
    SCAN = "scan"
    #: Load lines from the start on until it is enough for a chunk; the rest is the next one.
    WALK = "walk"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk under lease: what its holder needs to know, read in the claim itself."""

    id: int
    import_id: str
    source_ordinal: int
    #: In the order of the sources and of the bytes, with gaps.
    number: int
    #: Byte offsets in the source, once decompressed; the chunk owns the lines whose first byte lies in [start, end).
    #: Only of a chunk to load: the others have no end yet.
    start: int
    end: int
    attempts: int
    #: Fences: whoever commits has to show the token of the latest claim.
    lease_token: int
    kind: Kind = Kind.LOAD
    #: Whether it reads so much at a stretch that it has a queue of its own.
    long: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What a done chunk left in the ledger."""

    #: The chunk's number.
    number: int
    #: Of the object's bytes, the chunk's share.
    bytes: int
    counts: Counts
    #: Milliseconds since 1970 by the database's clock.
    done_ms: int


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done next with a source that has no ranges yet."""

    kind: Kind
    long: bool


@dataclass(frozen=True, slots=True)
class Ranges:
    """A source cut into ranges of so many bytes, decompressed ones where it is compressed."""

    chunk_bytes: int
    #: Bytes of the source from end to end, in the same measure.
    extent: int


def count_chunks(size: int, chunk_bytes: int) -> int:
    """Return how many chunks of ``chunk_bytes`` an object of ``size`` bytes has: none where it is empty."""
    return -(-size // chunk_bytes)
