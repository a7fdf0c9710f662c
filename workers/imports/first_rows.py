"""What a table's file says of its columns, and what its first rows tell, before anything of it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from common.errors import SourceFailed
from common.model.columns import FIRST_ROWS, Columns, infer_columns, read_columns, rows_in
from common.model.formats import Layout
from common.model.mapping import Mapping
from workers.imports.decoding import Decoder
from workers.imports.framing import Block
from workers.imports.records import BYTE_ORDER_MARK
from workers.imports.rows import RowDecoder
from workers.imports.walk import blocks_of

#: Bytes of the beginning, once decompressed, in which the first rows are looked for. 1,000 rows have 1 KB each.
SAMPLE_BYTES = 1 << 20
#: Bytes that are framed and decoded at a time: rows are short, and of a block all are decoded.
_PIECE = 64 * 1024
_BLANKS = re.compile(r"[ \t\r\n]*+")


class Told(NamedTuple):
    """What a file tells of its columns."""

    #: In so many words: a JSON object says it before its rows.
    declared: Columns
    #: By its first rows.
    found: Columns
    #: Whether all of the file was looked at.
    whole: bool


def read_first_rows(
    sample: bytes, layout: Layout, mapping: Mapping, decoder: Decoder | RowDecoder, *, whole: bool, longest: int
) -> Told:
    """Return what the beginning of a file tells, given how it is laid out. Pure but for ``decoder``, which keeps state.

    ``sample`` holds its first bytes, decompressed, ``whole`` says whether these are all; a row that they end in is left
    out. ``decoder`` is one of those that will load it: a row that becomes none then is none here. ``longest``: bytes of
    a line. Raises ColumnsFault where what the file declares cannot be.
    """
    declared = read_columns(_declared(sample)) if layout.wrapped else ()
    payloads = _payloads(sample, layout, mapping, decoder, whole=whole, longest=longest)
    return Told(declared, infer_columns(rows_in(islice(payloads, FIRST_ROWS))), whole)


class _SampleEndsError(Exception):
    """What follows is not at hand."""


def _payloads(
    sample: bytes, layout: Layout, mapping: Mapping, decoder: Decoder | RowDecoder, *, whole: bool, longest: int
) -> Iterator[bytes]:
    """Yield the rows as they would be stored, those that would not left out."""
    blocks = blocks_of(layout, mapping, _pieces(sample, whole=whole), start=0, longest=longest)
    for block in _as_far_as_they_go(blocks):
        yield from (event.payload for event in decoder.decode(block, 0).events)


def _pieces(sample: bytes, *, whole: bool) -> Iterator[bytes]:
    yield from (sample[at : at + _PIECE] for at in range(0, len(sample), _PIECE))
    if not whole:
        # Otherwise a framer would take what the sample ends in for a row.
        raise _SampleEndsError


def _as_far_as_they_go(blocks: Iterator[Block]) -> Iterator[Block]:
    try:
        yield from blocks
    except (_SampleEndsError, SourceFailed):
        return  # whoever loads a broken file says so


def _declared(sample: bytes) -> Any:
    """Return the member ``columns`` of the object that a file begins with; None where the sample ends before it does.

    Behind ``data`` it is found in small files alone: in others what the first rows tell has to do.
    """
    text = sample.removeprefix(BYTE_ORDER_MARK).decode(errors="replace")
    read = json.JSONDecoder().raw_decode
    try:
        at = text.index("{")
        while True:
            name, at = read(text, _next(text, at + 1))
            at = _next(text, at)
            if text[at] != ":":
                return None
            value, at = read(text, _next(text, at + 1))
            if name == "columns":
                return value
            at = _next(text, at)
    except (ValueError, IndexError, RecursionError):
        return None


def _next(text: str, at: int) -> int:
    """Return where the next token begins."""
    return _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # always matches
