"""Framing CSV: every record once, whatever the pieces, and a quote that never closes stays small."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imports.framing import Block
from workers.imports.records import LineQuotes, Quotes, State, has_quoted_line_breaks, is_well_quoted, record_blocks

LONG = 1 << 20
#: All that framing looks at is likely, so that records of every kind come up.
sources = st.text('"",,\n\n\ra', max_size=60).map(str.encode) | st.builds(
    "\n".join,
    st.lists(st.sampled_from(["a,b", '"a\nb",c', '"a""b"', '5" p', '"x"y', '"', "", '"a\r\nb"\r'])),
).map(str.encode)
piece_sizes = st.lists(st.integers(1, 70), min_size=1, max_size=4)


def pieces_of(source: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(source):
        size = sizes[turn % len(sizes)]
        yield source[at : at + size]
        at, turn = at + size, turn + 1


def records_of(blocks: Iterator[Block]) -> list[tuple[int, bytes]]:
    found = []
    for block in blocks:
        assert block.offsets is not None
        assert block.offsets[0] == block.offset
        ends = [*[offset - 1 for offset in block.offsets[1:]], block.offset + len(block.data)]
        found += [
            (begin, block.data[begin - block.offset : end - block.offset])
            for begin, end in zip(block.offsets, ends, strict=True)
        ]
    return found


def framed(source: bytes, sizes: Sequence[int], max_line: int = LONG, start: int = 0) -> list[tuple[int, bytes]]:
    return records_of(record_blocks(pieces_of(source[start:], sizes), start=start, max_line=max_line))


def one_by_one(source: bytes, max_line: int = LONG) -> list[tuple[int, bytes]]:
    """Say the rule the plain way: each record up to where its quotes let it end."""
    found, at = [], 0
    while at < len(source):
        end = Quotes().end(source, at + 3 if at == 0 and source.startswith(b"\xef\xbb\xbf") else at)
        end = end if end >= 0 else len(source)
        record = source[at:end]
        kept = record[: max_line + 1]
        found.append((at, kept + b"\n" * record[max_line + 1 :].count(b"\n")))
        at = end + 1
    return found


@given(sources, piece_sizes, st.sampled_from([2, 7, LONG]), st.booleans())
@settings(max_examples=300)
def test_the_records_do_not_depend_on_the_pieces(source: bytes, sizes: list[int], max_line: int, mark: bool) -> None:
    source = b"\xef\xbb\xbf" * mark + source

    assert framed(source, sizes, max_line) == framed(source, [LONG], max_line) == one_by_one(source, max_line)


@given(sources, piece_sizes, st.sampled_from([2, 7, LONG]))
def test_behind_every_block_one_may_begin_anew(source: bytes, sizes: list[int], max_line: int) -> None:
    whole = framed(source, [LONG], max_line)
    for block in record_blocks(pieces_of(source, sizes), start=0, max_line=max_line):
        assert block.end is not None
        rest = framed(source, sizes, max_line, start=block.end)
        assert rest == [(offset, record) for offset, record in whole if offset >= block.end]
        assert block.end == len(source) or source[block.end - 1 : block.end] == b"\n"


def until_gone(blocks: Iterator[Block]) -> Iterator[Block]:
    with contextlib.suppress(ConnectionError):
        yield from blocks


@given(sources, st.integers(0, 60))
def test_what_was_whole_before_a_piece_that_cannot_be_had_comes_out_first(source: bytes, cut: int) -> None:
    def broken() -> Iterator[bytes]:
        yield from pieces_of(source[:cut], [2])
        raise ConnectionError

    with pytest.raises(ConnectionError):
        list(record_blocks(broken(), start=0, max_line=LONG))
    found = records_of(until_gone(record_blocks(broken(), start=0, max_line=LONG)))

    assert found == [(at, record) for at, record in one_by_one(source[:cut]) if at + len(record) < len(source[:cut])]


@given(sources)
def test_records_come_out_as_soon_as_they_are_whole(source: bytes) -> None:
    given_out = 0

    def counted() -> Iterator[bytes]:
        nonlocal given_out
        for at in range(len(source)):
            given_out = at + 1
            yield source[at : at + 1]

    for block in record_blocks(counted(), start=0, max_line=LONG):
        assert block.end == given_out


@given(sources, piece_sizes)
def test_the_quotes_of_a_record_are_followed_over_pieces(source: bytes, sizes: list[int]) -> None:
    whole, cut = Quotes(), Quotes()
    end, before = whole.end(source), 0
    for piece in pieces_of(source, sizes):
        found = cut.end(piece)
        if found >= 0:
            assert before + found == end
            return
        before += len(piece)

    assert (end, cut.state) == (-1, whole.state)


@given(st.lists(sources, max_size=5))
def test_the_look_at_all_quotes_finds_what_the_way_through_each_record_finds(parts: list[bytes]) -> None:
    """Up to the last record, which may be open or wait for its line feed."""
    data = b"\n".join(parts)
    states, at = [], 0
    while at <= len(data):
        quotes = Quotes()
        end = quotes.end(data, at)
        states.append(quotes.state)
        at = end + 1 if end >= 0 else len(data) + 1

    assert is_well_quoted(data) == (State.FAULT not in states)


@given(sources, piece_sizes)
@settings(max_examples=300)
def test_a_line_with_an_odd_number_of_quotes_is_seen_in_any_pieces(source: bytes, sizes: list[int]) -> None:
    odd = any(line.count(b'"') % 2 for line in source.split(b"\n"))

    assert has_quoted_line_breaks(pieces_of(source, sizes)) == odd
    lines = LineQuotes()
    for piece in pieces_of(source, sizes):
        lines.add(piece)
    assert lines.found == odd


@given(sources, piece_sizes)
def test_without_odd_lines_each_line_is_a_record(source: bytes, sizes: list[int]) -> None:
    if not has_quoted_line_breaks([source]):
        lines = source.removesuffix(b"\n").split(b"\n") if source else []

        assert [record for _, record in framed(source, sizes)] == lines


def test_the_search_ends_with_the_piece_that_has_the_line() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'a\n"b\n'
        raise AssertionError

    assert has_quoted_line_breaks(pieces())


def test_memory_stays_flat_while_a_quote_that_never_closes_passes() -> None:
    piece, max_line, count = b"x" * 65_436 + b"\n" * 100, 1 << 17, 800
    tracemalloc.start()
    try:
        pieces = (b'a\n"' + piece if at == 0 else piece for at in range(count))
        blocks = list(record_blocks(pieces, start=0, max_line=max_line))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    first, cut = blocks
    assert (first.data, first.end) == (b"a", 2)
    assert cut.data.count(b"\n") == 100 * count
    assert len(cut.data.rstrip(b"\n")) <= max_line + 1
    assert cut.end == 3 + len(piece) * count
    # What is held and the same with a piece, and as much again for the block.
    assert peak < 4 * (max_line + len(piece)) + 2 * 100 * count


@pytest.mark.parametrize(
    ("source", "records"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b'"a\nb"\nc', [b'"a\nb"', b"c"]),
        (b'"a""\nb"\nc', [b'"a""\nb"', b"c"]),
        (b'x,"a\r\nb"\r\nc', [b'x,"a\r\nb"\r', b"c"]),
        (b'5" a\n6" b\n', [b'5" a', b'6" b']),
        (b'"a"b,"\nc"\nd', [b'"a"b,"', b'c"', b"d"]),
        (b'"a\nb"c\n"d"', [b'"a\nb"c', b'"d"']),
        (b'"a\n"\rb,"\nc', [b'"a\n"\rb,"', b"c"]),
        (b'a\rb,"\nc', [b'a\rb,"', b"c"]),
        (b'"a\nb\n', [b'"a\nb\n']),
        (b'\xef\xbb\xbf"a\nb"\nc', [b'\xef\xbb\xbf"a\nb"', b"c"]),
        (b'c\n\xef\xbb\xbf"a\nb"\n', [b"c", b'\xef\xbb\xbf"a', b'b"']),
    ],
)
def test_where_records_end(source: bytes, records: list[bytes]) -> None:
    for size in (1, 2, 3, LONG):
        assert [record for _, record in framed(source, [size])] == records


@pytest.mark.parametrize(
    "piece",
    [b'"' * 999, b'"a",' * 250, b'a"\n' * 333, b'"\n' * 500, b'"",\n' * 250, b'"x"y\n"\n' * 100, b'"a""\n' * 200],
)
def test_no_source_is_slow_to_frame(piece: bytes) -> None:
    pieces = [b"a,b\n", piece * 256]
    started = time.perf_counter()
    for _ in record_blocks(pieces, start=0, max_line=LONG):
        pass

    assert time.perf_counter() - started < 3
