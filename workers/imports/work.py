"""What is at hand while a chunk is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from common.grounds import identity_of, known_to
from common.model.chunks import MOST_LINES, Chunk, Ranges, Step
from common.model.formats import Format, Layout
from common.model.imports import Import
from common.model.sources import Source
from common.ruling import Known
from common.runtime import Runtime
from workers.imports.decoding import Decoder
from workers.imports.framing import Block
from workers.imports.lease import Lease
from workers.imports.lines import Lines
from workers.imports.rows import RowDecoder
from workers.imports.settle import too_many_rejects


@dataclass(frozen=True, slots=True)
class Work:
    """A chunk under lease, and all that belongs to it."""

    runtime: Runtime
    job: Import
    source: Source
    chunk: Chunk
    lease: Lease

    @property
    def layout(self) -> Layout:
        """Return what is known of the source's inside; one that nobody has looked at is plain lines."""
        return self.source.layout or Layout()

    @property
    def longest_line(self) -> int:
        """Return the bytes of a line that a framer has to keep whole.

        One more than the decoder takes: a carriage return before the newline does not count.
        """
        return self.runtime.settings.max_line_bytes + 1


@dataclass(frozen=True, slots=True)
class Cut:
    """What was found out about a source that could not be cut before."""

    cut: Step | Ranges
    layout: Layout | None = None
    decoded_size: int | None = None
    #: What a gzip can be entered by, for each stretch of its text where it begins.
    indexes: Callable[[], Iterable[tuple[int, bytes]]] = tuple


@dataclass(slots=True)
class Judge:
    """Decodes a chunk's blocks one after the other."""

    work: Work
    lines: Lines = field(init=False)
    _decoder: Decoder | RowDecoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Begin with no lines, and the decoder of the source's format."""
        work, known = self.work, _known(self.work)
        self.lines = Lines(work.job.mapping.on_duplicate, known=known)
        ordinal = work.chunk.source_ordinal
        self._decoder = decoder_of(work.runtime, work.job, work.layout, ordinal=ordinal, known=known)

    def take(self, block: Block) -> None:
        """Decode a block. Raises Terminal where a chunk would hold more rejects than memory, LeaseLostError."""
        work, lines = self.work, self.lines
        decoded = self._decoder.decode(block, lines.text_lines)
        lines.add(decoded.events)
        lines.rejects += decoded.rejects
        # Where a look misjudged the lines. Otherwise the chunk commits its rejects, so that they are seen.
        if len(lines.rejects) > max(work.job.max_rejects, MOST_LINES):
            raise too_many_rejects()
        lines.lines += decoded.lines
        lines.blank += decoded.blank
        lines.text_lines += decoded.lines if decoded.text_lines is None else decoded.text_lines
        work.lease.advance()


def _known(work: Work) -> Known:
    """Return what lines may name, as it is now: some chunks may see a thing that others of their import do not."""
    job = work.job
    if not job.mapping.rules.references:
        return Known()
    with work.runtime.database.transaction() as tx:
        return known_to(tx, work.runtime, job.project_id)


def decoder_of(
    runtime: Runtime, job: Import, layout: Layout, *, ordinal: int, known: Known | None = None
) -> Decoder | RowDecoder:
    """Return what decodes the lines of the import's source of this ordinal, which is laid out so."""
    rules: dict[str, Any] = {
        "identity": identity_of(runtime),
        "import_number": job.number,
        "source_ordinal": ordinal,
        "default_time": round(job.created_at.timestamp() * 1_000_000),
        "max_line": runtime.settings.max_line_bytes,
        "known": known,
    }
    if layout.format is Format.CSV:
        return RowDecoder(layout.header, job.mapping, **rules)
    return Decoder(job.mapping, **rules)
