"""Go through all of a source, so that it can be cut: what a look at its first bytes cannot tell."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common.errors import SourceFailed
from common.model.chunks import Kind, Ranges, Step
from common.model.formats import Compression, Format
from workers.imports import gzip_index
from workers.imports.gzip_index import GzipIndex, UnseekableError
from workers.imports.inflating import Inflation
from workers.imports.look import range_bytes
from workers.imports.reading import advancing, limits
from workers.imports.records import LineQuotes, has_quoted_line_breaks
from workers.imports.sniffing import SAMPLE_BYTES
from workers.imports.work import Cut, Work

#: Bytes of text that a part of an index is for: some 130 KB of it, read by each chunk.
_STRETCH = 64 * 1024 * 1024
#: What is wrong with compressed data that is as it should be up to there.
_GOOD_BEFORE = frozenset({"truncated_compression", "trailing_junk"})


def scan(work: Work) -> Cut:
    """Read the source from end to end, and say how it can be cut. Raises SourceFailed where nothing of it may be."""
    if work.layout.compression is Compression.GZIP:
        return _scan_gzip(work)
    if work.layout.compression is not Compression.NONE:
        return _scan_stream(work)
    sample = _Sample()
    pieces = work.runtime.objects_of(work.job).read_from(work.source, 0, work.source.size)
    breaks = has_quoted_line_breaks(_going_by(pieces, sample, work))
    return Cut(_cut(work, sample, breaks=breaks, extent=work.source.size))


def _going_by(pieces: Iterator[bytes], sample: _Sample, work: Work) -> Iterator[bytes]:
    for piece in pieces:
        sample.add(piece)
        work.lease.advance()
        yield piece


def _scan_gzip(work: Work) -> Cut:
    source, sample, quotes = work.source, _Sample(), LineQuotes()
    may_break = work.layout.format is Format.CSV and work.job.mapping.quoted_line_breaks

    def look(piece: bytes) -> None:
        sample.add(piece)
        if may_break:
            quotes.add(piece)

    # Members that hold no text come as bytes of the object alone.
    read = partial(advancing, partial(work.runtime.objects_of(work.job).read_from, source), work.lease.advance)
    most = limits(work.runtime.settings)
    try:
        index = gzip_index.scan(read, source.size, most, look=look, advance=work.lease.advance)
    except UnseekableError:
        return _scan_stream(work)
    stretch = max(_STRETCH, work.runtime.settings.chunk_bytes)
    cut = _cut(work, sample, breaks=quotes.found, extent=index.decoded_size)
    return Cut(cut, None, index.decoded_size, partial(_stretches, index, stretch))


def _scan_stream(work: Work) -> Cut:
    """Decompress what can only be walked, once before anything of it is loaded.

    Where a checksum is wrong, what came out before it may be anything: bzip2 hands out a block, gzip a member and
    Zstandard a frame before it has seen theirs. Of a bzip2 with one wrong bit 5,939 events were stored that nobody had
    written. And a bomb had loaded 8 million lines when it was known for one. What is cut off, or followed by junk, is
    good up to there, and is walked to there.
    """
    source, most = work.source, limits(work.runtime.settings)
    read = partial(work.runtime.objects_of(work.job).read_from, source)
    raw = advancing(read, work.lease.advance, 0, source.size)
    try:
        for _ in Inflation(raw, work.layout.compression, most, is_imported=False):
            work.lease.advance()
    except SourceFailed as error:
        if error.code not in _GOOD_BEFORE:
            raise
    return Cut(Step(Kind.WALK, long=work.chunk.long))


def _stretches(index: GzipIndex, stretch: int) -> Iterator[tuple[int, bytes]]:
    """Yield the index in parts, each for what begins in a stretch of the text, and where that is."""
    for start in range(0, index.decoded_size, stretch):
        yield start, index.cut(start, start + 2 * stretch).to_bytes()


class _Sample:
    """A source's first bytes."""

    def __init__(self) -> None:
        self.content = b""

    def add(self, piece: bytes) -> None:
        if len(self.content) < SAMPLE_BYTES:
            self.content += piece[:SAMPLE_BYTES]


def _cut(work: Work, sample: _Sample, *, breaks: bool, extent: int) -> Step | Ranges:
    if breaks or work.layout.format is Format.JSON:
        return Step(Kind.WALK, long=False)
    most, nest = work.runtime.settings.chunk_bytes, work.job.mapping.dots_nest
    return Ranges(range_bytes(sample.content, work.layout, most=most, dots_nest=nest), extent)
