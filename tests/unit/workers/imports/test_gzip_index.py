"""Seeking in gzip: a range read by the index is what stands there in the text, and only sound gzip has an index."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from common.errors import SourceFailed, Transient
from common.model.formats import Compression
from workers.imports import gzip_index
from workers.imports.gzip_index import GzipIndex, RangeFile, UnseekableError, scan
from workers.imports.inflating import PIECE, Inflation, Limits

KIB, MIB = 1024, 1024 * 1024
LIMITS = Limits(decoded=1 << 40, ratio=1000)
SPACING = 64 * KIB


@pytest.fixture(autouse=True, scope="module")
def _small_spacing() -> Iterator[None]:
    """Points every 64 KiB, sections of 32 KiB: what takes gigabytes otherwise fits into a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip_index, "SPACING", SPACING)
        patch.setattr(gzip_index, "_SECTION", 32 * KIB)
        patch.setattr(gzip_index, "_SLICE", 128 * KIB)
        patch.setattr(gzip_index, "MOST_GAP", 512 * KIB)
        patch.setattr(gzip_index, "_TAIL", KIB)
        global INDEX
        INDEX, _ = scanned(PACKED)
        yield


def lines(count: int, seed: int = 1) -> bytes:
    chance = random.Random(seed)
    return b"".join(b'{"id": "%032x", "kind": "click"}\n' % chance.getrandbits(128) for _ in range(count))


TEXT = lines(40_000)


