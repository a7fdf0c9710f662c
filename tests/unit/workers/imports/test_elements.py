"""Elements: whatever the pieces and wherever one begins anew, each is read once, and a broken array says where."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import SourceFailed
from common.model.events import Identity
from common.model.mapping import Mapping
from workers.imports import elements
from workers.imports.decoding import Decoder
from workers.imports.elements import MOST_ELEMENTS, element_blocks
from workers.imports.framing import Block

MANY = 1 << 20
BOM = b"\xef\xbb\xbf"


class Found(NamedTuple):
    elements: list[tuple[int, bytes]]
    #: A failure's code, and the byte that its text names.
    failure: tuple[str, int] | None


def pieces_of(source: bytes, start: int, sizes: list[int]) -> Iterator[bytes]:
    at, turn = start, 0
    while at < len(source):
        yield source[at : at + sizes[turn % len(sizes)]]
        at, turn = at + sizes[turn % len(sizes)], turn + 1


def walk(blocks: Iterable[Block]) -> tuple[list[Block], tuple[str, int] | None]:
    found: list[Block] = []
    try:
        found.extend(blocks)
    except SourceFailed as failed:
        return found, (failed.code, int(re.findall(r"at byte (\d+)", failed.public)[0]))
    return found, None


def elements_of(blocks: Iterable[Block]) -> list[tuple[int, bytes]]:
    rows: list[tuple[int, bytes]] = []
    for block in blocks:
        assert block.offsets is not None
        assert block.offset == block.offsets[0]
        rows += zip(block.offsets, block.data.split(b"\n"), strict=True)
    return rows


def find(
    source: bytes, *, sizes: list[int] | None = None, start: int = 0, wrapped: bool = False, max_line: int = MANY
) -> Found:
    pieces = pieces_of(source, start, sizes or [MANY])
    blocks, failure = walk(element_blocks(pieces, start=start, wrapped=wrapped, max_line=max_line))
    return Found(elements_of(blocks), failure)


# --- two oracles ----------------------------------------------------------------------------------------------


def decoded_elements(source: bytes) -> list[tuple[int, bytes]]:
    """Find the elements of a sound array with the standard library, which decodes them one by one."""
    text = source.decode("latin-1")  # a character for each byte
    at, rows = re.match(r"(?:\xef\xbb\xbf)?\s*\[\s*", text).end(), []  # type: ignore[union-attr]
    while text[at] != "]":
        _, end = json.JSONDecoder().raw_decode(text, at)
        rows.append((at, source[at:end].replace(b"\n", b" ").replace(b"\r", b" ")))
        at = re.compile(r"\s*,?\s*").match(text, end).end()  # type: ignore[union-attr]
    return rows


class Halt(Exception):
    pass


class Plain:
    """Says the rules byte by byte, of the whole source at once."""

    def __init__(self, source: bytes) -> None:
        self.source, self.at = source, 0
        self.rows: list[tuple[int, bytes]] = []

    def read(self) -> Found:
        try:
            self.array()
        except Halt:
            code = "truncated_array" if self.at >= len(self.source) else "broken_array"
            return Found(self.rows, (code, self.at))
        return Found(self.rows, None)

    def byte(self) -> bytes:
        return self.source[self.at : self.at + 1]

    def after_blanks(self) -> bytes:
        while self.byte() and self.byte() in b" \t\r\n":
            self.at += 1
        return self.byte()

    def array(self) -> None:
        if not self.after_blanks():
            return
        self.need(b"[")
        if self.after_blanks() != b"]":
            self.element()
            while self.after_blanks() != b"]":
                self.need(b",")
                self.after_blanks()
                self.element()
        self.need(b"]")
        if self.after_blanks():
            raise Halt

    def need(self, byte: bytes) -> None:
        if self.byte() != byte:
            raise Halt
        self.at += 1

    def element(self) -> None:
        if not self.byte() or self.byte() in b",]}:":
            raise Halt
        start = self.at
        body = bytearray()
        if self.byte() in b'"[{':
            self.nested(body)
        else:
            while self.byte() and self.byte() not in b' \t\r\n,:[]{}"':
                body += self.byte()
                self.at += 1
            if not self.byte():
                self.rows.append((start, bytes(body)))
                raise Halt
        self.rows.append((start, bytes(body)))

    def nested(self, body: bytearray) -> None:
        waiting: list[bytes] = []
        while True:
            byte = self.byte()
            if not byte or (byte in b"]}" and waiting[-1] != byte):
                raise Halt
            self.at += 1
            body += b" " if byte in b"\r\n" else byte
            if byte == b'"':
                self.string(body)
            elif byte in b"[{":
                waiting.append(b"]" if byte == b"[" else b"}")
            elif byte in b"]}":
                waiting.pop()
            if not waiting:
                return

    def string(self, body: bytearray) -> None:
        escaped = False
        while True:
            byte = self.byte()
            if not byte:
                raise Halt
            self.at += 1
            body += b"\v" if byte == b"\n" else byte
            if byte == b'"' and not escaped:
                return
            escaped = byte == b"\\" and not escaped


# --- material ---------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "data", 'q"', "}{", "],[", "\\", "é", ""])
leaves = st.none() | st.booleans() | st.integers(-5, 10**6) | names | st.text(max_size=5)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=12
)
objects = st.dictionaries(names, trees, max_size=4)
writers: st.SearchStrategy[Callable[[object], str]] = st.sampled_from(
    [
        json.dumps,
        lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
        lambda value: json.dumps(value, indent=2).replace("\n", "\r\n"),
        lambda value: json.dumps(value, indent="\t", separators=(" ,", " : ")),
    ]
)
arrays = st.builds(lambda value, write: write(value).encode(), st.lists(objects | trees, max_size=6), writers)
#: Arrays of whole and of odd elements, and then something cut out or put in anywhere.
odd = st.sampled_from(
    [
        '{"a":tru}', '{"a":1,}', "tru", "1", "nul", '"x"', '"a\nb"', '{"a":"x\ny"}', '{"a":\n1}', "[]", "[[]]", "{",
        "}", "[", "]", '"', '"\\', "{]", '{"a":[1}', "{}{}", "{} x", "", " ", "\v", ":", '{"s":"},{"}',
        '{"s":"\\"},{\\""}', "[[[[[[[[{}]]]]]]]]", '{"a":{"b":{"c":{"d":{"e":{"f":"]"}}}}}}', "{\r\n}", '{"a":"\\\n"}',
        '{"a":"\r"}',
    ]
)  # fmt: skip
whole = st.integers(0, 99).map(lambda n: f'{{"id":"e{n}","n":[{n},{{"x":"y"}}]}}')
commas = st.sampled_from([",", ",", ", ", ",\n", " ,\r\n "])
frayed = st.builds(
    lambda before, rows, comma, after: (before + comma.join(rows) + after).encode(),
    st.sampled_from(["[", "[", "[\n", " [ ", "", "{", " "]),
    st.lists(whole | odd, max_size=6) | st.lists(whole, max_size=6),
    commas,
    st.sampled_from(["]", "]", "\n]\n", "", ",]", "]]", "] x", " "]),
)
sizes_of_pieces = st.lists(st.integers(1, 60), min_size=1, max_size=4)


# --- the same, whichever way ------------------------------------------------------------------------------------


@given(arrays, st.sampled_from([b"", BOM, b" \n", BOM + b"\r\n"]), sizes_of_pieces)
@settings(max_examples=300)
def test_a_sound_array_has_the_elements_that_the_standard_library_finds(
    array: bytes, before: bytes, sizes: list[int]
) -> None:
    assert find(before + array + b" \n", sizes=sizes) == Found(decoded_elements(before + array), None)


@given(frayed | st.text('[]{}",:\\ \n1a', max_size=25).map(str.encode), sizes_of_pieces)
@settings(max_examples=600)
def test_any_text_has_the_elements_and_the_end_that_the_rules_say(source: bytes, sizes: list[int]) -> None:
    expected = Plain(source).read()

    assert find(source) == expected
    assert find(source, sizes=sizes) == expected


@given(frayed | arrays, st.integers(0, 12), sizes_of_pieces)
@settings(max_examples=300)
def test_the_quick_and_the_slow_way_never_differ(source: bytes, max_line: int, sizes: list[int]) -> None:
    quick = find(source, max_line=max_line, sizes=sizes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(elements, "_QUICK", re.compile(rb"(?!)()"))
        assert find(source, max_line=max_line, sizes=sizes) == quick


@given(frayed | arrays, sizes_of_pieces, st.integers(0, 12))
@settings(max_examples=300)
def test_who_begins_anew_behind_a_block_finds_what_was_left(source: bytes, sizes: list[int], max_line: int) -> None:
    pieces = pieces_of(source, 0, sizes)
    blocks, failure = walk(element_blocks(pieces, start=0, wrapped=False, max_line=max_line))

    for number, block in enumerate(blocks, 1):
        assert block.end is not None
        rest = Found(elements_of(blocks[number:]), failure)
        assert find(source, start=block.end, max_line=max_line) == rest


@given(arrays, st.integers(0, 12), sizes_of_pieces)
def test_an_element_over_the_limit_is_cut_and_ends_its_block(array: bytes, max_line: int, sizes: list[int]) -> None:
    pieces = pieces_of(array, 0, sizes)
    blocks = list(element_blocks(pieces, start=0, wrapped=False, max_line=max_line))

    assert [(at, len(body)) for at, body in elements_of(blocks)] == [
        (at, min(len(body), max_line + 1)) for at, body in decoded_elements(array)
    ]
    assert all(len(line) <= max_line for block in blocks for line in block.data.split(b"\n")[:-1])


def test_an_element_is_too_long_from_one_byte_over_the_limit_on() -> None:
    array = b'[{"a":1},{"a":12},{"a":3},{"a":123},{}]'
    blocks = list(element_blocks([array], start=0, wrapped=False, max_line=7))

    assert [block.data.split(b"\n") for block in blocks] == [
        [b'{"a":1}', b'{"a":12}'],
        [b'{"a":3}', b'{"a":123'],
        [b"{}"],
    ]
    assert [block.end for block in blocks] == [17, 35, 38]


# --- the array in an object ----------------------------------------------------------------------------------------


@given(
    st.lists(objects, max_size=3),
    st.dictionaries(names.filter(lambda name: name != "data"), trees, max_size=3),
    st.dictionaries(names.filter(lambda name: name != "data"), trees, max_size=3),
    writers,
    sizes_of_pieces,
)
def test_the_array_of_an_object_is_found_wherever_it_stands_in_it(
    rows: list[object],
    before: dict[str, object],
    after: dict[str, object],
    write: Callable[[object], str],
    sizes: list[int],
) -> None:
    marked = write({**before, "data": "HERE", **{f"{name}.": value for name, value in after.items()}})
    head, tail = marked.encode().split(b'"HERE"')
    array = write(rows).encode()
    expected = [(len(head) + at, body) for at, body in decoded_elements(array)]

    assert find(head + array + tail, wrapped=True, sizes=sizes) == Found(expected, None)


@pytest.mark.parametrize(
    ("source", "found", "failure"),
    [
        ('{"data":[{}]}', 1, None),
        ('\ufeff {"columns":{"data":[1]},"data":[{},{}],"x":[]} ', 2, None),
        (r'{"d\u0061ta":[{}]}', 1, None),
        (r'{"\u0064\u0061\u0074\u0061":[{}]}', 1, None),
        (r'{"datadatadatadatadatadatadatadata":7,"data":[{}]}', 1, None),
        ('{"data":[]}', 0, None),
        ("", 0, None),
        ('{"data":[{}]', 1, ("truncated_array", 12)),
        ('{"data":[{}],', 1, ("truncated_array", 13)),
        ('{"data":[{}],"x', 1, ("truncated_array", 15)),
        ('{"data":[{}],"x":1', 1, ("truncated_array", 18)),
        ('{"data":[{}]}]', 1, ("broken_array", 13)),
        ('{"data":[{}]]', 1, ("broken_array", 12)),
        ('{"data":[{}],"data":[{}]}', 1, ("broken_array", 20)),
        ('{"data":{}}', 0, ("broken_array", 8)),
        ('{"columns":{}}', 0, ("broken_array", 13)),
        ("{}", 0, ("broken_array", 1)),
        ("[{}]", 0, ("broken_array", 0)),
        ('{"columns":}', 0, ("broken_array", 11)),
        ('{"columns" {}}', 0, ("broken_array", 11)),
        ('{columns:{}}', 0, ("broken_array", 1)),
    ],
)  # fmt: skip
def test_an_object_that_is_no_frame_says_where_it_breaks(
    source: str, found: int, failure: tuple[str, int] | None
) -> None:
    for size in (1, 2, 3, MANY):
        rows, why = find(source.encode(), wrapped=True, sizes=[size])
        assert (len(rows), why) == (found, failure)


# --- where it breaks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "found", "text"),
    [
        ("[1,,2]", 1, "is broken at byte 3 (decompressed, counted from 0): an element was expected, but `,` is there"),
        ("[1,]", 1, "is broken at byte 3 (decompressed, counted from 0): an element was expected, but `]` is there"),
        ("[,]", 0, "is broken at byte 1 (decompressed, counted from 0): an element was expected, but `,` is there"),
        ("[{} {}]", 1, "at byte 4 (decompressed, counted from 0): `,` or `]` was expected, but `{` is there"),
        ("[{}]x", 1, "at byte 4 (decompressed, counted from 0): the end of the file was expected, but `x` is there"),
        ("[{}]\0", 1, "the end of the file was expected, but 0x00 is there"),
        ('[{"a":[1}]', 0, "at byte 8 (decompressed, counted from 0): `]` was expected, but `}` is there"),
        ('[{},{"a":', 1, "the file ends at byte 9 (decompressed), but the rest of an element was expected"),
        ("[{},", 1, "the file ends at byte 4 (decompressed), but an element was expected"),
        ("[{}", 1, "the file ends at byte 3 (decompressed), but `,` or `]` was expected"),
        ("[", 0, "the file ends at byte 1 (decompressed), but an element was expected"),
        ("{}", 0, "at byte 0 (decompressed, counted from 0): `[` was expected, but `{` is there"),
    ],
)
def test_a_broken_array_says_where_and_what_was_expected(source: str, found: int, text: str) -> None:
    blocks: list[Block] = []
    with pytest.raises(SourceFailed) as failed:
        blocks.extend(element_blocks([source.encode()], start=0, wrapped=False, max_line=MANY))

    assert len(elements_of(blocks)) == found
    assert text in failed.value.public


def test_what_pulling_a_piece_raises_passes_through_behind_the_good_elements() -> None:
    def breaking() -> Iterator[bytes]:
        yield b'[{"a":1},{"a":2},{"a":'
        raise ConnectionError

    found: list[Block] = []
    with pytest.raises(ConnectionError):
        found.extend(element_blocks(breaking(), start=0, wrapped=False, max_line=MANY))

    assert elements_of(found) == [(1, b'{"a":1}'), (9, b'{"a":2}')]


@pytest.mark.parametrize("element", [b"{}", b"7", b'{"a":"\n"}'])
def test_tiny_elements_come_in_blocks_of_so_many(element: bytes) -> None:
    array = b"[" + b",".join([element] * 50_000) + b"]"
    sizes = [len(block.offsets or ()) for block in element_blocks([array], start=0, wrapped=False, max_line=MANY)]

    assert sum(sizes) == 50_000
    assert max(sizes) <= 2 * MOST_ELEMENTS


@pytest.mark.parametrize("depth", [3, 5, 100, 5000])
def test_deep_elements_are_whole_and_no_recursion_finds_its_end(depth: int) -> None:
    deep = b'{"a":[' * depth + b"]}" * depth

    assert find(b"[%b,%b,{}]" % (deep, deep)).elements == [(1, deep), (2 + len(deep), deep), (3 + 2 * len(deep), b"{}")]


# --- what the decoder makes of it ----------------------------------------------------------------------------------


def test_the_decoder_judges_each_element_at_its_place() -> None:
    array = b'[ {"a":1},\n {"a":tru}, 7,{"a":"x\ny"} ,{\n"a":\n2}, {"long":"%b"},\r\n{} ]' % (b"x" * 90)
    decoder = Decoder(
        Mapping(), identity=Identity(b"k" * 32), import_number=7, source_ordinal=3, default_time=0, max_line=60
    )
    for size in (1, 7, MANY):
        blocks = list(element_blocks(pieces_of(array, 0, [size]), start=0, wrapped=False, max_line=61))
        first, events, rejects = 0, [], []
        for block in blocks:
            decoded = decoder.decode(block, first)
            first += decoded.lines
            events += decoded.events
            rejects += decoded.rejects

        assert [(event.offset, event.payload) for event in events] == [
            (array.index(b'{"a":1}'), b'{"a":1}'),
            (array.index(b'{\n"a'), b'{ "a": 2}'),
            (array.index(b"{} ]"), b"{}"),
        ]
        assert [(reject.line, reject.offset, reject.code) for reject in rejects] == [
            (1, array.index(b'{"a":tru}'), "invalid_json"),
            (2, array.index(b"7"), "not_an_object"),
            (3, array.index(b'{"a":"x'), "invalid_json"),
            (5, array.index(b'{"long'), "line_too_long"),
        ]


@given(st.lists(st.sampled_from([b'{"a":1}', b'{"$unique_id":"x"}', b"7", b"{"]), min_size=1, max_size=6))
def test_places_that_are_told_count_as_those_that_are_computed(lines: list[bytes]) -> None:
    decoder = Decoder(
        Mapping(), identity=Identity(b"k" * 32), import_number=7, source_ordinal=3, default_time=0, max_line=60
    )
    places = [100 + sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    told = Block(100, b"\n".join(lines), places)

    assert decoder.decode(told, 4) == decoder.decode(Block(100, told.data), 4)
    assert decoder._decode_by_line(told, 4) == decoder._decode_by_line(Block(100, told.data), 4)


# --- bounds ---------------------------------------------------------------------------------------------------------

PIECE = 1 << 16


@pytest.mark.parametrize(
    ("head", "body", "tail"),
    [
        (b'[{"a":"', b"x" * PIECE, b'"}'),
        (b'[{"a":"', b"\\" * PIECE, b'"}'),
        (b'[{"a":"', b'\\"' * (PIECE // 2), b'"}'),
        (b"[", b"[" * PIECE, b"]" * (30 * PIECE)),
        (b"[1", b"1" * PIECE, b""),
        (b"[{}", b" " * PIECE, b""),
        (b'[{"a":1', b"\n" * PIECE, b"}"),
        (b'[{"":0', b',"a":{}' * (PIECE // 7), b"}"),
    ],
)
def test_an_element_without_end_stays_small_and_takes_no_time(head: bytes, body: bytes, tail: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(30):
            yield body
        for at in range(0, len(tail), PIECE):
            yield tail[at : at + PIECE]
        yield b",{}]"

    tracemalloc.start()
    started = time.process_time()
    blocks = list(element_blocks(pieces(), start=0, wrapped=False, max_line=1000))
    took, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert [len(body) for _, body in elements_of(blocks)][1:] == [2]
    assert len(elements_of(blocks)[0][1]) <= 1001
    assert peak < 6 * PIECE
    assert took < 3
