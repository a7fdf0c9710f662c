"""The semaphore of slots: who stands in front of a project's full house is refused cheaply. It decides nothing.

A sorted set a project: its members are the imports that hold a slot, its scores the server's clock when they took it.
A "full" of it is confirmed in Postgres, a "free" only lets the caller ask there, and the sweep makes it equal to the
ledger. A slot ends with its import and never by time: a worker that dies neither frees nor leaks one, because its
import goes on.

Own code, two scripts of a few lines: the libraries of this field hand out random tokens, which leak with a lost answer,
or hold them by time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import cast

import redis

from common.live.connection import Live

_INDEX = "penstock:slots"
_TAKE = (files("common.live") / "lua" / "take_slot.lua").read_text()
_MATCH = (files("common.live") / "lua" / "match_slots.lua").read_text()


class Slots:
    """The slots of all projects."""

    def __init__(self, live: Live) -> None:
        """Take the way to Redis."""
        self._live = live

    def take(self, project_id: str, import_id: str, *, limit: int) -> bool:
        """Return whether the import may ask for admission; then it holds a slot here. True while Redis is away.

        Safe to run twice.
        """
        return self._live.ask(lambda client: _take(client, project_id, import_id, limit), otherwise=True)

    def give_back(self, project_id: str, import_id: str) -> None:
        """Free the slot of an import that has ended or was not admitted. May fail unseen: the sweep makes good."""
        self._live.ask(lambda client: client.zrem(_key(project_id), import_id), otherwise=0)

    def clock(self) -> float | None:
        """Return the server's clock, in seconds since 1970, or None while Redis is away."""
        return self._live.ask(_clock, otherwise=None)

    def match(self, held: Mapping[str, Iterable[str]], *, at: float) -> None:
        """Make all sets equal to the ledger, read after ``at``: project to the imports that hold its slots."""
        self._live.ask(lambda client: _match(client, held, at), otherwise=None)


def _take(client: redis.Redis, project_id: str, import_id: str, limit: int) -> bool:
    return bool(client.register_script(_TAKE)(keys=_keys(project_id), args=[project_id, import_id, limit]))


def _clock(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1_000_000


def _match(client: redis.Redis, held: Mapping[str, Iterable[str]], at: float) -> None:
    script = client.register_script(_MATCH)
    if client.type(_INDEX) not in (b"set", b"none"):
        client.delete(_INDEX)  # written by hand; nobody would be matched any more
    known = {member.decode() for member in cast(set[bytes], client.smembers(_INDEX))}
    for project_id in known | held.keys():
        script(keys=_keys(project_id), args=[project_id, repr(at), *held.get(project_id, ())])


def _keys(project_id: str) -> list[str]:
    return [_key(project_id), _INDEX]


def _key(project_id: str) -> str:
    return f"penstock:slots:{project_id}"