def packed(text: bytes) -> bytes:
    """Return a gzip of small blocks: a point can only stand between two."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31, memLevel=3)
    return packer.compress(text) + packer.flush()


PACKED = packed(TEXT)


class Source:
    """An object that notes what is asked of it."""

    def __init__(self, raw: bytes, piece: int = 10_000) -> None:
        self.raw, self.piece = raw, piece
        self.requests: list[tuple[int, int]] = []
        self.pulled = self.open = 0

    def read_from(self, start: int, end: int) -> Iterator[bytes]:
        self.requests.append((start, end))
        self.open += 1
        try:
            for at in range(start, len(self.raw), self.piece):
                piece = self.raw[at : at + self.piece]
                self.pulled += len(piece)
                yield piece
        finally:
            self.open -= 1


def scanned(raw: bytes, limits: Limits = LIMITS, source: Source | None = None) -> tuple[GzipIndex, bytes]:
    """Return the index, and the text that was looked at."""
    seen: list[bytes] = []
    source = source or Source(raw)
    index = scan(source.read_from, len(raw), limits, look=seen.append, advance=lambda: None)
    assert all(0 < len(piece) <= PIECE for piece in seen)
    assert not source.open
    return index, b"".join(seen)


def text_of(index: GzipIndex, raw: bytes, start: int, end: int) -> bytes:
    """Return what stands in [start, end), and look that no piece is too long."""
    source, found = Source(raw), bytearray()
    pieces = index.read_from(source.read_from, start, end)
    for piece in pieces:
        assert 0 < len(piece) <= PIECE
        found += piece
        if len(found) >= end - start:
            break
    assert isinstance(pieces, Iterator)
    pieces.close()  # type: ignore[attr-defined]
    assert not source.open
    return bytes(found[: end - start])


INDEX: GzipIndex


offsets = st.integers(0, len(TEXT) - 1)


def test_a_scan_shows_the_text_once_in_one_request() -> None:
    source = Source(PACKED)

    index, seen = scanned(PACKED, source=source)

    assert seen == TEXT
    assert (index.size, index.decoded_size) == (len(PACKED), len(TEXT))
    assert source.requests == [(0, len(PACKED))]
    assert source.pulled == len(PACKED)


def test_points_are_evenly_spread() -> None:
    gaps = [after.decoded - point.decoded for point, after in zip(INDEX.points, INDEX.points[1:], strict=False)]

    assert INDEX.points[0].decoded == 0
    assert len(gaps) > 10
    assert min(gaps) >= SPACING
    assert max(gaps) < 2 * SPACING


@given(offsets, st.integers(0, 300_000))
@settings(max_examples=40, deadline=None)
def test_a_range_read_by_the_index_is_what_stands_in_the_text(start: int, length: int) -> None:
    end = min(start + length, len(TEXT))

    assert text_of(INDEX, PACKED, start, end) == TEXT[start:end]
    assert text_of(INDEX.cut(start, end), PACKED, start, end) == TEXT[start:end]


@given(offsets, st.integers(0, 300_000))
@settings(max_examples=5, deadline=None)
def test_reading_goes_on_behind_the_expected_end_up_to_the_end_of_the_text(start: int, length: int) -> None:
    index = INDEX.cut(start, start + length)

    assert b"".join(index.read_from(Source(PACKED).read_from, start, start + length)) == TEXT[start:]


@given(offsets, st.integers(1, 100_000))
@settings(max_examples=20, deadline=None)
def test_a_range_reads_no_more_of_the_object_than_its_share_and_the_way_to_it(start: int, length: int) -> None:
    end = min(start + length, len(TEXT))
    source, found = Source(PACKED), 0

    for piece in INDEX.cut(start, end).read_from(source.read_from, start, end):
        found += len(piece)
        if found >= end - start:
            break

    share = (end - start + 3 * SPACING) * len(PACKED) / len(TEXT)
    assert source.pulled < share + 2 * gzip_index._READ + 2 * source.piece
    assert len(source.requests) == 1
    assert source.requests[0][1] <= INDEX.size * (end + 3 * SPACING) // len(TEXT), "no more is asked for than that"


def test_the_byte_before_a_point_is_read_from_the_point_before() -> None:
    for point in INDEX.points[1:]:
        start = point.decoded - 1
        assert text_of(INDEX.cut(start, start + 10), PACKED, start, start + 10) == TEXT[start : start + 10]


def test_a_range_is_decoded_once_after_the_way_to_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """indexed_gzip begins each reading at a point anew, so each but the first has to begin at one."""
    starts: list[int] = []
    read_into = gzip_index._read_into

    def noted(text: memoryview, file: RangeFile, index: GzipIndex, start: int) -> None:
        starts.append(start)
        assert len(index.points) <= 4
        read_into(text, file, index, start)

    monkeypatch.setattr(gzip_index, "_read_into", noted)

    text_of(INDEX, PACKED, 500_000, 500_000 + 5 * SPACING)

    assert len(starts) >= 5
    assert set(starts[1:]) <= {point.decoded for point in INDEX.points}


def test_an_index_cut_to_a_range_reads_nothing_before_it() -> None:
    with pytest.raises(ValueError, match="cut to a range behind"):
        list(INDEX.cut(500_000, 600_000).read_from(Source(PACKED).read_from, 1000, 2000))


def test_an_index_survives_being_stored() -> None:
    assert GzipIndex.from_bytes(INDEX.to_bytes()) == INDEX
    assert GzipIndex.from_bytes(INDEX.cut(5, 9).to_bytes()) == INDEX.cut(5, 9)
    with pytest.raises(ValueError, match="no gzip index"):
        GzipIndex.from_bytes(b"GZIDX")


def test_an_index_cut_to_a_range_is_small() -> None:
    start = len(TEXT) // 2

    assert len(INDEX.cut(start, start + SPACING).points) <= 4


def test_points_are_thinned_out_where_they_get_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    most = len(INDEX.to_bytes()) // 5
    monkeypatch.setattr(gzip_index, "MOST_BYTES", most)

    index, seen = scanned(PACKED)

    assert seen == TEXT
    assert 3 <= len(index.points) <= len(INDEX.points) // 4
    assert len(index.to_bytes()) <= most + gzip_index._HEAD.size
    for start in (0, 1, 777_777, len(TEXT) - 10):
        assert text_of(index, PACKED, start, start + 200_000) == TEXT[start : start + 200_000]


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 400)), min_size=1, max_size=5),
    st.integers(1, 300_000),
    st.floats(0, 1),
)
@settings(max_examples=15, deadline=None)
def test_a_gzip_of_many_members_is_seeked_in(members: list[tuple[int, int]], piece: int, part: float) -> None:
    texts = [lines(count, seed) for seed, (count, _) in enumerate(members)]
    raw = b"".join(packed(text) + bytes(zeros) for text, (_, zeros) in zip(texts, members, strict=True))
    text = b"".join(texts)

    index, seen = scanned(raw, source=Source(raw, piece))

    assert seen == text
    start = int(part * len(text))
    assert b"".join(index.read_from(Source(raw).read_from, start, start + 100)) == text[start:]


def test_thousands_of_small_members_have_no_more_points_than_one_large() -> None:
    text = TEXT[: 600 * KIB]
    raw = b"".join(gzip.compress(text[at : at + 300]) for at in range(0, len(text), 300))

    index, seen = scanned(raw)

    assert seen == text
    assert len(index.points) <= len(text) / SPACING + 1
    assert b"".join(index.read_from(Source(raw).read_from, 123_456, 200_000)) == text[123_456:]


@pytest.mark.parametrize("raw", [gzip.compress(b"", mtime=0), gzip.compress(b"", mtime=0) * 3 + bytes(99)])
def test_a_gzip_of_nothing_has_an_index_of_nothing(raw: bytes) -> None:
    index, seen = scanned(raw)

    assert (index, seen) == (GzipIndex(len(raw), 0, ()), b"")
    assert list(index.read_from(Source(raw).read_from, 0, 10)) == []


def test_megabytes_of_empty_members_are_left_to_a_walk() -> None:
    with pytest.raises(UnseekableError):
        scanned(gzip.compress(b"") * 100_000 + gzip.compress(b"text"))


def broken(raw: bytes, at: int, by: int = 1) -> bytes:
    return raw[:at] + bytes([raw[at] ^ by]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(PACKED[:-1], id="a footer that is cut"),
        pytest.param(PACKED[:-8], id="no footer"),
        pytest.param(PACKED[: len(PACKED) // 2], id="half of it"),
        pytest.param(PACKED[:5], id="half a header"),
        pytest.param(PACKED + PACKED[:3], id="a second header that is cut"),
        pytest.param(PACKED + PACKED[:-4], id="a second member that is cut"),
        pytest.param(broken(PACKED, len(PACKED) - 5), id="a wrong checksum"),
        pytest.param(broken(PACKED, len(PACKED) - 1), id="a wrong size"),
        pytest.param(broken(PACKED, len(PACKED) - 5) + PACKED, id="a wrong checksum in the first of two"),
        pytest.param(broken(PACKED, len(PACKED) // 2, 255), id="a wrong byte"),
        pytest.param(PACKED + b"x", id="a byte of junk"),
        pytest.param(PACKED + b"junk" * 99_999, id="much junk"),
        pytest.param(PACKED + bytes(9) + b"junk" + PACKED, id="junk between members"),
        pytest.param(PACKED + bytes(300_000) + PACKED, id="more padding than indexed_gzip reads at once"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"text", id="text"),
    ],
)
def test_what_is_not_sound_has_no_index(raw: bytes) -> None:
    with pytest.raises(UnseekableError):
        scanned(raw)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=3), st.data())
@settings(max_examples=60, deadline=None)
def test_a_scan_takes_only_what_a_walk_reads_to_its_end(counts: list[int], data: st.DataObject) -> None:
    raw = bytearray(b"".join(gzip.compress(lines(count, count)) for count in counts))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(1, len(raw))) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        index, seen = scanned(bytes(raw))
    except UnseekableError:
        return

    text = b"".join(Inflation([bytes(raw)], Compression.GZIP, LIMITS))
    assert seen == text
    assert index.decoded_size == len(text)
    assert b"".join(index.read_from(Source(bytes(raw)).read_from, 0, 10)) == text


def test_one_endless_block_is_left_to_a_walk() -> None:
    one_block = isal_zlib.compress(TEXT, 0, 31)
    assert gzip.decompress(one_block) == TEXT

    with pytest.raises(UnseekableError, match="a block of deflate is so long"):
        scanned(one_block)


def test_padding_at_the_end_is_fine_however_long() -> None:
    index, seen = scanned(PACKED + bytes(3 * MIB))

    assert seen == TEXT
    assert text_of(index, PACKED + bytes(3 * MIB), 1000, 90_000) == TEXT[1000:90_000]


def test_a_bomb_ends_the_scan() -> None:
    bomb = gzip.compress(bytes(10 * MIB)) * 8

    with pytest.raises(SourceFailed) as failed:
        scanned(bomb)
    assert failed.value.code == "suspicious_ratio"
    with pytest.raises(SourceFailed) as failed:
        scanned(bomb, Limits(decoded=MIB, ratio=2000))
    assert failed.value.code == "too_large_decompressed"


ERRORS: list[Callable[[], BaseException]] = [
    lambda: Transient("S3 cannot be reached at the moment."),
    lambda: SourceFailed("source_changed", "The object changed."),
    lambda: RuntimeError("lease lost"),
    lambda: SystemExit(0),
    KeyboardInterrupt,
]


@pytest.mark.parametrize("make", ERRORS)
@pytest.mark.parametrize("after", [0, 1, 30])
def test_what_the_source_raises_comes_out_as_it_is(make: Callable[[], BaseException], after: int) -> None:
    error = make()

    def failing(start: int, end: int) -> Iterator[bytes]:
        for number, piece in enumerate(Source(PACKED).read_from(start, end)):
            if number == after:
                raise error
            yield piece

    with pytest.raises(type(error)) as raised:
        scan(failing, len(PACKED), LIMITS, look=lambda _: None, advance=lambda: None)
    assert raised.value is error
    with pytest.raises(type(error)) as raised:
        list(INDEX.read_from(failing, 1000, len(TEXT)))
    assert raised.value is error
    assert text_of(INDEX, PACKED, 500_000, 500_100) == TEXT[500_000:500_100]


@pytest.mark.parametrize("make", ERRORS)
def test_what_the_onlookers_raise_comes_out_as_it_is(make: Callable[[], BaseException]) -> None:
    error, turns = make(), iter(range(3))

    def look(_: bytes) -> None:
        if next(turns, None) is None:
            raise error

    with pytest.raises(type(error)) as raised:
        scan(Source(PACKED).read_from, len(PACKED), LIMITS, look=look, advance=lambda: None)
    assert raised.value is error


def test_an_object_that_is_not_the_scanned_one_fails_or_gives_what_it_holds() -> None:
    other = random.Random(2).randbytes(len(PACKED))

    with pytest.raises(SourceFailed, match="breaks at decompressed byte"):
        list(INDEX.read_from(Source(other).read_from, 500_000, 600_000))


@given(
    st.binary(max_size=200),
    st.integers(1, 50),
    st.lists(st.tuples(st.sampled_from(["seek", "read"]), st.integers(0, 220)), max_size=12),
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_range_file_is_a_file(raw: bytes, piece: int, steps: list[tuple[str, int]]) -> None:
    source, plain = Source(raw, piece), io.BytesIO(raw)
    with RangeFile(source.read_from, len(raw)) as file:
        for step, number in steps:
            assert getattr(file, step)(number) == getattr(plain, step)(number)
            assert file.tell() == plain.tell()
            assert source.open <= 1
    assert not source.open


def test_a_file_read_forward_with_small_steps_back_is_one_request() -> None:
    source = Source(TEXT[: 2 * MIB])
    with RangeFile(source.read_from, len(source.raw)) as file:
        for at in range(0, MIB, 100_000):
            file.seek(max(at - 50_000, 0))
            assert file.read(100_000) == TEXT[max(at - 50_000, 0) :][:100_000]
            assert len(file._kept) < 3 * gzip_index._READ
        assert source.pulled < MIB + 200_000
        assert len(source.requests) == 1
        file.seek(0)
        file.read(1)
        assert len(source.requests) == 2
        file.seek(0, io.SEEK_END)
        assert file.read(9) == b""
        assert len(source.requests) == 2
        assert source.open == 1


def test_a_raw_deflate_that_begins_between_bytes_is_read_right() -> None:
    """Most points do not fall on a byte of the object: their first bits are in the byte before."""
    assert {point.bits for point in INDEX.points} > {0}
    for point in INDEX.points:
        assert text_of(INDEX, PACKED, point.decoded, point.decoded + 99) == TEXT[point.decoded :][:99]


def test_members_without_compression_are_seeked_in() -> None:
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    raw = packer.compress(TEXT) + packer.flush()

    index, seen = scanned(raw)

    assert seen == TEXT
    assert text_of(index, raw, 999_999, 1_200_000) == TEXT[999_999:1_200_000]
