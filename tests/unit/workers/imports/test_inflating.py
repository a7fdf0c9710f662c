"""Decompressing: what comes out depends on the bytes alone, and a broken object gives all that stands before."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import random
import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator

import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import SourceFailed
from common.model.formats import Compression
from workers.imports.inflating import PIECE, RATIO_FROM, Inflater, Inflation, Limits, first_bytes

MIB = 1024 * 1024
LIMITS = Limits(decoded=1 << 40, ratio=1000)
GZIP, ZSTD, BZIP2 = Compression.GZIP, Compression.ZSTD, Compression.BZIP2


def zstd_checked(text: bytes) -> bytes:
    return zstd.compress(text, options={zstd.CompressionParameter.checksum_flag: 1})


COMPRESS: dict[Compression, Callable[[bytes], bytes]] = {GZIP: gzip.compress, ZSTD: zstd_checked, BZIP2: bz2.compress}
SKIPPED = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc"

kinds = st.sampled_from(list(COMPRESS))
texts = st.binary(max_size=300) | st.builds(
    lambda line, times: line * times, st.binary(max_size=60), st.integers(0, 3000)
)
sizes = st.lists(st.integers(1, 70_000), min_size=1, max_size=4)


def cut(raw: bytes, lengths: list[int]) -> Iterator[bytes]:
    at = 0
    for length in itertools.cycle(lengths):
        if at >= len(raw):
            return
        yield raw[at : at + length]
        at += length


def inflate(raw: bytes, kind: Compression, lengths: list[int], limits: Limits = LIMITS) -> tuple[bytes, str | None]:
    """Return what comes out, and the code it ends with."""
    inflation = Inflation(cut(raw, lengths), kind, limits)
    text = bytearray()
    try:
        for piece in inflation:
            assert 0 < len(piece) <= PIECE
            text += piece
            assert inflation.consumed <= len(raw)
    except SourceFailed as error:
        return bytes(text), error.code
    assert inflation.consumed == len(raw)
    return bytes(text), None


def length_of(pieces: Iterable[bytes]) -> tuple[int, str | None]:
    """Return how many bytes come out, and the code they end with; keeps none of them."""
    length = 0
    try:
        for piece in pieces:
            length += len(piece)
    except SourceFailed as error:
        return length, error.code
    return length, None


def plain_gunzip(raw: bytes) -> tuple[bytes, bool]:
    """Say the plain way what one gzip member holds, up to where it breaks, and whether it does: byte by byte."""
    decoder, text = zlib.decompressobj(31), b""
    for byte in raw:
        try:
            text += decoder.decompress(bytes((byte,)))
        except zlib.error:
            return text, True
    return text, not decoder.eof


@given(kinds, st.lists(texts, min_size=1, max_size=4), sizes)
def test_members_are_read_one_after_the_other_whatever_the_pieces(
    kind: Compression, members: list[bytes], lengths: list[int]
) -> None:
    raw = b"".join(map(COMPRESS[kind], members))

    assert inflate(raw, kind, lengths) == (b"".join(members), None)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_text_of_many_pieces_comes_out_whole(kind: Compression) -> None:
    text = b"".join(b'{"id": %d}\n' % number for number in range(200_000))

    assert inflate(COMPRESS[kind](text), kind, [PIECE]) == (text, None)


@given(st.lists(st.tuples(texts, st.integers(0, 600)), min_size=1, max_size=3), sizes)
def test_zeros_behind_a_gzip_member_are_padding(members: list[tuple[bytes, int]], lengths: list[int]) -> None:
    raw = b"".join(gzip.compress(text) + bytes(zeros) for text, zeros in members)

    assert inflate(raw, GZIP, lengths) == (gzip.decompress(raw), None)


def test_frames_of_zstandard_that_are_to_be_skipped_are_skipped() -> None:
    raw = SKIPPED + zstd.compress(b"one") + SKIPPED + zstd.compress(b"two") + SKIPPED

    assert inflate(raw, ZSTD, [1]) == (b"onetwo", None)


def test_a_gzip_header_may_hold_a_name_a_comment_and_more() -> None:
    member = gzip.compress(b"text")
    head = member[:3] + bytes([2 | 4 | 8 | 16]) + member[4:10] + struct.pack("<H", 60_000) + bytes(60_000)
    head += b"name" * 9000 + b"\0" + b"comment\0"
    raw = head + struct.pack("<H", zlib.crc32(head) & 0xFFFF) + member[10:]

    assert inflate(raw, GZIP, [1000]) == (b"text", None)


def test_an_object_without_members_has_no_text() -> None:
    for kind in COMPRESS:
        assert inflate(b"", kind, [1]) == (b"", None)


@given(kinds, st.lists(texts, min_size=1, max_size=3), st.data(), sizes)
@settings(deadline=None)
def test_an_object_that_breaks_off_gives_what_was_there(
    kind: Compression, members: list[bytes], data: st.DataObject, lengths: list[int]
) -> None:
    packed = list(map(COMPRESS[kind], members))
    raw = b"".join(packed)
    ends = list(itertools.accumulate(map(len, packed), initial=0))
    at = data.draw(st.integers(1, len(raw) - 1))

    text, code = inflate(raw[:at], kind, lengths)

    whole = sum(end <= at for end in ends) - 1
    assert b"".join(members).startswith(text)
    assert text.startswith(b"".join(members[:whole]))
    if at in ends:
        assert (text, code) == (b"".join(members[:whole]), None)
    else:
        # One byte, or three, of a next member cannot be told from junk.
        assert code == "truncated_compression" or (code == "trailing_junk" and at - ends[whole] < 4)
    if kind is GZIP and code == "truncated_compression":
        assert text == b"".join(members[:whole]) + plain_gunzip(raw[ends[whole] : at])[0]


@given(kinds, texts, st.data(), sizes, sizes)
@settings(deadline=None)
def test_damage_is_seen_and_what_comes_out_before_it_does_not_depend_on_the_pieces(
    kind: Compression, text: bytes, data: st.DataObject, lengths: list[int], others: list[int]
) -> None:
    first, raw = COMPRESS[kind](b"first"), bytearray(COMPRESS[kind](text))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))

    found, code = inflate(first + raw, kind, lengths)

    assert inflate(first + raw, kind, others) == (found, code)
    assert found.startswith(b"first")
    if code is None:
        assert found == b"first" + text, "only what does not bear on the text may be wrong unseen"
    if kind is GZIP and at > 3:
        good, broken = plain_gunzip(bytes(raw))
        assert found == b"first" + good
        assert (code is not None) == broken


@pytest.mark.parametrize("kind", [BZIP2, ZSTD])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_damage_in_bzip2_and_zstandard_costs_little_of_what_stands_before(kind: Compression, part: float) -> None:
    chance = random.Random(1)
    raw = bytearray(COMPRESS[kind](b"".join(b'{"id": %d}\n' % chance.getrandbits(20) for _ in range(200_000))))
    raw[int(part * len(raw))] ^= 1
    decoder, good = (bz2.BZ2Decompressor() if kind is BZIP2 else zstd.ZstdDecompressor()), bytearray()
    with contextlib.suppress(OSError, zstd.ZstdError):
        for piece in cut(bytes(raw), [100]):
            good += decoder.decompress(piece)

    found, code = inflate(bytes(raw), kind, [PIECE])

    assert code == "corrupt_compression"
    assert good.startswith(found[: len(good)])
    assert len(good) - len(found) <= 16 * 1024


@pytest.mark.parametrize("part", ["checksum", "size"])
def test_a_gzip_whose_checksum_or_size_is_wrong_gives_its_text_and_fails(part: str) -> None:
    raw = bytearray(gzip.compress(b"text"))
    raw[-8 if part == "checksum" else -4] ^= 1

    assert inflate(bytes(raw) + gzip.compress(b"more"), GZIP, [3]) == (b"text", "corrupt_compression")


@pytest.mark.parametrize("junk", [b"x", b"\x1f", b"\0\0x", b"GARBAGE" * 9999, b"\0" * 70_000 + b"{}"])
def test_junk_behind_gzip_fails_after_the_text(junk: bytes) -> None:
    for lengths in ([1], [PIECE]):
        assert inflate(gzip.compress(b"text") + junk, GZIP, lengths) == (b"text", "trailing_junk")


@pytest.mark.parametrize("kind", [BZIP2, ZSTD])
@pytest.mark.parametrize("junk", [b"\0", b"x" * 9, b"\0" * 100_000])
def test_junk_behind_bzip2_and_zstandard_fails_after_the_text(kind: Compression, junk: bytes) -> None:
    assert inflate(COMPRESS[kind](b"text") + junk, kind, [5]) == (b"text", "trailing_junk")


def test_what_is_none_of_it_fails_at_its_first_byte() -> None:
    for kind in COMPRESS:
        assert inflate(b"plain text", kind, [100]) == (b"", "corrupt_compression")
        assert inflate(b"\0\0\0" + COMPRESS[kind](b"text"), kind, [100]) == (b"", "corrupt_compression")


@pytest.mark.parametrize("quick", [False, True])
def test_a_dense_gzip_that_breaks_off_gives_all_that_was_there(quick: bool) -> None:
    raw = gzip.compress(bytes(2 * MIB))
    for at in range(700, len(raw), 200):
        inflater = Inflater(GZIP, LIMITS, checked_only=quick)
        decoded, _ = length_of(itertools.chain(inflater.feed(raw[:at]), inflater.finish()))

        assert decoded == len(plain_gunzip(raw[:at])[0])


def test_an_error_says_where_and_what_to_do() -> None:
    first = gzip.compress(b"text")
    damaged = bytearray(gzip.compress(b"more"))
    damaged[-8] ^= 1

    def words(raw: bytes) -> str:
        with pytest.raises(SourceFailed) as failed:
            list(Inflation([raw], GZIP, LIMITS))
        return failed.value.public

    assert words(first + b"junk") == (
        "The object's gzip data is followed by something else, from byte 24 of the object on, after 4 decompressed "
        "bytes. What was imported of them stays. Remove it, or upload the object once more and import it again."
    )
    assert f"near byte {len(first + damaged) - 5}, after 8 decompressed bytes." in words(first + bytes(damaged))
    assert "ends too early, at byte 10, and nothing could be read before that." in words(first[:10])


def windowed(log: int) -> bytes:
    """Return a Zstandard frame of one raw block, whose header asks for a window of ``2 ** log`` bytes."""
    return b"\x28\xb5\x2f\xfd\0" + bytes([(log - 10) << 3]) + b"\x21\0\0" + b"text"


def test_a_window_of_zstandard_is_bounded() -> None:
    assert inflate(windowed(26), ZSTD, [9]) == (b"text", None)
    assert inflate(windowed(27), ZSTD, [9]) == (b"", "unsupported_compression")
    with pytest.raises(SourceFailed, match=re.escape("a window of more than 64 MiB")):
        list(Inflation([windowed(31)], ZSTD, LIMITS))


def test_a_frame_of_zstandard_that_needs_a_dictionary_is_refused() -> None:
    raw = b"\x28\xb5\x2f\xfd\x01\x58\x07\x01\0\0"

    with pytest.raises(SourceFailed, match="needs a dictionary"):
        list(Inflation([raw], ZSTD, LIMITS))


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_bomb_ends_early_and_in_bounded_memory(kind: Compression) -> None:
    bomb = COMPRESS[kind](bytes(10 * MIB))
    began = time.monotonic()
    tracemalloc.start()
    try:
        decoded, code = length_of(Inflation(itertools.repeat(bomb, 1000), kind, LIMITS))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert code == "suspicious_ratio"
    assert RATIO_FROM - PIECE < decoded <= RATIO_FROM
    assert peak < 3 * MIB
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("quick", [False, True])
def test_the_text_is_given_up_to_its_limit(kind: Compression, quick: bool) -> None:
    raw = COMPRESS[kind](bytes(3 * MIB))
    inflater = Inflater(kind, Limits(decoded=MIB, ratio=1000), checked_only=quick)

    decoded, code = length_of(itertools.chain(inflater.feed(raw), inflater.finish()))

    assert code == "too_large_decompressed"
    assert MIB - PIECE < decoded <= MIB


@given(st.lists(texts, min_size=1, max_size=3), st.data(), sizes)
@settings(deadline=None)
def test_the_quick_way_never_takes_what_the_thorough_one_refuses(
    members: list[bytes], data: st.DataObject, lengths: list[int]
) -> None:
    sound = b"".join(map(gzip.compress, members))
    raw = bytearray(sound)
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    elif data.draw(st.booleans()):
        # The fourth byte holds flags: isal takes the reserved ones.
        raw[data.draw(st.integers(4, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    inflater = Inflater(GZIP, LIMITS, checked_only=True)
    text = b""
    try:
        for piece in cut(bytes(raw), lengths):
            text += b"".join(inflater.feed(piece))
        text += b"".join(inflater.finish())
    except SourceFailed:
        assert raw != sound
    else:
        assert inflate(bytes(raw), GZIP, [PIECE]) == (text, None)


@given(kinds, texts, st.data(), st.integers(0, 400))
def test_the_first_bytes_are_told_from_a_head_that_is_cut_anywhere(
    kind: Compression, text: bytes, data: st.DataObject, most: int
) -> None:
    raw = COMPRESS[kind](text)
    at = data.draw(st.integers(0, len(raw)))

    found, everything = first_bytes(raw[:at], kind, most, whole=at == len(raw))

    assert len(found) <= most
    assert text.startswith(found)
    if at == len(raw):
        assert found == text[:most]
    assert everything == (at == len(raw) and len(text) <= most)


def test_a_damaged_head_gives_what_it_has_or_fails() -> None:
    damaged = bytearray(gzip.compress(b"more"))
    damaged[10] = 7

    assert first_bytes(gzip.compress(b"text") + damaged, GZIP, 100, whole=True) == (b"text", False)
    assert first_bytes(gzip.compress(b"text")[:-9], GZIP, 100, whole=True)[1] is False
    with pytest.raises(SourceFailed) as failed:
        first_bytes(bytes(damaged), GZIP, 100, whole=False)
    assert failed.value.code == "corrupt_compression"
    with pytest.raises(SourceFailed) as failed:
        first_bytes(gzip.compress(b"text")[:10], GZIP, 100, whole=True)
    assert failed.value.code == "truncated_compression"


def test_a_head_that_is_a_bomb_is_decoded_no_further_than_asked_for() -> None:
    tracemalloc.start()
    try:
        assert first_bytes(gzip.compress(bytes(40 * MIB)), GZIP, 1000, whole=True) == (bytes(1000), False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 42 * MIB


@example(error=KeyboardInterrupt())
@given(st.sampled_from([RuntimeError(), SystemExit(3)]))
def test_what_pulling_a_piece_raises_comes_out_as_it_is(error: BaseException) -> None:
    def pieces() -> Iterator[bytes]:
        yield gzip.compress(b"text")
        raise error

    with pytest.raises(type(error)) as raised:
        list(Inflation(pieces(), GZIP, LIMITS))
    assert raised.value is error
