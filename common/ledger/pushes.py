"""Events that are pushed: stored by the same key as those of imports, each with a receipt that the sweep folds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.model.events import Event
from common.model.mapping import OnDuplicate
from common.model.pushes import Push, Receipt, Stored
from common.model.times import as_datetime

_SQL = load_queries("pushes")
_EVENTS = load_queries("events")

#: Rows of one collection from which on they are folded. Summing as many for each collection of a page costs nothing
#: that could be seen beside the chunks of its imports.
_CROWD = 16


def begin_push(tx: Tx) -> tuple[int, datetime]:
    """Return a number among those of the imports, and when the transaction began, by the clock of the database."""
    row = tx.one(_SQL["begin_push"])
    return row.number, row.at


def store_pushed(tx: Tx, push: Push, events: Sequence[Event]) -> Stored:
    """Store events whose ids all differ, and return which of them were stored.

    Where the collection keeps, whose id is stored stays; where it replaces, whose number is larger. May block on keys
    that a transaction under way has inserted. Raises Deadlock, Transient.
    """
    if not events:
        return Stored(frozenset(), {})
    if push.on_duplicate is OnDuplicate.KEEP:
        return Stored(_ids(tx.all(_SQL["keep_pushed"], **_rows(push, events))), {})
    fresh = _ids(tx.all(_SQL["insert_or_lock_pushed"], **_rows(push, events)))
    others = [event for event in events if event.event_id not in fresh]
    if not others:
        return Stored(fresh, {})
    tx.run(_EVENTS["plan_by_key"])
    rows = tx.all(_SQL["replace_pushed"], **_rows(push, others))
    return Stored(fresh, {UUID(row.event_id).bytes: row.former_bytes for row in rows})


def note_deletion(tx: Tx, push: Push, *, events: int, size: int) -> None:
    """Write how many events are gone, and their bytes with a line break each.

    To be called in the transaction that deletes them.
    """
    values = {"project_id": push.project_id, "collection_id": push.collection_id, "api_key_id": push.api_key_id}
    tx.run(_SQL["note_deletion"], number=push.number, events=events, bytes=size, **values)


def note_push(tx: Tx, push: Push, receipt: Receipt) -> None:
    """Write the receipt. To be called in the transaction that stores the events."""
    tx.run(
        _SQL["insert_push"],
        number=push.number,
        project_id=push.project_id,
        collection_id=push.collection_id,
        api_key_id=push.api_key_id,
        events=receipt.events,
        replaced=receipt.replaced,
        duplicates=receipt.duplicates,
        bytes=receipt.bulk.size,
        first_time=receipt.bulk.first,
        last_time=receipt.bulk.last,
    )


def fold_pushes(tx: Tx) -> int:
    """Put one row in the place of a collection's, where it has many; return how many were folded. Safe to run twice."""
    return tx.run(_SQL["fold_pushes"], most=_CROWD)


def _rows(push: Push, events: Sequence[Event]) -> dict[str, Any]:
    """Return events, column by column."""
    return {
        "collection_id": push.collection_id,
        "number": push.number,
        "ids": [event.event_id.hex() for event in events],
        "places": [event.offset for event in events],
        "times": [as_datetime(event.time) for event in events],
        "odd": [event.odd for event in events],
        "payloads": [event.payload.decode() for event in events],
    }


def _ids(rows: Sequence[Any]) -> frozenset[bytes]:
    return frozenset(UUID(row.event_id).bytes for row in rows)
