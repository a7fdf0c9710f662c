"""A source's bytes, once decompressed, from a place on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import Protocol, TypeAlias

from common.ledger import imports
from common.model.formats import Compression
from common.model.sources import Source
from common.settings import Settings
from workers.imports.gzip_index import GzipIndex
from workers.imports.inflating import Inflation, Limits
from workers.imports.work import Work

#: ``Objects.read_from`` of one source.
Read: TypeAlias = "Callable[[int, int], Generator[bytes, None, None]]"


class Reading(Protocol):
    """A way into a source."""

    #: Whether it can be entered at any place without reading what comes before.
    anywhere: bool

    def pieces_from(self, offset: int) -> Iterator[bytes]:
        """Yield the decompressed bytes from an offset on, in pieces, and pull no more than is needed.

        Once only. Raises SourceFailed where the source cannot be read any further, Transient.
        """

    def upto(self, end: int, /) -> int:
        """Return how many of the object's own bytes the decompressed ones before ``end`` stand for."""

    def close(self) -> None:
        """Let go of what is held."""


def open_reading(work: Work, offset: int, *, advance: Callable[[], None]) -> Reading:
    """Return a way into a chunk's source at an offset.

    ``advance`` is called with each piece, of the object's own bytes and of decompressed ones: a framer yields nothing
    while it is inside a line of gigabytes, and a decompressor nothing while it passes over what holds no text.
    """
    runtime, source, chunk = work.runtime, work.source, work.chunk
    end = max(chunk.end, chunk.start + runtime.settings.chunk_bytes)
    read = partial(advancing, partial(runtime.objects_of(work.job).read_from, source), advance)
    if work.layout.compression is Compression.NONE:
        return _Plain(read, source, end)
    if source.decoded_size is not None:
        find = partial(_find_index, work)
        if index := find(offset):
            return _Indexed(read, index, find, min(end, source.decoded_size), advance)
    return _Streamed(read, source, work.layout.compression, limits(runtime.settings), advance)


def _find_index(work: Work, offset: int) -> GzipIndex | None:
    with work.runtime.database.transaction() as tx:
        index = imports.read_index(tx, work.chunk.import_id, work.chunk.source_ordinal, offset)
    return GzipIndex.from_bytes(index) if index is not None else None


def advancing(read: Read, advance: Callable[[], None], start: int, end: int) -> Generator[bytes, None, None]:
    """Yield what ``read`` does, and note with each piece that bytes move."""
    with closing(read(start, end)) as pieces:
        for piece in pieces:
            advance()
            yield piece


def limits(settings: Settings) -> Limits:
    """Return what an object may come to once decompressed."""
    return Limits(settings.max_decoded_bytes, settings.max_ratio)


class _Plain:
    anywhere = True

    def __init__(self, read: Read, source: Source, end: int) -> None:
        self._read, self._source, self._end = read, source, end

    def pieces_from(self, offset: int) -> Iterator[bytes]:
        return self._read(offset, min(self._end, self._source.size))

    def upto(self, end: int) -> int:
        return min(end, self._source.size)

    def close(self) -> None:
        """Hold nothing."""


class _Indexed:
    anywhere = True

    def __init__(
        self,
        read: Read,
        index: GzipIndex,
        find: Callable[[int], GzipIndex | None],
        end: int,
        advance: Callable[[], None],
    ) -> None:
        self._read, self._index, self._find, self._end, self._advance = read, index, find, end, advance

    def pieces_from(self, offset: int) -> Iterator[bytes]:
        """Yield from an offset on; what lies behind the index at hand is entered by the next one.

        Entered by its last point, each 8 MiB of an element that goes on for gigabytes began with all before them.
        """
        index: GzipIndex | None = self._index
        while index is not None:
            last = index.points[-1].decoded
            with closing(index.read_from(self._read, offset, self._end)) as pieces:
                for piece in pieces:
                    self._advance()
                    yield piece
                    offset += len(piece)
                    # A slice ends at each point. Where there is no further one the index found is this one again.
                    if offset == last:
                        break
                else:
                    return
            index = self._find(offset)

    def upto(self, end: int) -> int:
        index = self._index
        return index.size * min(end, index.decoded_size) // max(index.decoded_size, 1)

    def close(self) -> None:
        """Hold nothing: the pieces close what they opened."""


class _Streamed:
    anywhere = False

    def __init__(
        self, read: Read, source: Source, compression: Compression, limits: Limits, advance: Callable[[], None]
    ) -> None:
        self._raw = read(0, source.size)
        self._inflation = Inflation(self._raw, compression, limits)
        self._advance = advance

    def pieces_from(self, offset: int) -> Iterator[bytes]:
        """Yield from an offset on; what comes before is decompressed and dropped."""
        before = offset
        for piece in self._inflation:
            self._advance()
            if before < len(piece):
                yield piece[before:]
            before = max(before - len(piece), 0)

    def upto(self, _: int) -> int:
        return self._inflation.consumed

    def close(self) -> None:
        self._raw.close()
