"""How often a key was shown that opens nothing: above a limit Postgres is no longer asked.

Own code and not the ``limits`` library: that keeps a Redis key for each counter, as many as strangers care to make,
and this Redis is the queue too. Here one hash has all counts, of a bounded number of names, and ends a minute after
its first. Nobody can guess 256 bits: the limit keeps floods off Postgres, so where it knows nothing it refuses nobody.

Keys that opened are marked, each by a Redis key of its own: only who has a right key can make one, so that there are
two for each live key at most, one for each way to show it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from importlib.resources import files
from typing import cast

import redis

from common.live.connection import Live
from common.telemetry import get_logger

log = get_logger(__name__)

_KEY = "penstock:failures"
_OPENED = "penstock:opened:"
_SCRIPT = (files("common.live") / "lua" / "count_failures.lua").read_text()
_SECONDS = 60
#: Names that are counted in all: 1 MB when all are taken. Who finds no room is not limited: to refuse him would let
#: whoever fills the hash lock out everybody else.
_MOST_NAMES = 20_000
#: With so many, keys at addresses find no room any more: one address can name a hundred, and 256 networks of IPv6
#: filled the hash with them, after which nobody new was limited. So half of the room takes 10,000 addresses.
_MOST_NAMES_FOR_KEYS = 10_000
#: How much more than an address a site of IPv6 may have, its /48: a provider gives it away with 65,536 networks, which
#: are as many addresses here. Now ten sites or more are needed to fill the hash, within the minute.
_SITE = 10
#: How long a key that opened is spared the counts: the failures may be a neighbour's.
OPENED_SECONDS = 600


class Failures:
    """This minute's failures, by address, and by address and key; and whom they do not concern."""

    def __init__(self, live: Live, *, most: int) -> None:
        """Take how many an address may have; a tenth of it for one key at an address. 0 is no limit."""
        self._live = live
        self._most = most

    def seconds_to_wait(self, address: str, key_id: str | None, mark: str) -> int | None:
        """Return how long the caller has to wait, 0 where it may try now; None where Redis does not say.

        ``key_id`` is None where what was shown is no key of ours; ``mark`` is of all that was shown.
        """
        if not self._most:
            return 0
        limits = self._limits(address, key_id)
        return self._live.ask(lambda client: _seconds_to_wait(client, limits, mark), otherwise=None)

    def spare(self, mark: str) -> None:
        """Make nobody who shows this again wait, for ten minutes: it opened. May be lost.

        The mark stands in Redis, for every process to see: nothing may be learnt from it.
        """
        if self._most:
            self._live.ask(lambda client: client.set(_OPENED + mark, 1, ex=OPENED_SECONDS), otherwise=None)

    def count(self, address: str, key_id: str | None, mark: str) -> None:
        """Count a failure, and spare no longer what may have opened once. May be lost."""
        if not self._most:
            return
        limits = self._limits(address, key_id)
        nothing: list[int] = []
        counts = self._live.ask(lambda client: _count(client, limits, mark), otherwise=nothing)
        for name, count in zip(limits, counts, strict=False):
            if count == limits[name]:
                # Once a minute for each; an address alone, or with the id of the key, or a site.
                log.warning("too_many_failures", who=name, failures=count)

    def _limits(self, address: str, key_id: str | None) -> dict[str, int]:
        """Return the names that a failure is counted under, and the most failures of each."""
        network, site = _networks(address)
        one_key = {f"{network} {key_id}": max(self._most // 10, 1)} if key_id else {}
        return {network: self._most, **({site: self._most * _SITE} if site else {}), **one_key}


def _seconds_to_wait(client: redis.Redis, limits: dict[str, int], mark: str) -> int:
    with client.pipeline(transaction=True) as pipe:
        pipe.hmget(_KEY, list(limits))
        pipe.ttl(_KEY)
        pipe.exists(_OPENED + mark)
        counts, left, opened = pipe.execute()
    over = any(int(count or 0) >= most for count, most in zip(counts, limits.values(), strict=True))
    return max(left, 1) if over and not opened else 0


def _count(client: redis.Redis, names: Iterable[str], mark: str) -> list[int]:
    rooms = [part for name in names for part in (name, _MOST_NAMES_FOR_KEYS if " " in name else _MOST_NAMES)]
    return cast(list[int], client.register_script(_SCRIPT)(keys=[_KEY, _OPENED + mark], args=[_SECONDS, *rooms]))


def _networks(address: str) -> tuple[str, str | None]:
    """Return whom an address stands for, and the site it is of. Of IPv6 its /64: whoever has one has all of it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown", None  # a socket of the file system, say
    if isinstance(found, ipaddress.IPv4Address):
        return str(found), None
    if found.ipv4_mapped:
        return str(found.ipv4_mapped), None
    return str(ipaddress.IPv6Address(int(found) >> 64 << 64)), f"{ipaddress.IPv6Address(int(found) >> 80 << 80)}/48"
