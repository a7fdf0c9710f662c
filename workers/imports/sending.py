"""Tell the workers what has its turn. A message that does not go costs time only: the sweep sends again."""

from __future__ import annotations

from collections.abc import Sequence

from common.runtime import Runtime


def send(runtime: Runtime, now: Sequence[int], long: Sequence[int] = (), *, first: bool = False) -> None:
    """Send chunks, and such as have the queue of long ones; ``first`` where an import begins with them."""
    for number, chunk_id in enumerate(now):
        runtime.dispatch.load_chunk(chunk_id, first=first and number == 0)
    for chunk_id in long:
        runtime.dispatch.load_chunk(chunk_id, long=True)
