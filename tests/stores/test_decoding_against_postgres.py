"""What the decoder takes Postgres stores, and what Postgres refuses the decoder rejects.

The other way round the decoder is stricter, in the ways it says: length, depth, objects only, lone
surrogates, and what it asks of an id and a time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg2
import psycopg2.extensions
import pytest

from common.model.events import Identity
from common.model.mapping import Mapping
from common.model.rejects import RejectCode
from workers.imports.decoding import Decoder
from workers.imports.framing import Block

pytestmark = pytest.mark.services

STRICTER = {*RejectCode} - {RejectCode.INVALID_JSON, RejectCode.INVALID_UTF8}
DECODER = Decoder(
    Mapping(),
    identity=Identity(b"k" * 32),
    import_number=1,
    source_ordinal=0,
    default_time=0,
    max_line=1 << 20,
)

STRINGS = [
    '""', '"a"', '"é"', '"\u2028"', '"\x7f"', '"\x80"', '"\uffff"', '"\U0010ffff"', r'"\u0000"', r'"\\u0000"',
    r'"\ud83d\ude00"', r'"\uD83D\uDE00"', r'"\ud800"', r'"\udc00"', r'"\ud800\ud800"', r'"\/\b\f\n\r\t\"\\"',
    r'"\x"',
    r'"\u12"', r'"\u12g4"', r'"\U0041"', '"\\', '"', '"\x01"', '"\x1f"', '"\t"',
    "'a'", '"a" "b"', '"a\\"', '"\0"',
]  # fmt: skip
NUMBERS = [
    "0", "-0", "1", "-1", "1.5", "1e5", "1E+5", "1e-5", "1e999999", "-1e999999", "9" * 400, "0." + "1" * 3000,
    "9" * 6000, "18446744073709551616", "1e" + "9" * 50, "01", "-01", "00", "1.", ".5", "+1", "-", "--1",
    "1e", "1e+",
    "0x1", "1_0", "1f", "NaN", "-NaN", "Infinity", "-Infinity", "inf", "1.e5", "1.5.5", "1-1", "0e0",
    "-0.0e-0", "1a",
]  # fmt: skip
OTHERS = [
    "true", "false", "null", "True", "nul", "nullx", "tru", "undefined", "[]", "{}", "[1,]", "[,1]",
    "[1 2]", "[1,2",
    "1]", '{"a":1,}', '{"a" 1}', '{"a"}', "{a:1}", '{1:1}', '{"a":1 "b":2}', '{"a":1,"a":2}', '{"":1}',
    "{}}", "{{}",
    "[[]]", "[[[", "/**/1", "1//", "", " 1 ", "\v1", "\f1", "\u00a01", "\ufeff1", "\r1\t",
    "[" * 511 + "]" * 511, "[" * 2000 + "]" * 2000, '{"a":' * 400 + "1" + "}" * 400,
]  # fmt: skip
VALUES = [*STRINGS, *NUMBERS, *OTHERS]


def lines() -> Iterator[bytes]:
    """Yield each odd value alone, as a member, as id, as time and as key; then thousands of damaged lines."""
    for value in VALUES:
        for frame in (
            "%s",
            '{"x":%s}',
            '{"x":[0,%s,1]}',
            '{"$unique_id":%s}',
            '{"$time":%s}',
            "{%s:1}",
            "{}%s",
            "%s{}",
        ):
            yield (frame % value).encode()
    for raw in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80", b"\xf0\x9f\x98"):
        yield b'{"x":"%b"}' % raw
        yield b'{"%b":1}' % raw
        yield b"{}" + raw
    draw = random.Random(4)  # the same lines on every run
    whole = '{"$unique_id":"a\\u0041","$time":1.5e3,"x":[{"y":null},-0.25,"\\ud83d\\ude00 \\n é"],"z":true}'
    for _ in range(6000):
        characters = list(whole)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(characters))
            characters[at] = draw.choice(["", draw.choice('{}[]":,\\0159.eE+-u \t\r\x0b\x00'), characters[at] * 2])
        yield "".join(characters).encode()


def is_json(cursor: psycopg2.extensions.cursor, line: bytes) -> bool:
    """Ask Postgres. What cannot be sent to it as text cannot be stored either."""
    try:
        text = line.decode()
        cursor.execute("SELECT %s::json IS NOT NULL", (text,))
    except (UnicodeDecodeError, ValueError, psycopg2.DataError):
        return False
    return True


def test_the_decoder_and_the_type_json_agree_on_every_line(database_url: str) -> None:
    connection = psycopg2.connect(database_url)
    try:
        connection.autocommit = True
        taken = refused = 0
        with connection.cursor() as cursor:
            for line in lines():
                decoded = DECODER.decode(Block(100, line), 0)
                if decoded.blank:
                    continue
                stored = is_json(cursor, line)
                if decoded.events:
                    taken += 1
                    assert stored, line
                elif decoded.rejects[0].code not in STRICTER:
                    refused += 1
                    assert not stored, line
                elif decoded.rejects[0].code is not RejectCode.TOO_DEEP:
                    # Our own rules are asked of valid JSON only.
                    assert stored, line
    finally:
        connection.close()

    assert taken > 500
    assert refused > 1000
