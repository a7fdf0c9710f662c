"""Odd files, and what has to become of each: whatever people put into a bucket and call an import.

Nothing here knows the product's readers. What a file comes to is said when it is made, by who makes it; of damaged
ones the standard library's decompressors say how much can be read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import random
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from backports import zstd

MIB = 1024 * 1024
BOM = b"\xef\xbb\xbf"
#: Levels of nesting that no reader may answer with a stack overflow.
DEEP = 100_000

#: The rejects of a file: index and code.
Rejects = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Odd:
    """A file, and what has to come of its import with format and compression left to be found out."""

    name: str
    #: The end of its key.
    ending: str
    #: Its bytes, made anew at each call, in pieces.
    pieces: Callable[[], Iterable[bytes]]
    imported: int = 0
    duplicates: int = 0
    blank: int = 0
    #: None where damage decides which lines are left to be read.
    rejects: Rejects | None = ()
    #: Why the import fails, if it does.
    error: str | None = None
    #: The least and the most that may be imported, where a library decides how much before some damage can be read.
    between: tuple[int, int] | None = None
    #: What is found; None where the file is too little or too odd to say.
    format: str | None = "ndjson"
    compression: str | None = "none"
    #: The stored events as JSON values, in order, where they are few.
    stored: Sequence[Any] | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        return f"corpus/{self.name.replace(' ', '-')}{self.ending}"

    @property
    def status(self) -> str:
        """The state in which its import ends."""
        if self.error:
            return "failed"
        return "completed_with_errors" if self.rejects else "completed"

    @property
    def counts(self) -> dict[str, int]:
        """The receipt, but for what was imported and the sum of all."""
        rejected = len(self.rejects or ())
        return {"replaced": 0, "duplicates": self.duplicates, "rejected": rejected, "blank": self.blank}


def corpus(*, line_bytes: int) -> list[Odd]:
    """Return all of them. ``line_bytes``: how long the longest line of all is."""
    makers = (_hardly_any, _other_kinds, _encodings, _damaged_gzip, _other_compressions, _csv, _arrays, _deep)
    made = [odd for maker in makers for odd in maker()] + list(_large(line_bytes))
    assert len({odd.name for odd in made}) == len(made)
    return made


def odd(name: str, ending: str, content: bytes, **expected: Any) -> Odd:
    """Return a file whose bytes are at hand."""
    return Odd(name, ending, lambda: (content,), **expected)


# --- what they are made of


def events(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Return usual events with ids of their own. Their notes do not compress well: damage comes after some bytes."""
    drawn = random.Random(first)
    return [
        {"id": f"id-{number}", "timestamp": "2024-05-01T00:00:00Z", "note": drawn.randbytes(60).hex()}
        for number in range(first, first + count)
    ]


def ndjson(found: Iterable[Any], end: bytes = b"\n") -> bytes:
    """Return a line each, the last with its line end too."""
    return b"".join(json.dumps(event).encode() + end for event in found)


def rows(count: int, end: str = "\n") -> str:
    """Return rows of CSV with the columns of ``HEADER``."""
    return "".join(f"id-{number},2024-05-01T00:00:00Z,n{number}{end}" for number in range(count))


HEADER = "id,timestamp,note\n"


def row_events(count: int) -> list[dict[str, Any]]:
    """Return what ``rows`` become."""
    return [{"id": f"id-{n}", "timestamp": "2024-05-01T00:00:00Z", "note": f"n{n}"} for n in range(count)]


EVENTS = events(500)
LINES = ndjson(EVENTS)
FEW = events(3)


# --- hardly any


def _hardly_any() -> Iterator[Odd]:
    yield odd("no byte", ".ndjson", b"", format=None)
    yield odd("no byte of csv", ".csv", b"", format=None)
    yield odd("no byte once decompressed", ".ndjson.gz", gzip.compress(b""), format=None, compression="gzip")
    yield odd("one newline", ".ndjson", b"\n", blank=1, format=None)
    yield odd("blank lines", ".ndjson", b"\n \r\n\t\n", blank=3, format=None)
    yield odd("only a byte order mark", ".ndjson", BOM, blank=1, format=None)
    yield odd("only a header", ".csv", HEADER.encode(), format="csv")
    yield odd("only a header without its line end", ".csv", HEADER.strip().encode(), format="csv")
    yield odd("one event without its line end", ".ndjson", ndjson(FEW[:1]).strip(), imported=1, stored=FEW[:1])
    yield odd("empty array", ".json", b"[]", format="json")
    yield odd("empty array with space", ".json", b" \r\n[\n\t]\n\n", format="json")


# --- what it says is not what it is


