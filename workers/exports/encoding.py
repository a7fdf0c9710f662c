"""Rows of the store into lines of the export. Pure.

What comes in are whole rows as ``common.ledger.exports.copy_events`` gives them; what goes out are whole lines.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any, NamedTuple, Protocol

import msgspec

from common.completing import Completer
from common.errors import Terminal
from common.model.exports import MOST_COLUMNS, ExportSpec
from common.model.formats import Format
from common.model.query import Query

_QUOTE, _PARTED = b"\x01", b"\x02"
_NEWLINE = b"\n"


class Encoded(NamedTuple):
    """Lines that are ready to go."""

    data: bytes
    #: How many events they are.
    events: int


class Encoder(Protocol):
    """Makes lines of rows."""

    def head(self) -> bytes:
        """Return what every object begins with."""

    def encode(self, rows: bytes) -> Encoded:
        """Return the lines of whole rows, in their order."""


#: Names from the top of an event down to a member.
Path = tuple[str, ...]


def encoder_of(spec: ExportSpec, columns: Sequence[Path] = ()) -> Encoder:
    """Return the encoder of a request; ``columns`` are those of its CSV."""
    lines = Completed(spec) if spec.fill else Plain(spec.query)
    return Table(lines, columns) if spec.format is Format.CSV else lines


class Plain:
    """Events as they went in, a line each."""

    def __init__(self, query: Query) -> None:
        """Take the query: of odd events only Python can tell whether it means them."""
        self._query = query

    def head(self) -> bytes:
        """Return nothing: lines have no header."""
        return b""

    def encode(self, rows: bytes) -> Encoded:
        """Return the payloads. Bytes are looked at by C alone, but for those of odd events."""
        if _QUOTE in rows:
            rows = rows.replace(_QUOTE, b"")
        if self._query.conditions:
            rows = rows.replace(_PARTED + _NEWLINE, _NEWLINE)
            if _PARTED in rows:
                rows = b"".join(self._judge(rows))
        return Encoded(rows, rows.count(_NEWLINE))

    def _judge(self, rows: bytes) -> Iterable[bytes]:
        for row in rows.split(_NEWLINE)[:-1]:
            payload, parted, _ = row.partition(_PARTED)
            if not parted or self._query.matches(payload):
                yield payload + _NEWLINE


class Completed:
    """Events with an id and a time each, a line each."""

    def __init__(self, spec: ExportSpec) -> None:
        """Take the request."""
        self._query, self._completer = spec.query, Completer(spec.fill)

    def head(self) -> bytes:
        """Return nothing: lines have no header."""
        return b""

    def encode(self, rows: bytes) -> Encoded:
        """Return the payloads with what they lacked."""
        cells = [row.split(_PARTED) for row in rows.replace(_QUOTE, b"").split(_NEWLINE)[:-1]]
        if self._query.conditions:
            cells = [cell for cell in cells if not cell[1] or self._query.matches(cell[0])]
        if not cells:
            return Encoded(b"", 0)
        payloads, *_, ids, times = zip(*cells, strict=True)
        lines = self._completer.complete(payloads, map(bytes.decode, ids), map(bytes.decode, times))
        return Encoded(b"\n".join(lines) + _NEWLINE, len(lines))


class Table:
    """Events as records of CSV, under a header of their columns."""

    def __init__(self, lines: Plain | Completed, columns: Sequence[Path]) -> None:
        """Take what makes lines of rows, and the columns."""
        self._lines, self._columns = lines, columns

    def head(self) -> bytes:
        """Return the header."""
        return _record([[".".join(path) for path in self._columns]])

    def encode(self, rows: bytes) -> Encoded:
        """Return the records. Some 3 us an event of ten columns."""
        lines, events = self._lines.encode(rows)
        decoded = _MEMBERS.decode_lines(lines)
        return Encoded(_record([[_cell(one, path) for path in self._columns] for one in decoded]), events)


class Columns:
    """Finds the columns of events: the names of all members at the top of any of them."""

    def __init__(self, spec: ExportSpec) -> None:
        """Take the request."""
        self._lines = Completed(spec) if spec.fill else Plain(spec.query)
        self._found: set[str] = set()

    def look(self, rows: bytes) -> None:
        """Look at whole rows. Raises Terminal ``too_many_columns``."""
        for event in _MEMBERS.decode_lines(self._lines.encode(rows).data):
            self._found.update(event)
        if len(self._found) > MOST_COLUMNS:
            text = (
                f"The events have more than {MOST_COLUMNS} different members, each of which would be a column. "
                "Name the columns that you want, or export NDJSON."
            )
            raise Terminal("too_many_columns", text)

    def paths(self) -> list[Path]:
        """Return those found, in the order of their code points. A dot in such a name is a letter like any other."""
        return [(name,) for name in sorted(self._found)]


_Members = dict[str, msgspec.Raw]
_MEMBERS = msgspec.json.Decoder(_Members)
_STRING = msgspec.json.Decoder(str)
_OBJECT = msgspec.json.Decoder(_Members)
_ABSENT = b"null"


def _cell(event: dict[str, Any], path: Path) -> str:
    """Return a member's cell: a string's text, nothing for null and for what is not there, JSON of all others."""
    members, value = event, _ABSENT
    for depth, name in enumerate(path, 1):
        value = bytes(members.get(name, _ABSENT)).strip()
        if depth < len(path):
            if not value.startswith(b"{"):
                return ""
            members = _OBJECT.decode(value)
    if value.startswith(b'"'):
        return _STRING.decode(value)
    return "" if value == _ABSENT else value.decode()


def _record(rows: Iterable[Sequence[str]]) -> bytes:
    text = StringIO(newline="")
    # Python 3.11 quotes the characters of its line end alone, and a carriage return left bare ends a record for those
    # who read it: it writes both, and ends with one of them.
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
