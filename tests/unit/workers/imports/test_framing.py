"""Framing: whatever the cuts and the pieces, every line is read once, and a long line stays small."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.imports.framing import Block, owned_blocks, reading_start

MANY = 1 << 20
#: Newlines are as likely as all else, so that lines of every small length and runs of newlines come up.
sources = st.text("\n\rab{}", max_size=80).map(str.encode) | st.binary(max_size=60)


def pieces_of(source: bytes, start: int, sizes: list[int]) -> Iterator[bytes]:
    """Yield the source from ``reading_start(start)`` on, in pieces of the given sizes, over and over."""
    at, turn = reading_start(start), 0
    while at < len(source):
        size = sizes[turn % len(sizes)]
        yield source[at : at + size]
        at, turn = at + size, turn + 1


def lines_of(blocks: Iterator[Block]) -> list[tuple[int, bytes]]:
    lines = []
    for block in blocks:
        offset = block.offset
        for line in block.data.split(b"\n"):
            lines.append((offset, line))
            offset += len(line) + 1
    return lines


def owned_lines(
    source: bytes, start: int, end: int, *, sizes: list[int], max_line: int = MANY
) -> list[tuple[int, bytes]]:
    return lines_of(owned_blocks(pieces_of(source, start, sizes), start=start, end=end, max_line=max_line))


def plain_lines(source: bytes, max_line: int = MANY) -> list[tuple[int, bytes]]:
    """Say the rule the plain way: split, forget what follows the last newline if it is nothing, cut."""
    bodies = source.split(b"\n")
    if not bodies[-1]:
        bodies.pop()
    lines, offset = [], 0
    for body in bodies:
        lines.append((offset, body[: max_line + 1]))
        offset += len(body) + 1
    return lines


@given(sources, st.integers(1, 40), st.lists(st.integers(1, 90), min_size=1, max_size=5), st.integers(0, 12))
def test_chunks_of_any_size_read_in_pieces_of_any_size_own_every_line_once(
    source: bytes, chunk: int, sizes: list[int], max_line: int
) -> None:
    owned = []
    for start in range(0, len(source), chunk):
        end = min(start + chunk, len(source))
        mine = owned_lines(source, start, end, sizes=sizes, max_line=max_line)
        assert all(start <= offset < end for offset, _ in mine)
        owned += mine

    assert owned == plain_lines(source, max_line)


@given(sources, st.integers(0, 60), st.integers(0, 60), st.integers(0, 12))
def test_what_lines_come_out_does_not_depend_on_the_pieces(
    source: bytes, start: int, length: int, max_line: int
) -> None:
    whole = owned_lines(source, start, start + length, sizes=[MANY], max_line=max_line)

    for size in (1, 2, 3, 7):
        assert owned_lines(source, start, start + length, sizes=[size], max_line=max_line) == whole


@given(sources, st.integers(0, 60), st.integers(0, 60), st.integers(0, 12))
def test_no_byte_is_pulled_that_the_last_owned_line_does_not_need(
    source: bytes, start: int, length: int, max_line: int
) -> None:
    end = min(start + length, len(source))
    pulled = reading_start(start)

    def one_by_one() -> Iterator[bytes]:
        nonlocal pulled
        for byte in source[reading_start(start) :]:
            pulled += 1
            yield bytes((byte,))

    lines = lines_of(owned_blocks(one_by_one(), start=start, end=end, max_line=max_line))

    # Up to the newline of the last line. If it is too long, or there is none, then to the byte that shows it, and
    # to the last newline after which a line of ours could begin.
    offset, body = lines[-1] if lines else (0, b"")
    ended = lines and len(body) <= max_line
    needed = offset + len(body) + 1 if ended else max(offset + len(body), end - 1)
    assert pulled <= max(needed, reading_start(start))


@given(sources, st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 12))
def test_a_line_over_the_limit_is_cut_and_ends_its_block(source: bytes, sizes: list[int], max_line: int) -> None:
    for block in owned_blocks(pieces_of(source, 0, sizes), start=0, end=len(source), max_line=max_line):
        *whole, last = block.data.split(b"\n")

        assert all(len(line) <= max_line for line in whole)
        assert len(last) <= max_line + 1


def test_an_endless_line_is_neither_kept_nor_read_past_the_end_of_a_chunk() -> None:
    max_line, piece, end = 1000, 100, 5000
    pulled = 0

    def endless() -> Iterator[bytes]:
        nonlocal pulled
        while True:
            pulled += piece
            yield b"x" * piece

    blocks = list(owned_blocks(endless(), start=0, end=end, max_line=max_line))

    assert blocks == [Block(0, b"x" * (max_line + 1))]
    assert pulled == end


def test_a_chunk_inside_an_endless_line_owns_nothing_and_stops_at_its_end() -> None:
    pulled = 0

    def endless() -> Iterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 100
            yield b"x" * 100

    assert list(owned_blocks(endless(), start=5001, end=9000, max_line=1000)) == []
    assert pulled == 4000


def test_an_endless_last_line_is_read_past_the_end_only_until_it_is_too_long() -> None:
    pulled = 0

    def source() -> Iterator[bytes]:
        nonlocal pulled
        yield b"a\n"
        while True:
            pulled += 1
            yield b"x"

    blocks = list(owned_blocks(source(), start=0, end=3, max_line=1000))

    assert blocks == [Block(0, b"a"), Block(2, b"x" * 1001)]
    assert pulled == 1001


def test_memory_stays_flat_while_a_line_of_a_hundred_megabytes_passes() -> None:
    import tracemalloc

    piece, max_line, count = 1 << 16, 1 << 17, 1600
    tracemalloc.start()
    try:
        pieces = (b"x" * piece for _ in range(count))
        blocks = list(owned_blocks(pieces, start=0, end=piece * count, max_line=max_line))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [len(block.data) for block in blocks] == [max_line + 1]
    # The held head and the block made of it, the slack of a bytearray's growth, and two pieces.
    assert peak < 2.5 * max_line + 3 * piece


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (b"", []),
        (b"\n", [(0, b"")]),
        (b"\n\n", [(0, b""), (1, b"")]),
        (b"a", [(0, b"a")]),
        (b"a\n", [(0, b"a")]),
        (b"a\n\nb", [(0, b"a"), (2, b""), (3, b"b")]),
        (b"a\r\nb\xe2\x80\xa8c\x0b\x85d\n", [(0, b"a\r"), (3, b"b\xe2\x80\xa8c\x0b\x85d")]),
    ],
)
def test_lines_end_at_line_feeds_alone(source: bytes, lines: list[tuple[int, bytes]]) -> None:
    assert owned_lines(source, 0, len(source), sizes=[MANY]) == lines


def test_an_empty_chunk_pulls_nothing() -> None:
    def forbidden() -> Iterator[bytes]:
        raise AssertionError
        yield b""

    assert list(owned_blocks(forbidden(), start=7, end=7, max_line=10)) == []


def test_empty_pieces_change_nothing() -> None:
    pieces = iter([b"", b"a\n", b"", b"b", b"", b"\n", b""])

    assert lines_of(owned_blocks(pieces, start=0, end=4, max_line=10)) == [(0, b"a"), (2, b"b")]
