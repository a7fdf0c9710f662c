"""Rows as Postgres's binary COPY wants them.

Binary and not text: nothing has to be escaped, so a payload's bytes go through untouched, and the server need not
parse ids, numbers and times out of digits again.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable

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
) -> list[bytes]:
    """Return rows of ``events``, in the order given."""
    return [
        _pack_event(
            8, 4, collection_id, 16, event_id, 8, import_number, 4, source_ordinal, 8, offset,
            8, time - _EPOCH_2000, 1, odd, len(payload),
        )
        + payload
        for event_id, _, offset, time, odd, payload in events
    ]  # fmt: skip


def encode_suspects(suspects: Iterable[tuple[Event, int]]) -> list[bytes]:
    """Return rows of events, each with the number of its chunk's lines that have its id."""
    return [
        _pack_suspect(
            6, 16, event.event_id, 8, event.offset, 8, event.time - _EPOCH_2000, 1, event.odd, 4, lines,
            len(event.payload),
        )
        + event.payload
        for event, lines in suspects
    ]  # fmt: skip


def encode_rejects(rejects: Iterable[Reject], *, chunk_id: int) -> list[bytes]:
    """Return rows of ``rejects``."""
    rows = []
    for reject in rejects:
        code = reject.code.value.encode()
        head = _pack_reject(6, 8, chunk_id, 8, reject.line, 8, reject.offset, 8, reject.length, len(code))
        rows.append(b"".join((head, code, struct.pack(">i", len(reject.body)), reject.body)))
    return rows


def copy_rows(tx: Tx, statement: str, rows: list[bytes], advance: Callable[[], None]) -> None:
    """Send ``rows`` by COPY; ``advance`` is called with each piece that the server has taken.

    May block as long as another transaction holds a key of the rows. Raises what the server raises.
    """
    tx.copy_in(statement, _Pieces(b"".join((_HEADER, *rows, _TRAILER)), advance), piece=_PIECE)


class _Pieces(io.BytesIO):
    """A file of bytes that tells when it is read: progress that a lease may be renewed by."""

    def __init__(self, content: bytes, advance: Callable[[], None]) -> None:
        super().__init__(content)
        self._advance = advance

    def read(self, size: int | None = -1) -> bytes:
        self._advance()
        return super().read(size)
