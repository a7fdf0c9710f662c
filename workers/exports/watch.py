"""The claim on an export while it is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from common.errors import PenstockError
from common.ledger import exports
from common.ledger.exports import Snapshot
from common.model.exports import Attempt
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)

#: Seconds between two looks at the most: after so long a caller's cancel has reached the writer.
_LOOK_SECONDS = 1.0
#: Seconds for the thread to end; a Postgres that hangs must not hold up the worker.
_END_SECONDS = 5.0


class LeaseLostError(Exception):
    """The export is another's by now, or has ended: nothing of this attempt may stay."""


class Watch:
    """Lengthens the lease while the attempt gets on, writes its progress down, and ends its statement when it is lost.

    A thread: whoever writes is for minutes inside a statement that finds nothing, or waits for S3. It lives only while
    the process does, and what it tells Postgres is what has moved, so that neither a stopped process nor one that
    hangs keeps the lease. A context manager.
    """

    def __init__(self, runtime: Runtime, attempt: Attempt) -> None:
        """Take an attempt just claimed."""
        self._runtime, self._attempt = runtime, attempt
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._lost = threading.Event()
        self._done = threading.Event()
        self._bearing = False
        self._events = self._bytes = self._moves = self._moves_told = 0
        self._thread = threading.Thread(target=self._look_on, name="export-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(_END_SECONDS)

    def depends_on(self, snapshot: Snapshot) -> None:
        """Take what is to be ended with the lease."""
        self._snapshot = snapshot

    def moved(self) -> None:
        """Note that rows came or bytes left. From any thread; one that is lost in a race is made good by the next."""
        self._moves += 1

    def delivered(self, events: int, size: int) -> None:
        """Note that so many events, so many bytes, are in the bucket. From any thread."""
        with self._lock:
            self._events += events
            self._bytes += size
        self.moved()

    def goes_on(self) -> bool:
        """Note that something was done besides; return whether the lease is held."""
        self.moved()
        return not self._lost.is_set()

    @contextmanager
    def bears(self) -> Iterator[None]:
        """Take the attempt to get on while one request is out that ends by itself, however it ends."""
        self._bearing = True
        try:
            yield
        finally:
            self._bearing = False

    def check(self) -> None:
        """Raise LeaseLostError where the lease was lost or the export has ended."""
        if self._lost.is_set():
            raise LeaseLostError

    def _look_on(self) -> None:
        seconds = min(_LOOK_SECONDS, self._runtime.settings.lease_seconds / 5)
        try:
            while not self._done.wait(seconds):
                try:
                    self._look()
                except PenstockError as error:
                    log.warning("lease_not_renewed", error=str(error))  # Postgres is away: the next look may find it
        finally:
            self._runtime.database.close()  # this thread's own connection

    def _look(self) -> None:
        moves = self._moves
        with self._runtime.database.transaction() as tx:
            held = exports.renew_export(
                tx,
                self._attempt,
                lease_seconds=self._runtime.settings.lease_seconds,
                events_done=self._events,
                bytes_done=self._bytes,
                moved=self._bearing or moves != self._moves_told,
            )
            if not held:
                self._lost.set()
            if self._lost.is_set() and self._snapshot:
                exports.cancel_statement(tx, self._snapshot)  # at each look: it may not have begun at the last one
        self._moves_told = moves
