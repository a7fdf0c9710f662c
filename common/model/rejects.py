"""A line we could not take: where it is, what is wrong with it, and its bytes. Data, not an exception (P5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

#: Bytes of a rejected line that are kept, so that it can be mended and sent again.
KEPT_BYTES = 64 * 1024


class RejectCode(StrEnum):
    """Why a line was rejected. The codes are stable: callers match on them."""

    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    INVALID_UTF8 = "invalid_utf8"
    LONE_SURROGATE = "lone_surrogate"
    TOO_DEEP = "too_deep"
    LINE_TOO_LONG = "line_too_long"
    INVALID_ID = "invalid_id"
    EMPTY_ID = "empty_id"
    ID_TOO_LONG = "id_too_long"
    INVALID_TIME = "invalid_time"
    INVALID_CSV = "invalid_csv"
    QUOTED_LINE_BREAK = "quoted_line_break"
    RAGGED_ROW = "ragged_row"
    INVALID_VALUE = "invalid_value"
    EVENT_TOO_LARGE = "event_too_large"
    INVALID_NAME = "invalid_name"
    NAME_TOO_LONG = "name_too_long"
    RESERVED_PREFIX = "reserved_prefix"
    RESERVED_NAME = "reserved_name"
    MISSING_MEMBER = "missing_member"
    UNKNOWN_REFERENCE = "unknown_reference"

    @property
    def sentence(self) -> str:
        """Return the plain sentence a person is shown. The first is the seed's own."""
        return _SENTENCES[self]


_SENTENCES = {
    RejectCode.INVALID_JSON: "The JSON specified was not valid.",
    RejectCode.NOT_AN_OBJECT: "The line is valid JSON but not an object.",
    RejectCode.INVALID_UTF8: "The line is not valid UTF-8.",
    RejectCode.LONE_SURROGATE: "The line holds half of a surrogate pair (\\ud800 to \\udfff), which is no character.",
    RejectCode.TOO_DEEP: "The line is nested more deeply than 512 levels.",
    RejectCode.LINE_TOO_LONG: "The line is longer than this service accepts.",
    RejectCode.INVALID_ID: "The id is neither a string nor an integer.",
    RejectCode.EMPTY_ID: "The id is an empty string.",
    RejectCode.ID_TOO_LONG: "The id is longer than 512 bytes.",
    RejectCode.INVALID_TIME: "The time is neither an ISO 8601 time nor a number of seconds or milliseconds since 1970.",
    RejectCode.INVALID_CSV: "The row is not valid CSV: a quote stands inside a cell without quotes, text follows a "
    "closing quote, a quote is never closed, or a carriage return stands outside quotes. Enclose such a cell in double "
    "quotes, and double the quotes in it.",
    RejectCode.QUOTED_LINE_BREAK: "A quote is not closed on its line: line breaks inside a value are not taken here.",
    RejectCode.RAGGED_ROW: "The row has more or fewer cells than the header has columns.",
    RejectCode.INVALID_VALUE: "A cell is not of its column's type: a number as JSON writes it, or true or false.",
    RejectCode.EVENT_TOO_LARGE: "The event has more bytes than this import takes.",
    RejectCode.INVALID_NAME: "The name of a member holds a period, which this import does not take.",
    RejectCode.NAME_TOO_LONG: "The name of a member is longer than this import takes.",
    RejectCode.RESERVED_PREFIX: "The name of a member begins with letters that are reserved.",
    RejectCode.RESERVED_NAME: "The name of a member is reserved.",
    RejectCode.MISSING_MEMBER: "The line lacks a member that this kind of import requires, or it is null.",
    RejectCode.UNKNOWN_REFERENCE: "A member that has to hold the id of something registered in this project is absent, "
    "is no string, or holds another id.",
}


class Reject(NamedTuple):
    """A rejected line."""

    #: 0-based index among the lines that the chunk owns.
    line: int
    #: Of the line's first byte in the source.
    offset: int
    #: Bytes of the line without its line end; of a line over the limit, the limit plus one.
    length: int
    code: RejectCode
    #: The line's first ``KEPT_BYTES`` bytes.
    body: bytes


@dataclass(frozen=True, slots=True)
class LineError:
    """A rejected line with its place in the whole file."""

    #: The position to go on from: number of the chunk, line within it.
    position: tuple[int, int]
    #: Of the object it stands in.
    key: str
    #: In the object, from 0: of a line or an element; of a CSV record its first line of text, the header being 0.
    index: int
    byte_offset: int
    length: int
    code: RejectCode
