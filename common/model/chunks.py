"""A chunk: the byte range of a source that is read, committed and, where need be, tried again as one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: Lines that a chunk should have at the most: what is kept of a line while its chunk is loaded (0.6 KB) does not
#: depend on its length. 8 MiB of ``{}`` were 2.8 million lines and 1.7 GB.
MOST_LINES = 200_000


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of lines. ``lines`` is the sum of all the others (P2)."""

    lines: int = 0
    imported: int = 0
    replaced: int = 0
    duplicates: int = 0
    rejected: int = 0
    blank: int = 0


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
    #: 0-based, in the order of the sources and of the bytes.
    number: int
    #: Byte offsets in the source; the chunk owns the lines whose first byte lies in [start, end).
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
    #: Bytes of the chunk's range.
    bytes: int
    counts: Counts
    #: Milliseconds since 1970 by the database's clock.
    done_ms: int


def count_chunks(size: int, chunk_bytes: int) -> int:
    """Return how many chunks of ``chunk_bytes`` an object of ``size`` bytes has: none where it is empty."""
    return -(-size // chunk_bytes)
