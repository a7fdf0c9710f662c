"""Decompress an object as a stream, in bounded memory, up to the place where it breaks.

gzip of many members, bzip2 of many streams and Zstandard of many frames (skippable ones too) are read through, as the
command lines of the three do; zeros behind a gzip member are padding, anything else behind the last one is junk.

What comes out is a function of the object's bytes alone, never of the pieces they arrive in: whoever reads a damaged
object again, after a death, finds the same lines. So the bytes are decoded in steps cut at fixed offsets. Of damaged
gzip every byte before the damage comes out; bzip2 and Zstandard lose at most ``_SMALL`` bytes before it, because
their libraries drop what the failing call had decoded.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from backports import zstd
from isal import isal_zlib

from common.errors import SourceFailed
from common.model.formats import Compression

#: Most bytes of a decoded piece.
PIECE = 256 * 1024
#: Raw bytes decoded at a stretch: how exactly ``consumed`` is known.
_STEP = 64 * 1024
#: Most bytes of one call of bzip2 or Zstandard.
_SMALL = 16 * 1024
#: Decoded bytes before which the ratio is not looked at: a small object may be one line many times over.
RATIO_FROM = 64 * 1024 * 1024
#: Windows of Zstandard are at most 64 MiB: what a decoder holds is the window, and with the 128 MiB of ``--long`` a
#: worker had 136 MB more. Levels up to 19 have 8 MiB.
_WINDOW_LOG = 26


class Limits(NamedTuple):
    """What an object may come to once decompressed."""

    #: Bytes.
    decoded: int
    #: Decoded bytes for each of the object's own, looked at after ``RATIO_FROM``.
    ratio: float


class Inflater:
    """Decodes an object that is handed to it from byte 0 on, in pieces of any size.

    Holds one step, one decoded piece and what the decompressor needs: 64 KB of gzip, 4 MB of bzip2, of Zstandard
    the frame's window, at most 64 MiB.
    """

    def __init__(
        self, compression: Compression, limits: Limits, *, checked_only: bool = False, is_imported: bool = True
    ) -> None:
        """Take what the object is compressed with, and for the texts of errors whether what comes out is imported.

        ``checked_only`` decodes gzip 2.6 times as quick, but gives up some bytes before damage, and calls a few valid
        headers damaged: for whoever asks whether it is sound, and reads it again if not.
        """
        kind = _KINDS[compression]
        self._kind = kind._replace(open=_QuickGzip) if checked_only and compression is Compression.GZIP else kind
        self._limits, self._is_imported = limits, is_imported and not checked_only
        self._stream: _Stream | None = None
        self._waiting = bytearray()
        #: The first bytes of what may be a member, too few to tell.
        self._head = b""
        self._members = 0
        #: Bytes of the object that all decoded bytes handed out so far were made of; the object's size at the end.
        self.consumed = 0
        #: Bytes of padding between two members, at the most, and since the last one.
        self.widest_gap = self._gap = 0
        #: Bytes handed out.
        self.decoded = 0

    def feed(self, raw: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the object complete. Has to be exhausted before the next call.

        Raises SourceFailed ``corrupt_compression``, ``trailing_junk``, ``unsupported_compression``,
        ``too_large_decompressed``, ``suspicious_ratio``, each once all good bytes before have been yielded.
        """
        self._waiting += raw
        while len(self._waiting) >= _STEP:
            step = bytes(self._waiting[:_STEP])
            del self._waiting[:_STEP]
            yield from self._decode(step)

    def finish(self) -> Iterator[bytes]:
        """Yield the rest, once the last byte was fed. Raises as ``feed`` does, and ``truncated_compression``."""
        step = bytes(self._waiting)
        self._waiting.clear()
        yield from self._decode(step)
        if self._head and self._members:
            raise self._junk(self.consumed - len(self._head))
        if self._stream is not None or self._head:
            raise self._failed("truncated_compression", f"ends too early, at byte {self.consumed:,}", _UPLOAD)

    def _decode(self, step: bytes) -> Iterator[bytes]:
        raw = step
        while raw:
            if self._stream is None:
                raw = self._begin(raw, self.consumed + len(step) - len(raw))
                if self._stream is None:
                    break
            try:
                for piece in self._stream.decode(raw):
                    self._count(piece, self.consumed + len(step))
                    yield piece
            except _DamageError as damage:
                at = self.consumed + len(step) - len(raw) + damage.at
                raise self._broken(at, damage.text) from damage.__cause__
            raw = self._stream.unused
            if self._stream.ended:
                self._stream = None
        self.consumed += len(step)

    def _begin(self, raw: bytes, at: int) -> bytes:
        """Begin a member if one begins here; return the bytes it is to be fed. Raises SourceFailed for junk."""
        at -= len(self._head)
        raw, self._head = self._head + raw, b""
        if self._members and self._kind.padded:
            padding = len(raw) - len(raw.lstrip(b"\0"))
            raw, at = raw[padding:], at + padding
            self._gap += padding
        if len(raw) < self._kind.shortest:
            self._head = raw
            return b""
        if not self._kind.begins(raw):
            raise self._junk(at) if self._members else self._broken(at, "")
        self._members += 1
        self.widest_gap, self._gap = max(self.widest_gap, self._gap), 0
        self._stream = self._kind.open()
        return raw

    def _count(self, piece: bytes, read: int) -> None:
        self.decoded += len(piece)
        if self.decoded > self._limits.decoded:
            self.decoded -= len(piece)
            what = f"holds more than {self._limits.decoded:,} bytes, which is the limit here"
            raise self._failed("too_large_decompressed", what, "Split the object")
        if self.decoded > max(RATIO_FROM, self._limits.ratio * read):
            self.decoded -= len(piece)
            what = f"grows to more than {self._limits.ratio:,.0f} times its size, which is the limit here"
            raise self._failed("suspicious_ratio", what, "Upload it less compressed or in another format")

    def _broken(self, at: int, text: str) -> SourceFailed:
        if "too much memory" in text:
            return self._failed("unsupported_compression", _HUGE_WINDOW, "Compress it without --long or --ultra")
        if "Dictionary" in text:
            return self._failed("unsupported_compression", _DICTIONARY, "Compress it without one")
        return self._failed("corrupt_compression", f"is damaged near byte {at:,}", _UPLOAD, text)

    def _junk(self, at: int) -> SourceFailed:
        what = f"is followed by something else, from byte {at:,} of the object on"
        return self._failed("trailing_junk", what, "Remove it, or upload the object once more")

    def _failed(self, code: str, what: str, remedy: str, internal: str = "") -> SourceFailed:
        rest = "What was imported of them stays" if self._is_imported else "Nothing of it was imported"
        where = f"after {self.decoded:,} decompressed bytes. {rest}"
        kept = where if self.decoded else "and nothing could be read before that"
        text = f"The object's {self._kind.name} data {what}, {kept}. {remedy} and import it again."
        return SourceFailed(code, text, f"{text} ({internal})" if internal else "")


