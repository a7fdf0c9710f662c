"""Rows go to COPY in pieces, whole and in order, whatever the rows' own sizes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ledger import copying
from common.ledger.copying import Measure, copy_rows, encode_events, in_pieces
from common.model.events import Event


class Taking:
    """Stands for the transaction: reads as the driver does, up to the first empty piece."""

    def __init__(self, piece: int) -> None:
        self.piece, self.pieces = piece, [b"x"]

    def copy_in(self, _statement: str, rows: object, *, piece: int) -> None:
        while self.pieces[-1]:
            self.pieces.append(rows.read(self.piece))  # type: ignore[attr-defined]


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(1, 60))
def test_nothing_is_lost_between_pieces(pieces: list[bytes], size: int) -> None:
    """An empty piece would be taken for the end."""
    advanced: list[int] = []
    tx = Taking(size)
    copy_rows(tx, "COPY", pieces, lambda: advanced.append(1))  # type: ignore[arg-type]

    sent = b"".join(tx.pieces[1:])
    assert sent == b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(pieces) + struct.pack(">h", -1)
    assert all(0 < len(found) <= size for found in tx.pieces[1:-1])
    assert len(advanced) == len(tx.pieces) - 1


def test_no_more_pieces_are_made_than_the_driver_has_read() -> None:
    made = []

    def pieces() -> object:
        for n in range(100):
            made.append(n)
            yield b"x" * 1000

    class First(Taking):
        def copy_in(self, _statement: str, rows: object, *, piece: int) -> None:
            for _ in range(5):
                rows.read(100)  # type: ignore[attr-defined]

    copy_rows(First(100), "COPY", pieces(), lambda: None)  # type: ignore[arg-type]
    assert len(made) == 1


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30))
def test_rows_are_joined_to_pieces_of_the_size_that_the_driver_takes(rows: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_PIECE", 64)
        joined = list(in_pieces(rows))

    assert b"".join(joined) == b"".join(rows)
    assert all(64 <= len(piece) < 64 + 50 for piece in joined[:-1])


events = st.builds(
    Event,
    st.binary(min_size=16, max_size=16),
    st.booleans(),
    st.integers(0, 2**63 - 1),
    # From the first microsecond of the year 1 to the last of 9999, as times are read.
    st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    st.booleans(),
    st.binary(max_size=400),
)


@given(st.lists(events, max_size=40, unique_by=lambda event: event.event_id), st.integers(1, 3000))
def test_events_are_the_rows_of_the_format_sorted_by_id(found: list[Event], piece: int) -> None:
    """Field by field as the manual of Postgres has it: number of fields, then each one's length and bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_PIECE", piece)
        measured: list[Measure] = []
        pieces = list(encode_events(found, measured, collection_id=7, import_number=2**40, source_ordinal=3))

    def row(event: Event) -> bytes:
        values = [
            struct.pack(">i", 7),
            event.event_id,
            struct.pack(">q", 2**40),
            struct.pack(">i", 3),
            struct.pack(">q", event.offset),
            struct.pack(">q", event.time - 946_684_800_000_000),
            bytes([event.odd]),
            event.payload,
        ]
        return struct.pack(">h", 8) + b"".join(struct.pack(">i", len(value)) + value for value in values)

    assert sum(one.size for one in measured) == len(b"".join(event.payload + b"\n" for event in found))
    assert {one.first for one in measured} | {one.last for one in measured} <= {event.time for event in found}
    assert min((one.first for one in measured), default=0) == min((event.time for event in found), default=0)
    assert max((one.last for one in measured), default=0) == max((event.time for event in found), default=0)
    rows = [row(event) for event in sorted(found, key=lambda event: event.event_id)]
    assert b"".join(pieces) == b"".join(rows)
    ends = {sum(map(len, rows[:n])) for n in range(len(rows) + 1)}
    sent = 0
    for one in pieces:
        sent += len(one)
        assert sent in ends, "a piece ends in the middle of a row"
        assert len(one) <= piece or one in rows, "a piece of several rows is too long"