def _other_kinds() -> Iterator[Odd]:
    wrong = {"error": "wrong_shape", "format": None, "compression": None}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        into.writestr("events.ndjson", LINES)
    yield odd("zip", ".zip", archive.getvalue(), **wrong)
    yield odd("zip called ndjson", ".ndjson", archive.getvalue(), **wrong)
    yield odd("parquet", ".parquet", b"PAR1" + random.Random(1).randbytes(20_000) + b"PAR1", **wrong)
    yield odd("xml", ".xml", b'<?xml version="1.0"?>\n<events>\n<event id="1"/>\n</events>\n' * 20, **wrong)
    yield odd("random bytes", ".ndjson", random.Random(2).randbytes(100_000), **wrong)
    yield odd("zeros", ".ndjson", bytes(100_000), **wrong)
    yield odd("ndjson called csv", ".csv", LINES, imported=500)
    yield odd("plain called gz", ".ndjson.gz", LINES, imported=500)
    yield odd("gzip called ndjson", ".ndjson", gzip.compress(LINES), imported=500, compression="gzip")
    yield odd("csv called json", ".json", (HEADER + rows(20)).encode(), imported=20, format="csv")
    yield odd("array called ndjson", ".ndjson", json.dumps(EVENTS).encode(), imported=500, format="json")


def _encodings() -> Iterator[Odd]:
    wrong = {"error": "wrong_shape", "format": None, "compression": None}
    text = LINES.decode()
    for name in ("utf-16-le", "utf-16-be"):
        mark = "\ufeff".encode(name)
        yield odd(f"{name} with its mark", ".ndjson", mark + text.encode(name), **wrong)
        yield odd(f"{name} without its mark", ".ndjson", text.encode(name), **wrong)
    yield odd("utf-16 csv", ".csv", (HEADER + rows(50)).encode("utf-16"), **wrong)
    yield odd("byte order mark", ".ndjson", BOM + ndjson(FEW), imported=3)
    yield odd("crlf", ".ndjson", ndjson(FEW, b"\r\n") + b"\r\n", imported=3, blank=1, stored=FEW)
    yield odd("nul in lines", ".ndjson", ndjson(FEW) + b'{"id": "a\0b"}\n', imported=3, rejects=((3, "invalid_json"),))
    latin = '{"id": "caf\u00e9"}\n'.encode("latin-1")
    yield odd("a line of latin-1", ".ndjson", ndjson(FEW) + latin, imported=3, rejects=((3, "invalid_utf8"),))


# --- compressed


