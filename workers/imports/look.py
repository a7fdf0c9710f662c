"""Look at an object's first bytes, and say how to go on with it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from common.model.chunks import MOST_LINES, Kind, Ranges, Step
from common.model.formats import Compression, Format, Layout
from common.model.imports import Import
from common.model.sources import Source
from common.objects import Objects
from workers.imports.header import HEADER_BYTES, lay_out, read_header
from workers.imports.inflating import first_bytes
from workers.imports.sniffing import SAMPLE_BYTES, find_compression, find_layout
from workers.imports.work import Cut, Work

#: Bytes of one more look, where the header does not end within the sample: 10,000 columns do not. With a byte order
#: mark and a line end.
_HEADER_LOOK = HEADER_BYTES + 5
#: Bytes of one more look, where nothing can be decompressed yet: a block of bzip2 has up to 900 KB.
_BLOCK_LOOK = 1024 * 1024
_BLANK = b" \t\r\n"
#: Bytes that the objects of a chunk's rows may come to, however short the rows are.
_MOST_OBJECTS = 64 * 1024 * 1024


def look(work: Work) -> Cut:
    """Look at a chunk's source. Raises as ``look_at`` does."""
    objects, most = work.runtime.objects_of(work.job), work.runtime.settings.chunk_bytes
    return look_at(objects, work.source, work.job, chunk_bytes=most)


def look_at(objects: Objects, source: Source, job: Import, *, chunk_bytes: int) -> Cut:
    """Read the object's first bytes and decide; chunks get ``chunk_bytes`` at the most.

    Raises SourceFailed where it is not what was declared, or nothing that we take: before anything is loaded.
    """
    sample, whole, compression = sample_of(objects, source, job, SAMPLE_BYTES)
    if job.format and job.mapping.rules.any_shape:
        layout = Layout(job.format, compression)
    else:
        layout = find_layout(sample, name=source.key, whole=whole, declared=job.format, compression=compression)
    if layout.format is Format.CSV and (not whole or sample.removeprefix(codecs.BOM_UTF8).strip(_BLANK)):
        if not whole and b"\n" not in sample:
            sample, whole, _ = sample_of(objects, source, job, _HEADER_LOOK)
        layout = Layout(layout.format, compression, read_header(sample, job.mapping, whole=whole))
    return Cut(_cut(layout, job, source, sample, chunk_bytes), layout)


def sample_of(objects: Objects, source: Source, job: Import, most: int) -> tuple[bytes, bool, Compression]:
    """Return the object's first bytes, decompressed, whether they are all of it, and how it is compressed.

    Raises as ``look_at`` does.
    """
    head = _head(objects.read_from(source, 0, min(most, source.size)), most)
    whole = len(head) == source.size
    compression = find_compression(head, declared=job.compression)
    if compression is Compression.NONE:
        return head, whole, compression
    sample, whole = first_bytes(head, compression, most, whole=whole)
    if not sample and not whole and most < _BLOCK_LOOK:
        return sample_of(objects, source, job, _BLOCK_LOOK)
    return sample[:most], whole, compression


def _head(pieces: Iterator[bytes], most: int) -> bytes:
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= most:
            break
    return head[:most]


def _cut(layout: Layout, job: Import, source: Source, sample: bytes, chunk_bytes: int) -> Step | Ranges:
    # What is not larger than a chunk is read at one stretch anyway.
    long = source.size > chunk_bytes
    match layout.compression, layout.format:
        case ((Compression.GZIP | Compression.ZSTD | Compression.BZIP2), _):
            return Step(Kind.SCAN, long=long)  # whether it is sound; and of gzip for an index to enter it by
        case _, Format.JSON:
            return Step(Kind.WALK, long=False)
        case _, Format.CSV if job.mapping.quoted_line_breaks:
            return Step(Kind.SCAN, long=long)  # a line break may be inside quotes
        case _:
            most = range_bytes(sample, layout, most=chunk_bytes, dots_nest=job.mapping.dots_nest)
            return Ranges(most, source.size)


def range_bytes(sample: bytes, layout: Layout, *, most: int, dots_nest: bool = True) -> int:
    """Return the bytes of a chunk, given a source's first ones: fewer than ``most`` where lines are very short.

    And where the rows of a CSV grow with the names that they are stored with.
    """
    mean = len(sample) / (sample.count(b"\n") + 1)
    if layout.header:
        overhead = lay_out(layout.header, dots_nest=dots_nest).overhead
        most = min(round(most * mean / (mean + overhead)), row_bytes(layout, dots_nest=dots_nest))
    return max(min(most, round(mean * MOST_LINES)), 1)


def row_bytes(layout: Layout, *, dots_nest: bool = True) -> int:
    """Return the bytes of rows whose objects are ``_MOST_OBJECTS`` at the very most.

    A row that is one has a comma or a line break for each column, and the object has the names besides: 8 columns of
    10 letters may make 17 bytes of one, a column of 1,024 letters 500.
    """
    columns = max(len(layout.header), 1)
    return max(_MOST_OBJECTS * columns // (columns + lay_out(layout.header, dots_nest=dots_nest).overhead), 1)
