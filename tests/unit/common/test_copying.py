"""Rows go to COPY in pieces of the size asked for, whole and in order, whatever the rows' own sizes."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from common.ledger.copying import copy_rows


class Taking:
    """Stands for the transaction: reads as the driver does, up to the first empty piece."""

    def __init__(self, piece: int) -> None:
        self.piece, self.pieces = piece, [b"x"]

    def copy_in(self, _statement: str, rows: object, *, piece: int) -> None:
        while self.pieces[-1]:
            self.pieces.append(rows.read(self.piece))  # type: ignore[attr-defined]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30), st.integers(1, 60))
def test_nothing_is_lost_between_pieces(rows: list[bytes], piece: int) -> None:
    advanced: list[int] = []
    tx = Taking(piece)
    copy_rows(tx, "COPY", rows, lambda: advanced.append(1))  # type: ignore[arg-type]

    sent = b"".join(tx.pieces[1:])
    assert sent == b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(rows) + struct.pack(">h", -1)
    assert all(len(found) == piece for found in tx.pieces[1:-2])
    assert len(advanced) == len(tx.pieces) - 1


def test_no_more_rows_are_made_than_the_next_piece_needs() -> None:
    made = []

    def rows() -> object:
        for n in range(100):
            made.append(n)
            yield b"x" * 1000

    class First(Taking):
        def copy_in(self, _statement: str, rows: object, *, piece: int) -> None:
            for _ in range(5):
                rows.read(100)  # type: ignore[attr-defined]

    copy_rows(First(100), "COPY", rows(), lambda: None)  # type: ignore[arg-type]
    assert len(made) == 1