class Inflation:
    """The decoded bytes of an object: iterate it, once."""

    def __init__(
        self, pieces: Iterable[bytes], compression: Compression, limits: Limits, *, is_imported: bool = True
    ) -> None:
        """Take the object's bytes from byte 0 on, in pieces of any size, and what they are compressed with."""
        self._pieces = pieces
        self._inflater = Inflater(compression, limits, is_imported=is_imported)

    def __iter__(self) -> Iterator[bytes]:
        """Yield decoded pieces of at most ``PIECE`` bytes. Raises what pulling a piece raises, and SourceFailed where
        the object breaks or is too large, after all good bytes before that.
        """
        for piece in self._pieces:
            yield from self._inflater.feed(piece)
        yield from self._inflater.finish()

    @property
    def consumed(self) -> int:
        """Bytes of the object behind what was yielded: never more than were pulled, and its size at the end."""
        return self._inflater.consumed


def first_bytes(head: bytes, compression: Compression, most: int, *, whole: bool) -> tuple[bytes, bool]:
    """Return the first decoded bytes, at most ``most``, and whether they are all there is.

    ``head`` is the object's beginning, cut anywhere; ``whole`` says that it is the object. Where it is damaged: what
    stands before. Raises SourceFailed if nothing does.
    """
    inflater = Inflater(compression, Limits(decoded=2**62, ratio=2**62))
    found = bytearray()
    try:
        for decode in (inflater.feed(head), inflater.finish()):
            for piece in decode:
                found += piece
                if len(found) > most:
                    return bytes(found[:most]), False
    except SourceFailed as error:
        if found or (error.code == "truncated_compression" and not whole):
            return bytes(found), False
        raise
    return bytes(found), whole


#: The stubs declare an instance.
_ISAL_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]


class _DamageError(Exception):
    """The stream breaks here."""

    def __init__(self, at: int, text: str) -> None:
        """Take the byte of what was fed, and the library's words for the log."""
        super().__init__(text)
        self.at, self.text = at, text


