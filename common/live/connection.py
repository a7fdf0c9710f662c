"""The one way to Redis, and what its silence means."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.telemetry import get_logger

log = get_logger(__name__)
T = TypeVar("T")

#: Seconds between two lines about a Redis that is away. One that refuses is asked on, several times a request.
_TOLD_FOR = 5.0


class Live:
    """A client for the calling process. Never raises for a Redis that is away: callers have a way without it."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """Take a Redis URL. Nothing is opened before the first question."""
        self._url = url
        self._timeout = timeout_seconds
        self._client: tuple[int, redis.Redis] | None = None
        self._ask_again_at = 0.0
        self._tell_again_at = 0.0

    def ask(self, question: Callable[[redis.Redis], T], *, otherwise: T) -> T:
        """Return what ``question`` finds, or ``otherwise`` where Redis is away, loading or full.

        Blocks for the timeout at most, and for as long afterwards a Redis that hangs is not asked: a request has
        several questions, and would wait for each.
        """
        if time.monotonic() < self._ask_again_at:
            return otherwise
        try:
            return question(self._connected())
        except redis.RedisError as error:
            if isinstance(error, redis.TimeoutError):
                self._ask_again_at = time.monotonic() + self._timeout
            self._tell(error)
            return otherwise

    def takes_writes(self) -> bool:
        """Return whether Redis takes a new key: one at its ``maxmemory``, or a replica, still answers every question.

        Tried and not asked for: the reasons to refuse are many (memory, a role, a disk that is full).
        """
        return self.ask(lambda client: bool(client.set("penstock:written", 1, ex=60)), otherwise=False)

    def _tell(self, error: redis.RedisError) -> None:
        now = time.monotonic()
        if now >= self._tell_again_at:
            self._tell_again_at = now + _TOLD_FOR
            # One that answers, and refuses: a key of another type, no memory, no right.
            refused = isinstance(error, redis.ResponseError)
            log.warning("redis_refused" if refused else "redis_away", error=type(error).__name__)

    def _connected(self) -> redis.Redis:
        # A process that forked opens its own connections.
        if self._client is None or self._client[0] != os.getpid():
            # No retries: a command whose answer was lost would run twice. A retried SADD was seen to answer
            # "already there" for an id that was new.
            client = redis.Redis.from_url(
                self._url,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                retry=Retry(NoBackoff(), 0),
            )
            self._client = (os.getpid(), client)
        return self._client[1]
