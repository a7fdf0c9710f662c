"""What leases of plans and of chunks share."""

from __future__ import annotations

from datetime import datetime

from common.ledger.database import Tx
from common.ledger.queries import load_queries

_SQL = load_queries("leases")


def end_holder(tx: Tx, pid: int | None, started: datetime | None) -> None:
    """End the backend of a lease's former holder, if there was one and it still lives."""
    if pid is not None:
        tx.run(_SQL["end_holder"], pid=pid, started=started)


def end_expired_holders(tx: Tx) -> int:
    """End the backends that hold chunks or plans beyond their lease, and return how many they were."""
    return len(tx.all(_SQL["end_expired_holders"]))


def is_work_waiting(tx: Tx, *, window: int, long: bool) -> bool:
    """Return whether some plan or chunk is due that nobody holds: work for whichever worker hears of it first.

    ``long``: whether some long chunk is, which is work for walkers.
    """
    return bool(tx.one(_SQL["is_work_waiting"], window=window, long=long).waiting)


def count_due(tx: Tx, *, window: int, long: bool) -> int:
    """Return how many plans and chunks, or how many long chunks, are due and held by nobody alive.

    Each should have a message in its queue.
    """
    return int(tx.one(_SQL["count_due"], window=window, long=long).due)


def is_walked(tx: Tx) -> bool:
    """Return whether a walker is at work on any long chunk."""
    return bool(tx.one(_SQL["is_walked"]).walked)
