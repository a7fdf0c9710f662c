"""Collections: found, made, listed and deleted. Their events are walked through in the order of their ids.

Whoever is about to insert a job of a collection, or events of no job, asks ``ensure`` or ``find`` in the same
transaction. Both hold the collection's row, and a deletion looks for jobs once it has that row for itself; so either
it sees the job, or whoever comes second finds the name free.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from common.errors import Refusal
from common.ledger.database import Database, Tx
from common.ledger.filtering import select_events
from common.ledger.indexes import build_index, drop_index
from common.ledger.queries import load_queries
from common.ledger.rows import hex_id
from common.model.collections import Collection, CollectionStatus, StoredEvent, unknown_collection
from common.model.query import EVERYTHING, Query

_SQL = load_queries("collections")

#: What a page of events asks for stands here.
_SELECTION = "/* selection */ true"
#: Rows that are fetched at a time, each of which may be as long as a line may be.
_FETCHED = 20
_NOWHERE = "00000000-0000-0000-0000-000000000000"
#: Events that one statement deletes. Nobody waits for what the sweep holds meanwhile.
_DELETED_AT_ONCE = 5_000


def ensure(tx: Tx, project_id: str, name: str, mapping: str) -> Collection:
    """Return the collection of a name, made now where there is none, and hold it until the transaction ends.

    ``mapping``, as JSON, becomes that of a collection that has none; the one returned counts. May block while somebody
    deletes the collection, or makes it: then this is another one, or the same.
    """
    held = find(tx, project_id, name)
    # Most have one, and those who only hold it do not wait for each other.
    if held and held.mapping is not None:
        return held
    return Collection(*tx.one(_SQL["ensure_collection"], project_id=project_id, name=name, mapping=mapping))


def find(tx: Tx, project_id: str, name: str, *, hold: bool = True) -> Collection | None:
    """Return the collection of a name, or None. Until the transaction ends nobody deletes it.

    Without ``hold``, for who only reads, it may be deleted meanwhile, and this never blocks.
    """
    if not can_be_stored(name):
        return None
    statement = _SQL["hold_collection"] if hold else _SQL["find_collection"]
    row = tx.one(statement, project_id=project_id, name=name)
    return Collection(*row) if row else None


def can_be_stored(name: str) -> bool:
    """Return whether a name out of an address can be one at all: no text of Postgres holds U+0000."""
    return "\0" not in name


def delete_collection(tx: Tx, project_id: str, name: str) -> int:
    """Take the name from a collection and return its number: from the commit on the name is free for another.

    The sweep deletes what it holds. May block while somebody is about to insert a job of it. Raises Refusal
    ``not_found``, and ``collection_in_use`` with the ids where an import or export of it is active.
    """
    row = tx.one(_SQL["lock_collection"], project_id=project_id, name=name) if can_be_stored(name) else None
    if row is None:
        raise unknown_collection(name)
    jobs = tx.all(_SQL["jobs_of_collection"], project_id=project_id, collection_id=row.id)
    if jobs:
        raise Refusal(
            "collection_in_use",
            f"The collection is in use: {len(jobs)} imports or exports of it are active. Wait for them to end, or "
            "cancel them.",
            activeImports=[hex_id(job.id) for job in jobs if job.kind == "import"],
            activeExports=[hex_id(job.id) for job in jobs if job.kind == "export"],
        )
    tx.run(_SQL["delete_collection"], collection_id=row.id)
    return int(row.id)


def list_collections(
    tx: Tx, project_id: str, *, after: str | None = None, names: Sequence[str] | None = None, limit: int
) -> tuple[list[CollectionStatus], str | None]:
    """Return a page of a project's collections by name, and the name to go on after, or None at the end.

    The numbers are those of one snapshot, in which they are exact but for the times (see ``Bulk``). ``names``: of
    those alone.
    """
    wanted = None if names is None else [*filter(can_be_stored, names)]
    rows = tx.all(_SQL["list_collections"], project_id=project_id, after=after, names=wanted, limit=limit)
    found = [
        CollectionStatus(row.name, row.created_at, row.events, row.bytes, row.first_time, row.last_time, row.time_index)
        for row in rows[:limit]
    ]
    return found, found[-1].name if len(rows) > limit else None


def read_clock(tx: Tx) -> datetime:
    """Return the database's time, at which the transaction began."""
    now: datetime = tx.one(_SQL["read_clock"]).now
    return now


