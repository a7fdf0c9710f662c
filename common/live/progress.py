"""How far an import is, as of its last committed chunk: read by every poll, rebuilt from the ledger at will.

A hash an import. A field a committed chunk, holding absolute values: a command that is run twice changes nothing.
One more field, the mark, is written when the hash was built from the ledger; a hash without it, or with fewer chunks
than the ledger has, has lost something (Redis was emptied or away while workers went on) and is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from typing import Any, cast

import redis

from common.live.connection import Live
from common.model.chunks import Counts, Entry
from common.model.imports import Progress, sum_progress

_MARK = b"built"
#: Seconds that a hash outlives its last change.
_LIFE = 3600


class ProgressBoard:
    """The progress of running imports."""

    def __init__(self, live: Live) -> None:
        """Take the way to Redis."""
        self._live = live

    def write(self, import_id: str, entry: Entry) -> None:
        """Write what a chunk committed. May fail unseen, and may run twice: the sweep rebuilds."""
        self._live.ask(lambda client: self._set(client, import_id, {_field(entry): _value(entry)}), otherwise=None)

    def build(self, import_id: str, entries: Iterable[Entry]) -> None:
        """Write all entries of the ledger, and the mark that says so."""
        fields = {_field(entry): _value(entry) for entry in entries}
        self._live.ask(lambda client: self._set(client, import_id, {**fields, _MARK: b"1"}), otherwise=None)

    def read(self, import_id: str, *, chunks_done: int, now_ms: int) -> Progress | None:
        """Return the progress at ``now_ms`` by the database's clock; None where it is not to be believed.

        ``chunks_done`` is what the ledger knows: a hash with fewer has missed some, and percent must not fall.
        """
        fields = self._live.ask(lambda client: _fields(client, import_id), otherwise=None)
        if not fields or fields.pop(_MARK, None) is None or len(fields) < chunks_done:
            return None
        return sum_progress((_entry(number, value) for number, value in fields.items()), now_ms=now_ms)

    def size(self, import_id: str) -> int | None:
        """Return how many chunks the hash knows, -1 where it has lost its mark, or None while Redis does not say."""
        return self._live.ask(lambda client: self._size(client, import_id), otherwise=None)

    def forget(self, import_id: str) -> None:
        """Drop the hash of an import that has ended: from then on its row tells."""
        self._live.ask(lambda client: client.delete(_key(import_id)), otherwise=0)

    @staticmethod
    def _size(client: redis.Redis, import_id: str) -> int:
        return int(client.hlen(_key(import_id))) - 1 if client.hexists(_key(import_id), _MARK.decode()) else -1

    @staticmethod
    def _set(client: redis.Redis, import_id: str, fields: dict[bytes, bytes]) -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.hset(_key(import_id), mapping=cast(Any, fields))
            pipe.expire(_key(import_id), _LIFE)
            pipe.execute()


def _fields(client: redis.Redis, import_id: str) -> dict[bytes, bytes]:
    return cast(dict[bytes, bytes], client.hgetall(_key(import_id)))


def _key(import_id: str) -> str:
    return f"penstock:progress:{import_id}"


def _field(entry: Entry) -> bytes:
    return b"%d" % entry.number


def _value(entry: Entry) -> bytes:
    values = (entry.bytes, entry.done_ms, *astuple(entry.counts))
    return b" ".join(b"%d" % value for value in values)


def _entry(number: bytes, value: bytes) -> Entry:
    size, done_ms, *counts = map(int, value.split())
    return Entry(int(number), size, Counts(*counts), done_ms)
