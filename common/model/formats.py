"""What an object's bytes are: how they are compressed, and how lines are written in them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """How lines are written."""

    #: One JSON object a line.
    NDJSON = "ndjson"
    #: A header line, and a record a line or, with quoted line breaks, several.
    CSV = "csv"
    #: An array of objects, alone or as the ``data`` of an object that has ``columns`` too; its elements are the lines.
    JSON = "json"


class Compression(StrEnum):
    """How the whole object is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"


@dataclass(frozen=True, slots=True)
class Layout:
    """What looking at an object's first bytes has found: all that a reader of its middle has to know."""

    format: Format = Format.NDJSON
    compression: Compression = Compression.NONE
    #: Of CSV: the names of its columns, as they stand in the header.
    header: tuple[str, ...] = ()
    #: Of JSON: whether the array is a member of an object.
    wrapped: bool = False