def read_events(
    tx: Tx,
    collection_id: int,
    query: Query,
    *,
    after: str | None = None,
    limit: int,
    most_bytes: int,
    most_looks: int,
) -> tuple[list[StoredEvent], str | None]:
    """Return a page of the events that a query asks for, by id, and the id to go on after, or None at the end.

    A page has at most ``limit`` events; it ends early with the one that fills ``most_bytes`` (so it has one, however
    long), and where so many events were looked at that few of a large collection match: perhaps with none at all.
    """
    selection = select_events(collection_id, query)
    place = {"collection_id": collection_id, "after": after or _NOWHERE}
    tx.run(_SQL["walk_by_key"])
    last = tx.one(_SQL["last_of_walk"], **place, most=most_looks) if query != EVERYTHING else None
    upto = last.event_id if last else None
    statement = _SQL["read_events"].replace(_SELECTION, selection.where)
    tx.run(f"DECLARE page NO SCROLL CURSOR FOR {statement}", **place, **selection.values, upto=upto)
    found: list[StoredEvent] = []
    size = 0
    while rows := tx.all(f"FETCH {_FETCHED} FROM page"):
        for row in rows:
            payload = row.payload.encode()
            if selection.judges_odd and row.odd and not query.matches(payload):
                continue
            if len(found) == limit or size >= most_bytes:
                return found, found[-1].id
            found.append(StoredEvent(row.event_id, row.time, payload))
            size += len(payload)
    return found, upto


def find_event(tx: Tx, collection_id: int, event_id: bytes) -> StoredEvent | None:
    """Return the event of a collection that has this id of 16 bytes; None where there is none."""
    row = tx.one(_SQL["find_event"], collection_id=collection_id, event_id=str(UUID(bytes=event_id)))
    return _event(row) if row else None


def delete_event(tx: Tx, collection_id: int, event_id: bytes) -> StoredEvent | None:
    """Delete an event, and return it; None where there was none. The ledger is told by ``pushes.note_deletion``.

    Blocks while a transaction that has taken its place is under way.
    """
    row = tx.one(_SQL["delete_event"], collection_id=collection_id, event_id=str(UUID(bytes=event_id)))
    return _event(row) if row else None


def _event(row: Any) -> StoredEvent:
    return StoredEvent(row.event_id, row.time, row.payload.encode())


def collections_to_empty(tx: Tx) -> list[int]:
    """Return the numbers of deleted collections that may still hold events."""
    return [row.id for row in tx.all(_SQL["collections_to_empty"])]


def empty_collection(tx: Tx, collection_id: int) -> int:
    """Delete some thousand events of a deleted collection; return how many, none once it is empty. Safe to run twice.

    Every call goes on where the last one committed.
    """
    tx.run(_SQL["walk_by_key"])
    row = tx.one(_SQL["empty_collection"], collection_id=collection_id, most=_DELETED_AT_ONCE)
    return int(row.count) if row else 0


def note_emptied(tx: Tx, collection_id: int) -> None:
    """Note that nothing of a deleted collection is left to be deleted."""
    tx.run(_SQL["note_emptied"], collection_id=collection_id)


def index_time(database: Database, project_id: str, name: str, *, drop: bool = False) -> None:
    """Give a collection an index of its own on times, or take it from it. Safe to run twice.

    Blocks until everybody has ended who was at work on the table: exports too. Raises Refusal ``not_found``.
    """
    found = _find(database, project_id, name)
    if not drop:
        build_index(database, _SQL["create_time_index"], collection_id=found.id)
    with database.transaction() as tx:
        still = find(tx, project_id, name, hold=False)
    # Deleted meanwhile: the sweep may have looked for the index before it was there.
    if drop or still != found:
        drop_time_index(database, found.id)


def _find(database: Database, project_id: str, name: str) -> Collection:
    with database.transaction() as tx:
        found = find(tx, project_id, name, hold=False)
    if found is None:
        raise unknown_collection(name)
    return found


def drop_time_index(database: Database, collection_id: int, *, patience: float = 0) -> None:
    """Take a collection's own index on times from it, if it has one. Blocks, and raises, as ``drop_index`` does."""
    drop_index(database, _SQL["drop_time_index"], patience=patience, collection_id=collection_id)
