"""Tell from an object's first bytes what it is: how it is compressed, and how lines are written in it.

Content decides first, the name second. A single bad line is a reject; a file of another kind than declared, or of a
kind that nobody reads here, is a failure with a reason, not a million rejects. Pure.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import msgspec

from common.errors import SourceFailed
from common.model.formats import Compression, Format, Layout

#: Bytes of the beginning that are looked at.
SAMPLE_BYTES = 64 * 1024

_NAMES = {Compression.GZIP: "gzip", Compression.ZSTD: "Zstandard", Compression.BZIP2: "bzip2"}
_MAGIC = {
    Compression.GZIP: re.compile(rb"\x1f\x8b"),
    # The second is a frame to be skipped: some writers begin with one.
    Compression.ZSTD: re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    # A block follows, or the end. The bytes after the first four tell it from text, where they are there.
    Compression.BZIP2: re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90|.{0,5}\Z)", re.DOTALL),
}

#: Kinds of file that are told by their first bytes, and read by nobody here.
_OTHERS = {
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "RAR",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\xff\x06\x00\x00sNaPpY": "Snappy",
    b"\x1f\x9d": "compress (.Z)",
    b"Obj\x01": "Avro",
    b"SQLite format 3\0": "SQLite",
    b"%PDF-": "PDF",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
#: Those whose first bytes could begin a text as well: ``ORCHARD,TREES`` is the header of a CSV.
_OTHERS_IF_BINARY = {b"PAR1": "Parquet", b"PARE": "Parquet", b"ORC": "ORC", b"ARROW1": "Arrow", b"FEA1": "Feather"}
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_MARKUP = re.compile(rb"<(?:[?!]|[A-Za-z][\w:.-]*(?:\s[^,]*)?/?>(?!\s*,))")
_YAML = re.compile(rb"(?:%YAML|---(?:\s|\Z))")
#: An array, or else the header of a CSV: ``[name],[age]``.
_ARRAY = re.compile(rb'\[\s*(?:[\]\[{"0-9-]|true\b|false\b|null\b|\Z)')
_TOKEN = re.compile(rb'("(?:[^"\\]++|\\.)*+(?:"|\\?\Z))\s*+(?::\s*+(\[\s*+.?|.?))?|[\[{]|[\]}]', re.DOTALL)
#: The header of a CSV may begin with a bracket too.
_OBJECT = re.compile(rb'\{\s*(?:["}]|\Z)')
#: An object whose first line ends where a member or an element has to follow.
_BROKEN_OFF = re.compile(rb'\{\s*\n\s*"|\{\s*"(?:[^"\\\n]|\\.)*"\s*:[^\n]*[,{\[]\s*\n')
#: What else separates cells. Read as they stand, each line would be one cell.
_OTHER_DELIMITERS = {b";": "semicolons", b"\t": "tabs", b"|": "bars"}
#: Of the rows so many have to have as many cells as the header.
_ALIKE = 2 / 3
#: Bytes of a name in a header: longer on the average, it is prose.
_LONG_CELL = 100
#: Damaged lines of NDJSON that may look like CSV by chance.
_FEW = 2
#: Lines that make a file of another kind where none of them begins as an object. A single one is an event gone wrong.
_SEVERAL = 2

_ENDINGS = {
    "ndjson": Format.NDJSON,
    "jsonl": Format.NDJSON,
    "ldjson": Format.NDJSON,
    "csv": Format.CSV,
    "json": Format.JSON,
}
_COMPRESSED_ENDINGS = {"gz", "gzip", "zst", "zstd", "bz2"}

_WANTED = {
    Format.NDJSON: ("newline-delimited JSON", "One JSON object a line is expected, in UTF-8."),
    Format.CSV: ("CSV", "A header line and comma-separated records are expected, in UTF-8."),
    Format.JSON: (
        "a JSON array of objects",
        "An array of objects, or an object whose `data` is one, is expected, in UTF-8.",
    ),
    None: (
        "newline-delimited JSON, CSV or a JSON array",
        "Lines of JSON objects, a header and comma-separated records, or an array of objects are expected, in UTF-8.",
    ),
}


def sniff_compression(head: bytes) -> Compression | None:
    """Return how the object that begins with ``head`` is compressed, None if in no way that is read here."""
    return next((compression for compression, magic in _MAGIC.items() if magic.match(head)), None)


def find_compression(head: bytes, *, declared: Compression | None) -> Compression:
    """Return how the object that begins with ``head`` is compressed.

    ``declared`` None stands for whatever is found. An empty object is compressed in no way, whatever was declared; an
    archive or a container in none that is known here, and ``find_layout`` says so. Raises SourceFailed
    ``wrong_shape`` where another compression is declared than found.
    """
    found = sniff_compression(head) or Compression.NONE
    if declared is None or found is declared or not head:
        return found
    kind = _NAMES.get(found) or _other_kind(head) or "not compressed"
    expected = _NAMES.get(declared, "uncompressed")
    raise SourceFailed("wrong_shape", f"The object was to be {expected}, but it is {kind}. Nothing of it was imported.")


def find_layout(sample: bytes, *, name: str, whole: bool, declared: Format | None, compression: Compression) -> Layout:
    """Return how lines are written in an object, ``header`` left empty.

    ``sample`` holds the first bytes of what is left once ``compression`` is taken off, up to ``SAMPLE_BYTES``;
    ``whole`` says whether that is all. ``name`` is the object's key. ``declared`` None stands for whatever is found.
    An object without anything but blanks is an empty one of the format that is declared, else of its name's, else
    NDJSON. Raises SourceFailed ``wrong_shape``, which says what it is, and what was expected.
    """
    if inner := sniff_compression(sample):
        twice = "" if compression is Compression.NONE else f" inside {_NAMES[compression]}: it is compressed twice"
        _refuse(declared, f"it is {_NAMES[inner]}{twice}")
    if other := _other_kind(sample):
        _refuse(declared, f"it is {other}")
    found: _Kind
    text = sample.removeprefix(_BOM).lstrip(_BLANK)
    named = _format_of_name(name)
    if text:
        found = _CHECKS[declared](_Text(text, whole, named))
        if isinstance(found, str):
            _refuse(declared, found)
        if declared and found.format is not declared:
            _refuse(declared, f"it is {_describe(found)}")
    elif whole or declared or named:
        found = Layout(declared or named or Format.NDJSON)
    else:
        _refuse(None, f"it begins with {len(sample):,} blanks, so that its format has to be declared")
    return Layout(found.format, compression, wrapped=found.wrapped)


def _format_of_name(name: str) -> Format | None:
    parts = name.rpartition("/")[2].lower().split(".")
    while len(parts) > 1 and parts[-1] in _COMPRESSED_ENDINGS:
        parts.pop()
    return _ENDINGS.get(parts[-1]) if len(parts) > 1 else None


def _other_kind(head: bytes) -> str | None:
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            return kind
    for magic, kind in _OTHERS_IF_BINARY.items():
        if head.startswith(magic) and not _is_clean(head):
            return kind
    return "a tar archive" if head.startswith(_TAR_MAGIC, _TAR_MAGIC_AT) else None


# --- what a text is -------------------------------------------------------------------------------------------


class _Text(NamedTuple):
    """A sample that begins with its first byte that counts."""

    text: bytes
    whole: bool
    #: What the object's name says.
    named: Format | None

    @property
    def first_line(self) -> bytes:
        return self.text.partition(b"\n")[0]

    @property
    def rest(self) -> bytes:
        """What follows the first line, blanks left out."""
        return self.text.partition(b"\n")[2].strip(_BLANK)

    def lines(self) -> list[bytes]:
        """Return the lines that are there as a whole, and not blank."""
        lines = self.text.split(b"\n")
        if not self.whole and len(lines) > 1:
            lines.pop()
        return [line for line in lines if line.strip(_BLANK)]

    def is_no_ndjson(self) -> bool:
        """Tell whether two lines or more are there, and not one, not even a last one cut off, begins as an object."""
        begun = any(line.lstrip(_BLANK).startswith(b"{") for line in self.text.split(b"\n"))
        return not begun and len(self.lines()) >= _SEVERAL

    def object_lines(self) -> int:
        return sum(line.lstrip(_BLANK).startswith(b"{") and _is_json(line) for line in self.lines())


#: How lines are written in it, or what else it is.
_Kind = Layout | str

_BINARY = "it is binary, or text in another encoding than UTF-8"
_MARKED_UP = "it looks like XML or HTML"
_PRINTED = "it looks like one JSON object over several lines"
_NO_OBJECTS = "it has no line that is a JSON object"
_NO_OBJECTS_YET = "none of its first lines is a JSON object"


def _find_any(found: _Text) -> _Kind:
    if kind := _find_json(found):
        return kind
    if _is_markup(found.text):
        return _MARKED_UP
    if kind := _find_csv(found, certain=found.named is Format.CSV):
        return kind
    if _is_binary(found.text):
        return _BINARY
    if found.text.startswith(b"{") or found.object_lines():
        return Layout(Format.NDJSON)
    return "it looks like YAML" if _YAML.match(found.text) else "it is text of another kind"


def _find_json(found: _Text) -> _Kind | None:
    """Return what kind of JSON a text surely is, None if it may be something else."""
    if _looks_like_array(found.text):
        return Layout(Format.JSON)
    if not _OBJECT.match(found.text):
        return Layout(Format.NDJSON) if _are_mostly_objects(found) else None
    if _is_document(found):
        return Layout(Format.JSON, wrapped=True)
    if not _are_mostly_objects(found) and _is_printed(found.text):
        return _PRINTED
    return Layout(Format.NDJSON)


def _looks_like_array(text: bytes) -> bool:
    return _ARRAY.match(text) is not None and _is_array(text)


def _are_mostly_objects(found: _Text) -> bool:
    return 2 * found.object_lines() >= max(len(found.lines()), 1)


def _is_document(found: _Text) -> bool:
    """Tell an object around an array from the first of many lines."""
    members, closed = _members(found.text)
    if _is_json(found.first_line):
        # One line, and nothing else: an event may look so too, unless nothing but these is in it.
        alone = found.whole and not found.rest and found.named is not Format.NDJSON
        return alone and members.keys() <= {"columns", "data"} and _is_array_of_objects(members.get("data"))
    if found.named is Format.NDJSON and not found.rest:
        return False
    if found.rest and not (found.whole and _is_json(found.text)) and _are_mostly_objects(found):
        return False
    return _is_array_of_objects(members.get("data")) or (not closed and members.keys() == {"columns"})


def _is_array_of_objects(beginning: bytes | None) -> bool:
    """Take how a value begins; a sample may end right behind its first bracket."""
    return beginning is not None and re.sub(rb"\s", b"", beginning) in {b"[", b"[{", b"[]"}


def _members(text: bytes) -> tuple[dict[str, bytes], bool]:
    """Return how the members of the object at the beginning begin, and whether it ends in the sample."""
    members: dict[str, bytes] = {}
    depth, at = 0, 0
    while token := _TOKEN.search(text, at):
        at = token.end()
        if token[1] is None:
            depth += 1 if token[0] in b"[{" else -1
            if depth == 0:
                return members, True
        elif token[2] is not None:
            if depth == 1:
                members.setdefault(_string(token[1]), token[2])
            at = token.start(2)
    return members, False


def _string(token: bytes) -> str:
    try:
        return msgspec.json.decode(token, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _find_csv(found: _Text, *, certain: bool) -> _Kind | None:
    """Return CSV where rows have about as many cells as the header; if it is ``certain``, any text will do."""
    header, *lines = found.lines() or [b""]
    if not _is_clean(header) or 2 * sum(map(_is_clean, lines)) < len(lines):
        return None
    for delimiter, name in _OTHER_DELIMITERS.items():
        count = header.count(delimiter)
        if count and b"," not in header and lines and all(line.count(delimiter) == count for line in lines):
            return f"it looks like CSV whose cells are separated by {name}"
    if certain:
        return Layout(Format.CSV)
    try:
        first, *others = [len(row) for row in csv.reader(line.decode(errors="replace") for line in (header, *lines))]
    except csv.Error:
        return None
    if others or found.whole:
        alike = bool(others) and others.count(first) >= _ALIKE * len(others)
    else:
        alike = first >= len(header) / _LONG_CELL  # a header that fills the sample
    return Layout(Format.CSV) if first > 1 and alike else None


# --- what was declared ------------------------------------------------------------------------------------------


def _check_ndjson(found: _Text) -> _Kind:
    if _is_binary(found.text):
        return _BINARY
    if found.text.startswith(b"[") and _is_array(found.text):
        return "it is a JSON array"
    if _is_printed(found.text) and (not found.object_lines() or (found.whole and _is_json(found.text))):
        return _PRINTED
    # Only where not one line would be an event it is asked what else it could be.
    if found.object_lines() or _OBJECT.match(found.text):
        return Layout(Format.NDJSON)
    return _other_than_ndjson(found) or Layout(Format.NDJSON)


def _other_than_ndjson(found: _Text) -> str | None:
    """Return what a text is of which no line is an event, None if it may be of events that were damaged."""
    if _is_markup(found.text):
        return _MARKED_UP
    if len(found.lines()) > _FEW and _find_csv(found, certain=False):
        return "it looks like CSV"
    if found.is_no_ndjson():
        return _NO_OBJECTS if found.whole else _NO_OBJECTS_YET
    return None


def _check_csv(found: _Text) -> _Kind:
    if kind := _find_json(found):
        return kind
    if _is_markup(found.text):
        return _MARKED_UP
    return _find_csv(found, certain=True) or _BINARY


def _check_json(found: _Text) -> _Kind:
    if b"\0" in found.text[:2]:
        return _BINARY
    if found.text.startswith(b"[") and _is_array(found.text):
        return Layout(Format.JSON)
    if _OBJECT.match(found.text):
        members, closed = _members(found.text)
        one = not found.rest or not _is_json(found.first_line)
        if one and (_is_array_of_objects(members.get("data")) or not closed):
            return Layout(Format.JSON, wrapped=True)
    return _find_any(found)


_CHECKS: dict[Format | None, Callable[[_Text], _Kind]] = {
    None: _find_any,
    Format.NDJSON: _check_ndjson,
    Format.CSV: _check_csv,
    Format.JSON: _check_json,
}


def _describe(layout: Layout) -> str:
    return "a JSON object around an array" if layout.wrapped else _WANTED[layout.format][0]


# --- what it is not ---------------------------------------------------------------------------------------------


def _is_binary(text: bytes) -> bool:
    """Tell another kind of file from one of lines with a damaged one among them: here no line is an object."""
    if _is_utf_16(text):
        return True
    if text.startswith(b"{") or _is_clean(text):
        return False
    return not any(line.lstrip(_BLANK).startswith(b"{") and _is_json(line) for line in text.split(b"\n"))


def _is_utf_16(text: bytes) -> bool:
    return text.startswith((b"{\0", b"\0{"))  # without its mark


def _is_clean(text: bytes) -> bool:
    """Tell whether this is UTF-8 and holds no NUL."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)  # a character that the sample cuts in two is no error
    except UnicodeDecodeError:
        return False
    return b"\0" not in text


def _is_array(text: bytes) -> bool:
    """Tell an array from a file of lines whose first happens to be one: only there it ends, and lines follow."""
    first, newline, rest = text.partition(b"\n")
    if not newline or not rest.strip(_BLANK):
        return True
    return not _is_json(first)


def _is_printed(text: bytes) -> bool:
    """Tell whether an object goes on behind its first line with a member."""
    return _BROKEN_OFF.match(text) is not None and not _members(text.partition(b"\n")[0])[1]


def _is_markup(text: bytes) -> bool:
    return _MARKUP.match(text) is not None


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _refuse(wanted: Format | None, what: str) -> NoReturn:
    kind, expected = _WANTED[wanted]
    raise SourceFailed("wrong_shape", f"The object is not {kind}: {what}. {expected} Nothing of it was imported.")
