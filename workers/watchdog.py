"""Tells a worker that has gone deaf: alive, connected, and consuming nothing while work waits.

Celery and kombu have had this in many forms, mostly after a reconnection to Redis; the process answers every ping. So
the rule looks at the truth and at nothing else: there is work that any worker could take, this one has a free process,
and it has started nothing for a while.
"""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """What is seen at one moment."""

    #: Seconds of a clock that never goes back.
    at: float
    #: Whether work waits that this worker could be told of: its rows say so and the broker answers.
    claimable: bool
    #: Whether a process of the pool has nothing to do.
    free: bool
    #: Tasks that the worker has started in its life.
    started: int


class Silence(NamedTuple):
    """A time in which there was work at every look and the worker, free to, started none of it."""

    since: Look
    last: Look


def listen(before: Silence | None, look: Look, *, patience: float) -> Silence | None:
    """Return the silence that a look continues or begins, or None where it ends one.

    A gap as long as the patience begins it anew: who was stopped for so long, or whose sweep had to be started again,
    has to be seen for a while before it is judged.
    """
    if not (look.claimable and look.free):
        return None
    if before and before.since.started == look.started and look.at - before.last.at < patience:
        return Silence(before.since, look)
    return Silence(look, look)


def is_deaf(silence: Silence | None, *, patience: float) -> bool:
    """Return whether the silence has lasted as long as is borne."""
    return silence is not None and silence.last.at - silence.since.at >= patience
