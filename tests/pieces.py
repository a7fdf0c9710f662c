"""A file whose bytes are made while it is read: objects that are larger than anybody wants to hold."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any


def open_pieces(pieces: Iterable[bytes]) -> io.BufferedReader:
    """Return a file of these pieces, one after another. A read gives all that was asked for, but at the end."""
    return io.BufferedReader(_Pieces(pieces))


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece:
            following = next(self._pieces, None)
            if following is None:
                return 0
            self._piece = memoryview(following)
        taken, self._piece = self._piece[: len(buffer)], self._piece[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
