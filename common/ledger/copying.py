"""Rows as Postgres's binary COPY wants them.

Binary and not text: nothing has to be escaped, so a payload's bytes go through untouched, and the server need not
parse ids, numbers and times out of digits again.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from operator import itemgetter
from typing import NamedTuple

from common.ledger.database import Tx
from common.model.events import Event
from common.model.rejects import Reject

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
#: Microseconds from 1970, where ours begin, to 2000, where those of Postgres do.
_EPOCH_2000 = 946_684_800_000_000
#: Bytes handed to libpq at a time. psycopg2's own 8 KiB made a call of Python for every 30 events.
_PIECE = 256 * 1024

# Each field is its length and its bytes; the payload's length ends the fixed part. Of an event's, what is the same in
# all of a chunk's rows is packed once: half as many arguments for each.
_EVENT = struct.Struct(">14s 16s 24s q iq i? i")
_pack_suspect = struct.Struct(">h i16s iq iq i? ii i").pack
_pack_reject = struct.Struct(">h iq iq iq iq i").pack
_id_of = itemgetter(0)


class Measure(NamedTuple):
    """Of some events: their bytes with a line break each, and the earliest and the latest time, as the events' own."""

    size: int
    first: int
    last: int


def encode_events(
    events: Iterable[Event], measured: list[Measure], *, collection_id: int, import_number: int, source_ordinal: int
) -> Iterator[bytes]:
    """Yield rows of ``events``, sorted by id, in pieces, and append the measure of each to ``measured``.

    Column by column, so that no line of Python runs for each row: 0.43 us a row with the cutting into pieces, against
    0.62 for a generator of rows.
    """
    ordered = sorted(events, key=_id_of)
    before_id = struct.pack(">h ii i", 8, 4, collection_id, 16)
    after_id = struct.pack(">iq ii i", 8, import_number, 4, source_ordinal, 8)
    since_2000 = (-_EPOCH_2000).__add__
    for part in _cut([event.payload for event in ordered]):
        ids, _, offsets, times, odd, payloads = zip(*ordered[part], strict=True)
        # fmt: off
        fixed = map(_EVENT.pack, repeat(before_id), ids, repeat(after_id), offsets,
                    repeat(8), map(since_2000, times), repeat(1), odd, map(len, payloads))
        # fmt: on
        piece = b"".join(chain.from_iterable(zip(fixed, payloads, strict=True)))
        # Here, where the columns are: 0.03 to 0.05 us an event beside 1.4 for its row.
        size = len(piece) - len(payloads) * (_EVENT.size - 1)
        measured.append(Measure(size, min(times), max(times)))
        yield piece


def _cut(payloads: Sequence[bytes]) -> Iterator[slice]:
    """Yield slices of events whose rows are a piece together; a longer row is a slice of its own."""
    ends = list(accumulate(map(_EVENT.size.__add__, map(len, payloads)), initial=0))
    first = 0
    while first < len(payloads):
        last = max(bisect_right(ends, ends[first] + _PIECE) - 1, first + 1)
        yield slice(first, last)
        first = last


def encode_suspects(suspects: Iterable[tuple[Event, int]]) -> Iterator[bytes]:
    """Yield rows of events, each with the number of its chunk's lines that have its id."""
    for event, lines in suspects:
        yield _pack_suspect(
            6, 16, event.event_id, 8, event.offset, 8, event.time - _EPOCH_2000, 1, event.odd, 4, lines,
            len(event.payload),
        ) + event.payload  # fmt: skip


def encode_rejects(rejects: Iterable[Reject], *, chunk_id: int) -> Iterator[bytes]:
    """Yield rows of ``rejects``."""
    for reject in rejects:
        code = reject.code.value.encode()
        head = _pack_reject(6, 8, chunk_id, 8, reject.line, 8, reject.offset, 8, reject.length, len(code))
        yield b"".join((head, code, struct.pack(">i", len(reject.body)), reject.body))


def in_pieces(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Yield rows joined to pieces: a call of the driver for each costs more than the row."""
    parts: list[bytes] = []
    length = 0
    for row in rows:
        parts.append(row)
        length += len(row)
        if length >= _PIECE:
            yield b"".join(parts)
            parts, length = [], 0
    yield b"".join(parts)


def copy_rows(tx: Tx, statement: str, pieces: Iterable[bytes], advance: Callable[[], None]) -> None:
    """Send rows by COPY, in pieces; ``advance`` is called before each.

    May block as long as another transaction holds a key of the rows. Raises what the server raises, and what
    ``advance`` raises.
    """
    file = _Pieces(chain((_HEADER,), filter(None, pieces), (_TRAILER,)), advance)
    try:
        tx.copy_in(statement, file, piece=_PIECE)
    except BaseException:
        # The driver ends the COPY and makes an error of its own of whatever reading raised, a SystemExit included.
        if file.failure:
            raise file.failure from None
        raise


class _Pieces:
    """A file of rows that are made as they are read, and that tells when: progress that renews a lease.

    The rows of a chunk are never whole in memory besides the events that they are made of.
    """

    def __init__(self, pieces: Iterable[bytes], advance: Callable[[], None]) -> None:
        self._pieces = iter(pieces)
        self._advance = advance
        self._rest = b""
        self.failure: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            self._advance()
            return self._take(size)
        except BaseException as error:
            self.failure = error
            raise

    def _take(self, size: int) -> bytes:
        piece = self._rest or next(self._pieces, b"")
        self._rest = piece[size:]  # of one that the driver takes whole neither slice is a copy
        return piece[:size]
