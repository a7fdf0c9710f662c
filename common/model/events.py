"""An event as it is stored, and the 16 bytes that name it inside its collection.

Ids come from three places that must never meet: the UUID a line holds, any other id a line holds, and the
position of a line that holds none. The two top bits of byte 8 keep them apart; in a UUID that is where RFC
9562 keeps its variant, and every UUID of the RFC has ``10`` there:

====  =====================================================================================================
bits  the id is
====  =====================================================================================================
10    a UUID in canonical form (lower case, 8-4-4-4-12, variant ``10``), as it is
11    a keyed hash of any other id string, or of an integer
0x    derived from (import number, source ordinal, byte offset), so that a chunk loaded twice makes it twice; or, with
      an import number that is never drawn, the moment that names the line
====  =====================================================================================================

Two strings are the same id only if they are equal: an upper-case UUID is another id than the lower-case one,
and is hashed. So is a UUID of another variant. The integer 1 and the string "1" are two ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

#: The longest id taken: bytes of UTF-8, or digits of an integer. Longer ones are mistakes (a whole document
#: in the id's place), and Python refuses to print integers of more than 4,300 digits.
MAX_ID_BYTES = 512

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
#: Maps each byte to itself with the two top bits set. 126 bits of the hash remain: among 10**12 ids of one
#: collection the chance that any two collide is 6 in 10**15, against 1.5 in 10**15 for all 128.
_SET_TOP_BITS = bytes(byte | 0xC0 for byte in range(256))


class Event(NamedTuple):
    """A line we take."""

    #: 16 bytes; see above.
    event_id: bytes
    #: Whether the id came from the line; else it is derived.
    has_id: bool
    #: Of the line's first byte in the source.
    offset: int
    #: Microseconds since 1970-01-01 UTC.
    time: int
    #: Whether the line has the text ``\\u0000``, on which every json operator of Postgres fails. True now and
    #: then for a line where it is an escaped backslash before "u0000".
    odd: bool
    #: The line's own bytes, without line end.
    payload: bytes


class Identity:
    """Makes ids of what lines hold. ``key`` (16 to 64 bytes) is drawn once per database and never changes."""

    def __init__(self, key: bytes) -> None:
        """Take the hash key; ValueError if it is shorter than 16 bytes or longer than 64."""
        if len(key) < 16:
            raise ValueError("the hash key must have 16 bytes or more")
        # ``person`` is BLAKE2's own separation of domains: it keeps 1 and "1" apart without a prefix to copy.
        self._strings = blake2b(key=key, digest_size=16, person=b"string")
        self._integers = blake2b(key=key, digest_size=16, person=b"integer")
        self._places = blake2b(key=key, digest_size=16, person=b"place")

    def of_string(self, text: str) -> bytes:
        """Return the id of a string: itself if it is a canonical UUID, else its hash.

        UnicodeEncodeError if the string holds half of a surrogate pair.
        """
        if len(text) == 36 and _CANONICAL_UUID.fullmatch(text):
            return bytes.fromhex(text.replace("-", ""))
        return self._hashed(self._strings, text.encode())

    def of_integer(self, number: int) -> bytes:
        """Return the id of an integer: the hash of its JSON text (of -0 that is "0").

        ValueError beyond the 4,300 digits that Python prints.
        """
        return self._hashed(self._integers, str(number).encode())

    def of_digits(self, number: int) -> bytes:
        """Return the id of the string of an integer's digits. ValueError as of ``of_integer``."""
        return self.of_string(str(number))

    @staticmethod
    def _hashed(hasher: blake2b, content: bytes) -> bytes:
        # A copy skips parsing the arguments and the key: 0.29 us an id against 0.50.
        hasher = hasher.copy()
        hasher.update(content)
        digest = hasher.digest()
        return b"%b%c%b" % (digest[:8], _SET_TOP_BITS[digest[8]], digest[9:])

    def of_place(self, derived: bytes) -> UUID:
        """Return a UUID (version 8) for the line that has this derived id: its id once the line says so itself."""
        digest = bytearray(self._hashed(self._places, derived))
        # By hand: Python's own takes no version above 5 before 3.14.
        digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
        return UUID(bytes=bytes(digest))

    def of_strings(self, texts: Sequence[str]) -> list[bytes]:
        """Return ``[of_string(text) for text in texts]``, sooner."""
        packed = _canonical_uuids(texts)
        if packed is None:
            if not {36}.isdisjoint(map(len, texts)):  # some may be UUIDs
                return [self.of_string(text) for text in texts]
            packed = self._hashes(texts)
        return [packed[at : at + 16] for at in range(0, len(packed), 16)]

    def _hashes(self, texts: Sequence[str]) -> bytes:
        """Return the hashes of strings, end to end. Their bits are set all at once: 0.2 us an id less."""
        digests = bytearray()
        copy = self._strings.copy
        for text in texts:
            hasher = copy()
            hasher.update(text.encode())
            digests += hasher.digest()
        digests[8::16] = digests[8::16].translate(_SET_TOP_BITS)
        return bytes(digests)


def _canonical_uuids(texts: Sequence[str]) -> bytes | None:
    """Return the 16 bytes of each string, end to end, if all are canonical UUIDs; else None.

    Looks at the columns of all strings at once: 0.1 us an id, where a pattern and ``fromhex`` for each take
    0.5. With one string to 37 bytes, a newline included, every dash and newline must stand in its column;
    once they are taken out, 32 lower-case hex digits must be left of each string. So each string is 36
    characters long, and none holds a newline of its own.
    """
    joined = "\n".join(texts)
    count = len(texts)
    if len(joined) != 37 * count - 1 or not joined.isascii():
        return None
    table = joined.encode()
    dashes = b"-" * count
    if not (table[8::37] == table[13::37] == table[18::37] == table[23::37] == dashes):
        return None
    if table[36::37] != b"\n" * (count - 1) or table[19::37].strip(b"89ab"):
        return None
    digits = table.translate(None, b"-\n")
    if len(digits) != 32 * count or digits.translate(None, b"0123456789abcdef"):
        return None
    return bytes.fromhex(digits.decode())


def derived_id(import_number: int, source_ordinal: int, offset: int) -> bytes:
    """Return the id of a line that holds none.

    ``import_number`` has 48 bits, ``source_ordinal`` 23, ``offset`` (bytes) 56; OverflowError beyond. Ids
    sort as the three numbers do, so that the rows of a chunk meet the unique index in its own order.
    """
    return derived_prefix(import_number, source_ordinal) + offset.to_bytes(7, "big")


def derived_prefix(import_number: int, source_ordinal: int) -> bytes:
    """Return the first 9 bytes of the derived ids of a source: all but the offset; OverflowError as above."""
    if source_ordinal >= 1 << 23:
        raise OverflowError("source_ordinal has 23 bits")
    # The ordinal lies across the top bit of byte 8, which stays 0: 16 bits before it, 7 bits after.
    high, low = divmod(source_ordinal, 1 << 7)
    return import_number.to_bytes(6, "big") + high.to_bytes(2, "big") + bytes((low,))


#: The last of 48 bits: no import has it.
_OF_TIMES = b"\xff" * 6
#: Microseconds from the year 1, before which no time is, to 1970.
_TIMES_FROM = 62_135_596_800_000_000


def time_id(time: int) -> bytes:
    """Return the id of a line that its moment names: ``time`` in microseconds since 1970, of the years 1 to 9999.

    Exact, and ids sort as the moments do: a page in the order of ids is one in that of times, and a timeframe is a
    range of the unique key.
    """
    return _OF_TIMES + (time + _TIMES_FROM).to_bytes(10, "big")
