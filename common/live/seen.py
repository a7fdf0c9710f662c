"""Which ids have been seen: marks that route a chunk's events, and decide nothing.

A mark is set before its event commits, on purpose: set afterwards, chunks that run side by side are blind to each
other (1 % repeated ids, two workers: half of all chunks were loaded twice, 108 k/s against 153 k/s).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import cast

import redis

from common.live.connection import Live

_TOTAL = "penstock:seen:total"
_INDEX = "penstock:seen:index"
_SCRIPT = (files("common.live") / "lua" / "mark_seen.lua").read_text()


class Seen:
    """The marks of all collections, bounded in number and in age."""

    def __init__(self, live: Live, *, most_ids: int, seconds: int) -> None:
        """Take the most marks that all collections may have together, and how long unused ones live."""
        self._live = live
        self._most_ids = most_ids
        self._seconds = seconds

    def mark(self, collection_id: int, ids: Sequence[bytes]) -> list[bool]:
        """Mark 16-byte ids and return for each whether it was marked before.

        Where Redis is away all of them are new: the unique key of the table catches what is not. Safe to run twice;
        the second time all are marked, which costs a look-up each.
        """
        if not ids:
            return []
        answer = self._live.ask(lambda client: self._run(client, collection_id, ids), otherwise=b"")
        return [flag == _MARKED for flag in answer] if len(answer) == len(ids) else [False] * len(ids)

    def _run(self, client: redis.Redis, collection_id: int, ids: Sequence[bytes]) -> bytes:
        keys = [f"penstock:seen:{collection_id}", _TOTAL, _INDEX]
        script = client.register_script(_SCRIPT)
        return bytes(script(keys=keys, args=[b"".join(ids), self._most_ids, self._seconds]))

    def trim(self) -> None:
        """Count the marks anew and forget the sets used longest ago until there is room again. The sweep's work."""
        self._live.ask(self._trim, otherwise=None)

    def _trim(self, client: redis.Redis) -> None:
        keys = cast(list[bytes], client.zrange(_INDEX, 0, -1))
        sizes = {key: int(client.scard(key)) for key in keys}
        total = sum(sizes.values())
        for key, size in sizes.items():
            # From nine tenths on: the room that is left is what chunks need until the next round.
            if size and total <= self._most_ids * 0.9:
                continue
            client.unlink(key)
            client.zrem(_INDEX, key)
            total -= size
        client.set(_TOTAL, total)


_MARKED = ord("1")
