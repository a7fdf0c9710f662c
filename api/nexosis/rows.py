"""The rows of a request: as JSON or as CSV, each as a line. Pure."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from api.nexosis.parse import declared_columns, fold_names, invalid
from common.errors import Refusal
from common.judging import has_more_elements, on_one_line
from common.model.columns import MOST_COLUMNS, Columns
from common.model.rejects import RejectCode

#: Bytes of a request, and rows of it.
MAX_BODY, MOST_ROWS = 16 * 1024 * 1024, 50_000
#: Bytes of the rows of CSV as lines: each line says the names of all columns again.
_MOST_BYTES = 4 * MAX_BODY
#: Bytes of the metadata: as many as a request for an import has for it. It is read as a whole.
_MOST_METADATA = 2 * 1024 * 1024
#: Characters that are shown of a name.
_SHOWN = 60

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_NOTHING = msgspec.Raw(b"null")
# Otherwise the module takes cells of 131,072 characters and no longer ones, and imports do.
csv.field_size_limit(MAX_BODY)


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a request puts into a dataset."""

    #: Lines, at least one; of JSON in the bytes that they came in. Nobody has looked into them.
    rows: Sequence[bytes]
    #: What it declares of columns.
    columns: Columns = ()


def read_json_rows(body: bytes) -> Sheet:
    """Return what ``{"data": [..], "columns": {..}}`` puts, its names in letters of any case.

    Raises Refusal ``malformed_json``, ``invalid_request``, ``invalid_columns``, ``no_data``, ``too_many_events``.
    """
    # Rows, and the metadata of columns beside them.
    if has_more_elements(body, MOST_ROWS + MOST_COLUMNS, depths=(1, 2)):
        raise _too_many()
    try:
        members = fold_names(_MEMBERS.decode(body.removeprefix(codecs.BOM_UTF8)))
        told = bytes(members.get("columns", _NOTHING))
        if len(told) > _MOST_METADATA:
            raise invalid({"columns": [f"The metadata of the columns has more than {_MOST_METADATA:,} bytes."]})
        columns = msgspec.json.decode(told)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = 'The body of the request is not valid JSON, or no object: {"data": [..], "columns": {..}}.'
        raise Refusal("malformed_json", text) from None
    rows = _read_rows(members.get("data", _NOTHING))
    return Sheet(list(map(on_one_line, rows)), declared_columns(columns))


def _read_rows(value: msgspec.Raw) -> list[bytes]:
    try:
        rows = list(map(bytes, _ROWS.decode(value))) if value != _NOTHING else []
    except (msgspec.MsgspecError, RecursionError):
        raise invalid({"data": ["The data is not an array of objects."]}) from None
    if not rows:
        raise _no_data()
    if len(rows) > MOST_ROWS:
        raise _too_many()
    return rows


def read_csv_rows(body: bytes) -> Sheet:
    """Return what CSV puts, whose first row names the columns. Cells are strings; blank lines are no rows.

    Raises Refusal ``invalid_request`` with the row at fault, ``no_data``, ``too_many_events``, ``body_too_large``.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid({"body": [f"The body is not text in UTF-8: see byte {error.start}."]}) from None
    # Line breaks in cells are their own.
    cells = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[bytes] = []
    try:
        header = _check_header(next(cells, []))
        rows.extend(_lines(header, cells))
    except csv.Error as error:
        raise invalid({f"line {cells.line_num}": [f"This is not valid CSV: {error}."]}) from None
    if not rows:
        raise _no_data()
    return Sheet(rows)


def _lines(header: Sequence[str], cells: Any) -> Iterator[bytes]:
    """Yield the rows, ``cells`` being a reader of CSV behind its header."""
    size = count = 0
    for row in filter(None, cells):
        if len(row) != len(header):
            raise invalid({f"data[{count}]": [f"{RejectCode.RAGGED_ROW.sentence} (Line {cells.line_num}.)"]})
        line = msgspec.json.encode(dict(zip(header, row, strict=True)))
        count, size = count + 1, size + len(line)
        if count > MOST_ROWS:
            raise _too_many()
        if size > _MOST_BYTES:
            text = "With the names of its columns in each row, this is more than a request may put. Send it in parts."
            raise Refusal("body_too_large", text)
        yield line


def _check_header(header: Sequence[str]) -> Sequence[str]:
    if not header:
        raise _no_data()
    if len(header) > MOST_COLUMNS:
        raise invalid({"columns": [f"The header names more than {MOST_COLUMNS:,} columns."]})
    # One may have no name: data frames are written with their index first, which has none.
    seen: set[str] = set()
    for at, name in enumerate(header, 1):
        if name in seen:
            raise invalid({"columns": [f"Column {at} of the header has the name of another, {name[:_SHOWN]!r}."]})
        seen.add(name)
    return header


def _no_data() -> Refusal:
    return Refusal("no_data", "The request has no rows of data.")


def _too_many() -> Refusal:
    return Refusal("too_many_events", f"A request puts up to {MOST_ROWS:,} rows. Send these in several.")
