"""The claim on a chunk while it is loaded."""

from __future__ import annotations

import time

from common.ledger import chunks
from common.model.chunks import Chunk
from common.runtime import Runtime


class LeaseLostError(Exception):
    """The chunk is another's by now, or its import no longer runs: nothing of this attempt may stay."""


class Lease:
    """The claim on a chunk, lengthened as bytes advance and by nothing else: a stuck worker loses it."""

    def __init__(self, runtime: Runtime, chunk: Chunk) -> None:
        """Take a chunk just claimed."""
        self._runtime, self._chunk = runtime, chunk
        self._renew_at = self._next()

    def advance(self) -> None:
        """Note that bytes moved. Raises LeaseLostError where the chunk was taken over.

        Costs a glance at the clock, and once in a third of the lease a short transaction. That one has a connection
        of its own: the worker's may be in the middle of a COPY.
        """
        if time.monotonic() < self._renew_at:
            return
        settings, long = self._runtime.settings, self._chunk.long
        with self._runtime.database.aside() as tx:
            held = chunks.renew_lease(
                tx,
                self._chunk,
                lease_seconds=settings.lease_seconds,
                ceiling_seconds=settings.walk_ceiling_seconds if long else settings.lease_ceiling_seconds,
            )
        if not held:
            raise LeaseLostError
        self._renew_at = self._next()

    def _next(self) -> float:
        return time.monotonic() + self._runtime.settings.lease_seconds / 3
