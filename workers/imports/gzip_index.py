"""Make a gzip seekable: one pass over the object finds points at which decoding can begin.

A point is a place between two blocks of deflate, and the 32 KB of text before it; indexed_gzip finds them and decodes
from them. Three things are added here. The pass hands the text to whoever looks for line breaks, checks all that
``Inflater`` checks (indexed_gzip takes junk for padding), and goes in sections, so that no more than one section's
points are in memory uncompressed: the scan of 4.5 GB of text added 30 MB to a process. Points are
thinned out where they get too many, so any object has an index of bounded size. And an index can be cut to what a
range needs, some 20 KB, so that nobody who loads a chunk has to load it all.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import indexed_gzip
from backports import zstd

from common.errors import SourceFailed
from common.model.formats import Compression
from workers.imports.inflating import PIECE, Inflater, Limits

#: ``Objects.read_from`` of one source: yields its bytes from ``start`` to its end; ``end`` is a hint.
ReadFrom = Callable[[int, int], Iterator[bytes]]

#: Decoded bytes between two points at the least. indexed_gzip's buffer is four times that.
SPACING = 4 * 1024 * 1024
#: Bytes of an index above which every other point is dropped. A point of JSON lines has some 8 KB.
MOST_BYTES = 16 * 1024 * 1024
#: Decoded bytes that a block of deflate may go beyond the spacing. zlib's have at most 8 MiB; isal's lowest level puts
#: a whole object into one.
MOST_GAP = 32 * 1024 * 1024
#: Most decoded bytes read in one call, and bytes read behind the end asked for.
_SLICE, _TAIL = 8 * 1024 * 1024, 64 * 1024
#: Raw bytes that indexed_gzip asks for at a time. Footer, padding and next header of a member have to fit in.
_READ = 128 * 1024
#: Raw bytes gone through between two looks at the points. The next ones are then at most 4 GiB of text away.
_SECTION = 4 * 1024 * 1024
_WINDOW = 32 * 1024
#: Codes of an object that is too large, whoever reads it.
_TOO_LARGE = frozenset({"too_large_decompressed", "suspicious_ratio"})


class UnseekableError(Exception):
    """The gzip is damaged or odd: read it as a stream, so that what is good of it gets imported."""


class _EmptyError(Exception):
    """The gzip is sound, and holds no text."""


class RangeFile(io.RawIOBase):
    """A seekable file over a source that is read forward: goes on where it was, and asks anew only after a leap.

    Keeps the last ``_KEPT`` bytes, for indexed_gzip steps back by what it had read ahead.
    """

    _KEPT = 2 * _READ

    def __init__(self, read_from: ReadFrom, size: int, end: int | None = None) -> None:
        """Take the source and its size in bytes; ``end`` is how far it is expected to be read."""
        super().__init__()
        self._read_from, self._size, self._end = read_from, size, size if end is None else end
        self._pieces: Iterator[bytes] = iter(())
        #: Bytes at hand, which end where the stream stands.
        self._kept = b""
        self._stands_at = self._position = 0
        self._is_open = False
        #: What a read raised: C code in between knows only that it failed.
        self.failure: BaseException | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, fewer only at the end. Raises what the source raises."""
        try:
            return self._read(self._size if size < 0 else size)
        except BaseException as error:
            self.failure = error
            raise

    def close(self) -> None:
        """Close the stream under way."""
        self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        stop = min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        start = self._stands_at - len(self._kept)
        if not (self._is_open and start <= self._position <= self._stands_at):
            self._drop()
            self._pieces = self._read_from(self._position, self._end)
            self._is_open = True
            start = self._stands_at = self._position
        parts = [self._kept]
        while self._stands_at < stop and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            self._stands_at += len(piece)
        kept = b"".join(parts)
        found = kept[self._position - start : stop - start]
        self._position += len(found)
        # What lies ahead is kept, and a little of what lies behind.
        self._kept = kept[max(self._position - start - self._KEPT, 0) :]
        return found

    def _drop(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        self._pieces, self._kept, self._is_open = iter(()), b"", False


@dataclass(frozen=True, slots=True)
class Point:
    """A place to begin at."""

    #: Offsets in the text and in the object, and how many bits of the byte before that belong to the block.
    decoded: int
    raw: int
    bits: int
    #: The text before it, compressed by Zstandard; empty where a member begins.
    window: bytes


@dataclass(frozen=True, slots=True)
class GzipIndex:
    """Where a gzip can be entered."""

    #: Bytes of the object, and of the text.
    size: int
    decoded_size: int
    #: In order. The first is at byte 0 of the text, unless the index was cut.
    points: tuple[Point, ...]

    def to_bytes(self) -> bytes:
        """Return the index as bytes, of the order of 0.2 % of the text's."""
        head = _HEAD.pack(_MAGIC, self.size, self.decoded_size, len(self.points))
        table = [_POINT.pack(point.decoded, point.raw, point.bits, len(point.window)) for point in self.points]
        return b"".join((head, *table, *(point.window for point in self.points)))

    @classmethod
    def from_bytes(cls, stored: bytes) -> GzipIndex:
        """Return what ``to_bytes`` was called on. Raises ValueError for bytes of another kind."""
        if not stored.startswith(_MAGIC):
            raise ValueError("these bytes are no gzip index")
        _, size, decoded_size, count = _HEAD.unpack_from(stored)
        at = _HEAD.size + count * _POINT.size
        points = []
        for decoded, raw, bits, length in _POINT.iter_unpack(stored[_HEAD.size : at]):
            points.append(Point(decoded, raw, bits, stored[at : at + length]))
            at += length
        return cls(size, decoded_size, tuple(points))

    def cut(self, start: int, end: int) -> GzipIndex:
        """Return an index that is as good for reading from ``start`` to shortly behind ``end``, offsets in the text."""
        first = max((at for at, point in enumerate(self.points) if point.decoded <= start), default=0)
        after = (at for at, point in enumerate(self.points) if point.decoded >= end and at > first)
        return replace(self, points=self.points[first : next(after, len(self.points)) + 1])

    def read_from(self, read_raw: ReadFrom, start: int, end: int) -> Generator[bytes, None, None]:
        """Yield the text from ``start`` to its end, in pieces of at most 256 KiB; pull no more than is needed.

        ``end`` is where the caller expects to stop. The object has to be the one that was scanned: nothing is checked
        again. Raises what ``read_raw`` raises, SourceFailed ``corrupt_compression``, and ValueError for a ``start``
        before all that the index was cut to.
        """
        if self.points and start < self.points[0].decoded:
            raise ValueError("the index was cut to a range behind this place")
        after = (point.raw for point in self.points if point.decoded >= end)
        stops, ahead = [point.decoded for point in self.points], PIECE
        buffer = memoryview(bytearray(_SLICE))
        with RangeFile(read_raw, self.size, next(after, self.size)) as file:
            while start < self.decoded_size:
                # Each reading begins at the last point, so it ends at one where it can.
                most = min(start + _SLICE, max(end + _TAIL, start + ahead), self.decoded_size)
                stop = next((at for at in stops if start < at < most), most)
                text = buffer[: stop - start]
                _read_into(text, file, self.cut(start, stop), start)
                # Nearly every line that the end cuts ends in the tail; who goes on reads by larger and larger steps.
                ahead = ahead * 2 if stop > end else ahead
                yield from (bytes(text[at : at + PIECE]) for at in range(0, len(text), PIECE))
                start = stop


def scan(
    read_raw: ReadFrom, size: int, limits: Limits, *, look: Callable[[bytes], object], advance: Callable[[], object]
) -> GzipIndex:
    """Go through the whole object of ``size`` bytes once, and return its index.

    ``look`` is given the text, all of it, in order, in pieces of at most 256 KiB; ``advance`` is called after each.
    What they raise comes out. Raises UnseekableError where the gzip is not sound from end to end or cannot be seeked
    in (a part of the text was looked at by then), SourceFailed where it is over the limits, and what ``read_raw``
    raises. Holds 16 MB for indexed_gzip, and its section's points.
    """
    file = _Watched(read_raw, size, Inflater(Compression.GZIP, limits, checked_only=True), look, advance)
    with file:
        try:
            points, decoded_size = _find_points(file, size)
        except _EmptyError:
            return GzipIndex(size, 0, ())
        except indexed_gzip.ZranError as error:
            raise UnseekableError(str(error)) from error
    inflater = file.inflater
    # Never seen; but what it takes for the end, and for padding, is its own affair.
    if decoded_size != inflater.decoded or not file.is_through:
        raise UnseekableError(f"indexed_gzip sees {decoded_size} bytes, isal {inflater.decoded}")
    if inflater.widest_gap > _READ // 2:
        raise UnseekableError("there is more padding between two members than indexed_gzip always passes")
    return GzipIndex(size, decoded_size, tuple(points))


class _Watched(RangeFile):
    """Has every byte of the object decoded and looked at, in order, the first time it is read."""

    def __init__(
        self,
        read_raw: ReadFrom,
        size: int,
        inflater: Inflater,
        look: Callable[[bytes], object],
        advance: Callable[[], object],
    ) -> None:
        super().__init__(read_raw, size)
        self.inflater, self._look, self._advance = inflater, look, advance
        self._seen = 0

    @property
    def is_through(self) -> bool:
        return self._seen == self._size

    def _read(self, size: int) -> bytes:
        found = super()._read(size)
        if self._position > self._seen:
            fresh = found[len(found) - (self._position - self._seen) :]
            self._seen = self._position
            self._watch(self.inflater.feed(fresh))
            if self.is_through:
                self._watch(self.inflater.finish())
            # indexed_gzip looks without end for the text of members that hold none, or keeps a point for each.
            if not self.inflater.decoded and self.is_through:
                raise _EmptyError
            if not self.inflater.decoded and self._seen > _SECTION:
                raise UnseekableError("megabytes of empty members")
        return found

    def _watch(self, pieces: Iterator[bytes]) -> None:
        for piece in _sound(pieces):
            self._look(piece)
            self._advance()


def _sound(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pass on what an Inflater yields. Raises UnseekableError where it finds damage."""
    try:
        yield from pieces
    except SourceFailed as error:
        if error.code in _TOO_LARGE:
            raise
        raise UnseekableError(str(error)) from error


def _find_points(file: RangeFile, size: int) -> tuple[list[Point], int]:
    """Return the points, and the bytes of the text."""
    points: list[Point] = []
    least = SPACING
    found = GzipIndex(size, 0, ())
    while not found.decoded_size:
        # The last two: with one, indexed_gzip begins at the beginning.
        found = _find_more(file, replace(found, points=found.points[-2:]))
        for point in found.points:
            if not points or point.decoded >= points[-1].decoded + least:
                points.append(point)
        while sum(len(point.window) + _POINT.size for point in points) > MOST_BYTES:
            least *= 2
            points = _thinned(points, least)
    points = [point for point in points if point.decoded < found.decoded_size]
    places = [*(point.decoded for point in points), found.decoded_size]
    if any(after > place + 2 * least + MOST_GAP for place, after in pairwise(places)):
        raise UnseekableError("a block of deflate is so long that all who read its end would decode it for seconds")
    return points, found.decoded_size


def _find_more(file: RangeFile, known: GzipIndex) -> GzipIndex:
    """Return what is known and the points of the next section; the text's size too where that is the last one."""
    target = _SECTION
    if known.points:
        # indexed_gzip takes the ratio so far to tell how far to go in the object, and leaves off at the point behind.
        last = known.points[-1]
        target = last.decoded + max(min(_SECTION * last.decoded // last.raw, 64 * SPACING), SPACING)
    with _opened(file, known, build=True) as opened:
        opened.seek(target)
        exported = io.BytesIO()
        opened.export_index(fileobj=exported)
    return _from_zran(exported.getvalue())


def _thinned(points: list[Point], least: int) -> list[Point]:
    kept = points[:1]
    for point in points:
        if point.decoded >= kept[-1].decoded + least:
            kept.append(point)
    return kept


@contextmanager
def _opened(file: RangeFile, index: GzipIndex, *, build: bool) -> Iterator[Any]:
    """Open the file with what is known of it; what its reads raise comes out as it was raised."""
    try:
        # Its own buffer would be four times the spacing, filled again after each seek: we read from beneath it.
        outer = indexed_gzip.IndexedGzipFile(
            fileobj=file, auto_build=build, skip_crc_check=True, spacing=SPACING, readbuf_size=_READ, buffer_size=1
        )
        with outer:
            if index.points:
                outer.import_index(fileobj=io.BytesIO(_to_zran(index)))
            yield outer.raw
    except BaseException as error:
        # Through C code comes an error of indexed_gzip's, or of Python's own about an exception left behind.
        if file.failure is not None and file.failure is not error:
            raise file.failure from None
        raise


def _to_zran(index: GzipIndex) -> bytes:
    """Return the index in the form of indexed_gzip, version 1."""
    points = [*index.points]
    if index.decoded_size:
        points.append(Point(index.decoded_size, index.size, 0, b""))  # it serves no offset that has no point behind it
    head = _ZRAN_HEAD.pack(_ZRAN_MAGIC, 1, 0, index.size, index.decoded_size, SPACING, _WINDOW, len(points))
    table = (_ZRAN_POINT.pack(point.raw, point.decoded, point.bits, bool(point.window)) for point in points)
    return b"".join((head, *table, *(zstd.decompress(point.window) for point in points if point.window)))


def _from_zran(exported: bytes) -> GzipIndex:
    _, _, _, size, decoded_size, _, _, count = _ZRAN_HEAD.unpack_from(exported)
    at = _ZRAN_HEAD.size + count * _ZRAN_POINT.size
    points = []
    for raw, decoded, bits, has_window in _ZRAN_POINT.iter_unpack(exported[_ZRAN_HEAD.size : at]):
        points.append(Point(decoded, raw, bits, zstd.compress(exported[at : at + _WINDOW]) if has_window else b""))
        at += _WINDOW * has_window
    return GzipIndex(size, decoded_size, tuple(points))


def _read_into(text: memoryview, file: RangeFile, index: GzipIndex, start: int) -> None:
    try:
        # Opened for each reading: 0.1 ms, and only the points around it are in memory.
        with _opened(file, index, build=False) as opened:
            opened.seek(start)
            count = opened.readinto(text)
    except indexed_gzip.ZranError as error:
        raise _unlike(start) from error
    if count != len(text):
        raise _unlike(start + count)


def _unlike(at: int) -> SourceFailed:
    text = f"The object's gzip data breaks at decompressed byte {at:,}. Upload it once more and import it again."
    return SourceFailed("corrupt_compression", text)


_MAGIC = b"PGI1"
_HEAD, _POINT = struct.Struct("<4sQQI"), struct.Struct("<QQBI")
_ZRAN_MAGIC = b"GZIDX"
_ZRAN_HEAD, _ZRAN_POINT = struct.Struct("<5sBBQQIII"), struct.Struct("<QQBB")