def _damaged_gzip() -> Iterator[Odd]:
    plain = {"compression": "gzip"}
    two = gzip.compress(LINES[:30_001]) + gzip.compress(LINES[30_001:])
    yield odd("two members", ".ndjson.gz", two, imported=500, **plain)
    tenths = b"".join(gzip.compress(LINES[at : at + 1_000]) for at in range(0, len(LINES), 1_000))
    yield odd("many members", ".ndjson.gz", tenths, imported=500, **plain)
    unread = {"format": None, "compression": None}
    yield odd("twice compressed", ".ndjson.gz", gzip.compress(gzip.compress(LINES)), error="wrong_shape", **unread)
    whole = gzip.compress(LINES, mtime=0)
    cut = whole[: len(whole) * 2 // 3]
    readable = zlib.decompressobj(31).decompress(cut).count(b"\n")
    assert 100 < readable < 400
    yield odd("truncated", ".ndjson.gz", cut, error="truncated_compression", imported=readable, **plain)
    yield odd("without its last byte", ".ndjson.gz", whole[:-1], error="truncated_compression", imported=500, **plain)
    junk = whole + b"this is no gzip" * 10
    yield odd("trailing junk", ".ndjson.gz", junk, error="trailing_junk", imported=500, **plain)
    yield odd("zero padding", ".ndjson.gz", whole + bytes(10_240), imported=500, **plain)
    broken = bytearray(whole)
    broken[-8] ^= 0xFF
    # What a checksum was to vouch for may be anything: none of it is loaded.
    yield odd("wrong checksum", ".ndjson.gz", bytes(broken), error="corrupt_compression", **plain)
    torn = whole[: len(whole) // 2] + b"\xff" * 64 + whole[len(whole) // 2 + 64 :]
    yield odd("torn in the middle", ".ndjson.gz", torn, error="corrupt_compression", **plain)
    yield odd("only a magic number", ".ndjson.gz", b"\x1f\x8b", error="truncated_compression", **unread)
    yield odd(
        "gzip of csv", ".csv.gz", gzip.compress((HEADER + rows(300)).encode()), imported=300, format="csv", **plain
    )
    yield odd(
        "gzip of an array", ".json.gz", gzip.compress(json.dumps(EVENTS).encode()), imported=500, format="json", **plain
    )
    last = gzip.compress(ndjson(FEW).strip())
    yield odd("gzip without the last line end", ".ndjson.gz", last, imported=3, stored=FEW, **plain)


def _other_compressions() -> Iterator[Odd]:
    frames = zstd.compress(LINES[:40_000]) + zstd.compress(LINES[40_000:])
    yield odd("zstd", ".ndjson.zst", zstd.compress(LINES), imported=500, compression="zstd")
    yield odd("two frames of zstd", ".ndjson.zst", frames, imported=500, compression="zstd")
    lost = {"error": "truncated_compression", "between": (0, 499)}
    yield odd("truncated zstd", ".ndjson.zst", frames[:-1_000], compression="zstd", **lost)
    yield odd("bzip2", ".ndjson.bz2", bz2.compress(LINES), imported=500, compression="bzip2")
    streams = bz2.compress(LINES[:40_000]) + bz2.compress(LINES[40_000:])
    yield odd("two streams of bzip2", ".ndjson.bz2", streams, imported=500, compression="bzip2")
    yield odd("truncated bzip2", ".ndjson.bz2", streams[:-1_000], compression="bzip2", **lost)
    flipped = bytearray(streams)
    flipped[-1_000] ^= 0xFF
    yield odd("bzip2 with a wrong bit", ".ndjson.bz2", bytes(flipped), error="corrupt_compression", compression="bzip2")
    array = zstd.compress(json.dumps(EVENTS).encode())
    yield odd("zstd of an array", ".json.zst", array, imported=500, format="json", compression="zstd")
    table = bz2.compress((HEADER + rows(300)).encode())
    yield odd("bzip2 of csv", ".csv.bz2", table, imported=300, format="csv", compression="bzip2")
    bomb = {"error": "suspicious_ratio", "format": "ndjson"}
    yield Odd("gzip bomb", ".ndjson.gz", _gzip_bomb, compression="gzip", **bomb)
    yield Odd(
        "zstd bomb",
        ".ndjson.zst",
        lambda: (zstd.compress(ndjson(FEW) + b" " * (128 * MIB)),),
        compression="zstd",
        **bomb,
    )


@cache
def _gzip_bomb() -> tuple[bytes]:
    """Take 1.5 s to make, and are made for each size of chunk."""
    return (gzip.compress(ndjson(FEW) + b" " * (128 * MIB)),)


# --- CSV


def _csv() -> Iterator[Odd]:
    def table(name: str, text: str | bytes, **expected: Any) -> Odd:
        content = text if isinstance(text, bytes) else text.encode()
        return odd(name, ".csv", content, **{"format": "csv", **expected})

    yield table("csv", HEADER + rows(300), imported=300)
    with_mark = BOM + (HEADER + rows(3)).replace("\n", "\r\n").encode()
    yield table("csv with mark and crlf", with_mark, imported=3, stored=row_events(3))
    yield table("csv without the last line end", (HEADER + rows(3)).strip(), imported=3, stored=row_events(3))
    nested = 'id,Type,Location.Country,Location.City\nu1,view,DE,"Köln, ""Mitte"""\n'
    place = {"Country": "DE", "City": 'Köln, "Mitte"'}
    yield table("dotted header", nested, imported=1, stored=[{"id": "u1", "Type": "view", "Location": place}])
    repeated = "id,tag,tag,tag\nu1,a,b,c\nu2,d,,f\n"
    lists = [{"id": "u1", "tag": ["a", "b", "c"]}, {"id": "u2", "tag": ["d", "", "f"]}]
    yield table("repeated header", repeated, imported=2, stored=lists)
    yield table("empty header name", "id,,note\nu1,2,3\n", error="invalid_header", format=None, compression=None)
    yield table(
        "value and parent of others", "id,a,a.b\nu1,2,3\n", error="invalid_header", format=None, compression=None
    )
    # Lines of text:    0        1   2    3    4       5        6
    broken = 'id,note\nu1,"two\nlines"\nu2,x\nu3,a,b\nu4,"x""y"\nu5\n'
    kept = [{"id": "u1", "note": "two\nlines"}, {"id": "u2", "note": "x"}, {"id": "u4", "note": 'x"y'}]
    ragged = ((4, "ragged_row"), (6, "ragged_row"))
    yield table("quoted line breaks and ragged rows", broken, imported=3, rejects=ragged, stored=kept)
    blank = "id,note\nu1,a\n\nu2,b\n"
    yield table("blank line in csv", blank, imported=2, blank=1)
    quotes = 'id,note\nu1,a\nu2,5" pipe\nu3,"b"c\nu4,d\n'
    invalid = ((2, "invalid_csv"), (3, "invalid_csv"))
    yield table("quotes where none may be", quotes, imported=2, rejects=invalid)
    open_quote = HEADER + rows(3) + 'u9,"never closed\n' + rows(5)
    yield table("a quote that never closes", open_quote, imported=3, rejects=((4, "invalid_csv"),))
    bad_time = HEADER + rows(2) + "u9,yesterday,x\n"
    yield table("a time that is none", bad_time, imported=2, rejects=((3, "invalid_time"),))
    names = [f"column {number}" for number in range(10_000)]
    wide = ",".join(["id", *names]) + "\n"
    wide += "".join(",".join([f"u{row}", *(str(row + at) for at in range(10_000))]) + "\n" for row in range(20))
    yield table("10,000 columns", wide, imported=20)


# --- JSON arrays


def _arrays() -> Iterator[Odd]:
    def array(name: str, text: str | bytes, **expected: Any) -> Odd:
        content = text if isinstance(text, bytes) else text.encode()
        return odd(name, ".json", content, **{"format": "json", **expected})

    whole = json.dumps(EVENTS)
    yield array("array", whole, imported=500)
    yield array("printed array", json.dumps(EVENTS, indent=4), imported=500)
    yield array("printed array of few", json.dumps(FEW, indent=1).replace("\n", "\r\n"), imported=3, stored=FEW)
    columns = {"id": {"dataType": "string"}, "note": {"role": "[feature]"}}
    yield array("wrapped array", json.dumps({"columns": columns, "data": EVENTS}), imported=500)
    yield array(
        "wrapped array, data first", json.dumps({"data": FEW, "columns": columns}, indent=1), imported=3, stored=FEW
    )
    yield array("array with mark", BOM + json.dumps(FEW).encode(), imported=3, stored=FEW)
    at = len(whole) * 3 // 5
    before = whole[:at].count("}")
    yield array("truncated array", whole[:at], error="truncated_array", imported=before)
    yield array("array without its end", json.dumps(FEW)[:-1], error="truncated_array", imported=3, stored=FEW)
    yield array("trailing comma", json.dumps(FEW)[:-1] + ",]", error="broken_array", imported=3, stored=FEW)
    yield array("no comma", json.dumps(FEW).replace("}, {", "} {", 1), error="broken_array", imported=1)
    yield array("something behind the array", json.dumps(FEW, indent=1) + "\n{}", error="broken_array", imported=3)
    elements = f'[{json.dumps(FEW[0])}, {{"a": tru}}, 5, {json.dumps(FEW[1])}, "x", null, []]'
    bad = [(1, "invalid_json"), *((index, "not_an_object") for index in (2, 4, 5, 6))]
    yield array("bad elements", elements, imported=2, rejects=bad, stored=FEW[:2])
    brackets = [{"id": "u1", "note": '}], "\\"[{'}, {"id": "u2", "note": "\u2028\u00e9\n"}]
    yield array("brackets and quotes in strings", json.dumps(brackets), imported=2, stored=brackets)
    again = [*FEW, FEW[0]]
    yield array("an id twice", json.dumps(again), imported=3, duplicates=1, stored=FEW)


def _deep() -> Iterator[Odd]:
    nested = b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}"
    yield odd("deeply nested line", ".ndjson", ndjson(FEW) + nested + b"\n", imported=3, rejects=((3, "too_deep"),))
    opened = b'{"a":' + b"[" * DEEP
    yield odd(
        "deeply nested line that is never closed", ".ndjson", ndjson(FEW) + opened + b"\n" + ndjson(events(2, 9)),
        imported=5, rejects=((3, "too_deep"),),
    )  # fmt: skip
    within = json.dumps(FEW)[:-1].encode() + b"," + nested + b"]"
    yield odd("deeply nested element", ".json", within, imported=3, rejects=((3, "too_deep"),), format="json")
    yield odd("only opening brackets", ".json", b"[" * DEEP, error="truncated_array", format="json")
    members = b'{"a":' * DEEP + b"1" + b"}" * DEEP
    yield odd("objects in objects", ".ndjson", ndjson(FEW) + members, imported=3, rejects=((3, "too_deep"),))


# --- large


def _large(line_bytes: int) -> Iterator[Odd]:
    def line(before: bytes, after: bytes) -> Iterator[bytes]:
        yield before + b'{"id": "long", "note": "'
        yield from itertools.repeat(b"x" * MIB, line_bytes // MIB)
        yield b'"}' + after

    before = ndjson(FEW)
    too_long = ((3, "line_too_long"),)
    yield Odd("one line", ".ndjson", lambda: line(b"", b""), rejects=((0, "line_too_long"),))
    yield Odd(
        "one long line among others", ".ndjson", lambda: line(before, b"\n" + ndjson(events(3, 9))), 6, rejects=too_long
    )
    end = b", " + json.dumps(events(3, 9)).encode()[1:]
    array = json.dumps(FEW).encode()[:-1] + b", "
    yield Odd("one long element among others", ".json", lambda: line(array, end), 6, rejects=too_long, format="json")
    yield Odd(
        "no line end at all", ".csv", lambda: line(HEADER.encode(), b""), rejects=((1, "line_too_long"),), format="csv"
    )
