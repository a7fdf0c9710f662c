"""Rows as Postgres's binary COPY wants them.

Binary and not text: nothing has to be escaped, so a payload's bytes go through untouched, and the server need not
parse ids, numbers and times out of digits again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from common.ledger.database import Tx
from common.model.events import Event
from common.model.rejects import Reject

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
#: Microseconds from 1970, where ours begin, to 2000, where those of Postgres do.
_EPOCH_2000 = 946_684_800_000_000
#: Bytes handed to libpq at a time. psycopg2's own 8 KiB made a call of Python for every 30 events.
_PIECE = 256 * 1024

# Each field is its length and its bytes; the payload's length ends the fixed part.
_pack_event = struct.Struct(">h ii i16s iq ii iq iq i? i").pack
_pack_suspect = struct.Struct(">h i16s iq iq i? ii i").pack
_pack_reject = struct.Struct(">h iq iq iq iq i").pack


def encode_events(
    events: Iterable[Event], *, collection_id: int, import_number: int, source_ordinal: int
) -> Iterator[bytes]:
    """Yield rows of ``events``, in the order given."""
    for event_id, _, offset, time, odd, payload in events:
        yield _pack_event(
            8, 4, collection_id, 16, event_id, 8, import_number, 4, source_ordinal, 8, offset,
            8, time - _EPOCH_2000, 1, odd, len(payload),
        ) + payload  # fmt: skip


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


def copy_rows(tx: Tx, statement: str, rows: Iterable[bytes], advance: Callable[[], None]) -> None:
    """Send ``rows`` by COPY; ``advance`` is called before each piece.

    May block as long as another transaction holds a key of the rows. Raises what the server raises, and what
    ``advance`` raises.
    """
    pieces = _Pieces(chain((_HEADER,), rows, (_TRAILER,)), advance)
    try:
        tx.copy_in(statement, pieces, piece=_PIECE)
    except BaseException:
        # The driver ends the COPY and makes an error of its own of whatever reading raised, a SystemExit included.
        if pieces.failure:
            raise pieces.failure from None
        raise


class _Pieces:
    """A file of rows that are made as they are read, and that tells when: progress that renews a lease.

    The rows of a chunk are never whole in memory besides the events that they are made of.
    """

    def __init__(self, rows: Iterable[bytes], advance: Callable[[], None]) -> None:
        self._rows = iter(rows)
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
        parts, length = [self._rest], len(self._rest)
        while length < size and (row := next(self._rows, None)) is not None:
            parts.append(row)
            length += len(row)
        joined = b"".join(parts)  # a part of a row more than the driver takes: it goes first next time
        self._rest = joined[size:]
        return joined[:size]
