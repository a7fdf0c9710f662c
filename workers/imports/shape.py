"""Is this a file of one JSON object a line? Told from its first bytes, before anything is loaded.

The seed: the entire batch is rejected if the format does not align. A single bad line is a reject; a file of another
kind is a failure with a reason, not a million rejects. Pure.
"""

from __future__ import annotations

import codecs

import msgspec

from common.errors import Terminal

#: Bytes of the object's beginning that are looked at.
SAMPLE_BYTES = 64 * 1024

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PAR1": "Parquet",
    b"Obj\x01": "Avro",
    b"ORC": "ORC",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"


def check_shape(sample: bytes) -> None:
    """Take the object's first bytes; raise Terminal ``wrong_shape`` where it is no NDJSON, saying what it is."""
    for magic, name in _MAGIC.items():
        if sample.startswith(magic):
            raise _wrong(f"it is {name}")
    text = sample.removeprefix(_BOM).lstrip(_BLANK)
    if _is_binary(text):
        raise _wrong("it is binary, or text in another encoding than UTF-8")
    if text.startswith(b"[") and _is_array(text):
        raise _wrong("it is a JSON array")


def _is_binary(text: bytes) -> bool:
    """Tell another kind of file from one of lines with a damaged one among them: here no line is an object."""
    if text.startswith((b"{\0", b"\0{")):
        return True  # UTF-16 without its mark
    if text.startswith(b"{") or not (b"\0" in text or _is_undecodable(text)):
        return False
    return not any(line.lstrip(_BLANK).startswith(b"{") and _is_json(line) for line in text.split(b"\n"))


def _is_undecodable(text: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)  # a character that the sample cuts in two is no error
    except UnicodeDecodeError:
        return True
    return False


def _is_array(text: bytes) -> bool:
    """Tell an array from a file of lines whose first happens to be one: only there it ends, and lines follow."""
    first, newline, rest = text.partition(b"\n")
    if not newline or not rest.strip(_BLANK):
        return True
    return not _is_json(first)


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _wrong(what: str) -> Terminal:
    return Terminal(
        "wrong_shape",
        f"The object is not newline-delimited JSON: {what}. One JSON object a line is expected, "
        "uncompressed, in UTF-8. Nothing was imported.",
    )