class _Stream(Protocol):
    """One member, stream or frame."""

    #: Whether its last byte was decoded, and what followed it in what was fed.
    ended: bool
    unused: bytes

    def decode(self, raw: bytes) -> Iterator[bytes]:
        """Yield all that ``raw`` gives; raises _DamageError."""


class _QuickGzip:
    """A gzip member by isal: 1.2 GB/s decoded, where zlib does 0.45. It cannot be copied."""

    def __init__(self) -> None:
        self.ended, self.unused = False, b""
        self._decoder = self._open()

    def _open(self) -> Any:
        return isal_zlib.decompressobj(zlib.MAX_WBITS | 16)

    def decode(self, raw: bytes) -> Iterator[bytes]:
        try:
            yield from self._outputs(raw)
        except _ISAL_ERROR as error:
            raise _DamageError(0, str(error)) from error

    def _outputs(self, raw: bytes) -> Iterator[bytes]:
        decoder, piece = self._decoder, b""
        # With all input taken in, a full piece may have more behind it.
        while (raw or len(piece) == PIECE) and not decoder.eof:
            piece = decoder.decompress(raw, PIECE)
            raw = decoder.unconsumed_tail
            if piece:
                yield piece
        self.ended, self.unused = decoder.eof, decoder.unused_data


class _Gzip(_QuickGzip):
    """A gzip member by zlib, up to the very byte that is wrong."""

    def _open(self) -> Any:
        return zlib.decompressobj(zlib.MAX_WBITS | 16)

    def decode(self, raw: bytes) -> Iterator[bytes]:
        before, given = self._decoder.copy(), 0
        try:
            for piece in self._outputs(raw):
                given += len(piece)
                yield piece
        except zlib.error:
            # The failing call dropped what it had decoded; once more, then, from before it and byte by byte.
            yield from self._again(before, raw, given)

    def _again(self, decoder: Any, raw: bytes, given: int) -> Iterator[bytes]:
        for at, byte in enumerate(raw):
            try:
                piece = decoder.decompress(bytes((byte,)))  # at most 1,032 bytes
            except zlib.error as error:
                raise _DamageError(at, str(error)) from error
            if len(piece) > given:
                yield piece[given:]
            given -= min(given, len(piece))


class _Blocks:
    """A stream of bzip2 or a frame of Zstandard."""

    def __init__(self, decoder: Any) -> None:
        self.ended, self.unused = False, b""
        self._decoder = decoder

    def decode(self, raw: bytes) -> Iterator[bytes]:
        found: list[bytes] = []
        held = 0
        try:
            while not self._decoder.eof:
                part = self._decoder.decompress(raw, _SMALL)
                raw = b""
                found.append(part)
                held += len(part)
                if held > PIECE - _SMALL:
                    yield b"".join(found)
                    found, held = [], 0
                if self._decoder.needs_input:
                    break
        except (OSError, ValueError, zstd.ZstdError) as error:
            yield from filter(None, [b"".join(found)])
            raise _DamageError(0, str(error)) from error
        yield from filter(None, [b"".join(found)])
        self.ended, self.unused = self._decoder.eof, self._decoder.unused_data


def _zstd_decoder() -> _Blocks:
    return _Blocks(zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}))


class _Kind(NamedTuple):
    """A compression."""

    name: str
    open: Callable[[], _Stream]
    #: How many bytes tell whether a member begins, and what tells it.
    shortest: int
    begins: Callable[[bytes], bool]
    #: Whether zeros may stand behind a member.
    padded: bool = False


_KINDS = {
    Compression.GZIP: _Kind("gzip", _Gzip, 2, lambda head: head.startswith(b"\x1f\x8b"), padded=True),
    Compression.BZIP2: _Kind(
        "bzip2",
        lambda: _Blocks(bz2.BZ2Decompressor()),
        4,
        lambda head: head.startswith(b"BZh") and head[3] in b"123456789",
    ),
    Compression.ZSTD: _Kind(
        "Zstandard",
        _zstd_decoder,
        4,
        # A frame, or one to be skipped.
        lambda head: head.startswith(b"\x28\xb5\x2f\xfd") or (head[0] >> 4 == 5 and head[1:4] == b"\x2a\x4d\x18"),
    ),
}

_UPLOAD = "Upload the object once more"
_HUGE_WINDOW = "has a window of more than 64 MiB"
_DICTIONARY = "needs a dictionary"
