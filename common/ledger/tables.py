"""Tables: collections whose events are rows, with columns that their imports and pushes have agreed on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from common.errors import Refusal
from common.ledger import collections
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.ledger.rows import check_page, columns_json, columns_of, mapping_of, remembered_json
from common.model.collections import StoredEvent
from common.model.columns import Columns, agree
from common.model.events import time_id
from common.model.mapping import Mapping

_SQL = load_queries("tables")
_COLLECTIONS = load_queries("collections")

#: Rows that are fetched at a time, and bytes of all rows of a page.
_FETCHED, _PAGE_BYTES = 100, 32 * 1024 * 1024
#: A place behind every row.
_FAR = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Description(NamedTuple):
    """What the ledger knows of a table beyond what it knows of every collection."""

    #: The collection's number.
    id: int
    #: None where nothing was imported since collections have any.
    mapping: Mapping | None
    #: None where no import or push of a table has come.
    columns: Columns | None
    #: When the latest import or push into it ended.
    changed_at: datetime | None


class Stretch(NamedTuple):
    """Rows next to each other in the unique key, its ends within; those of a timeframe where it has one."""

    low: str = str(UUID(int=0))
    high: str = str(UUID(int=2**128 - 1))
    since: datetime | None = None
    until: datetime | None = None


def agree_columns(tx: Tx, collection_id: int, *, declared: Columns, found: Columns) -> tuple[Columns, Mapping]:
    """Return the columns of a table and its collection's mapping, after what an import or a push says of them.

    ``declared`` by whoever brings rows, ``found`` in the first of them. Both are written where they change, and nothing
    is while nobody knows a column. The caller holds the collection. May block while another transaction changes the
    columns of the same table. Raises ColumnsFault.
    """
    row = tx.one(_SQL["read_columns"], collection_id=collection_id)
    columns, mapping = _agree(row, declared, found)
    # Most imports and pushes bring nothing new, and those do not wait for each other.
    if _changes(row, columns, mapping):
        row = tx.one(_SQL["lock_columns"], collection_id=collection_id)
        columns, mapping = _agree(row, declared, found)
        told = {"columns": columns_json(columns), "mapping": remembered_json(mapping)}
        tx.run(_SQL["write_columns"], collection_id=collection_id, **told)
    return columns, mapping


def _agree(row: Any, declared: Columns, found: Columns) -> tuple[Columns, Mapping]:
    return agree(mapping_of(row.mapping), columns_of(row.columns), declared, found)


def _changes(row: Any, columns: Columns, mapping: Mapping) -> bool:
    """Tell whether a table has something to be written. That it has no columns is not: no row has come yet."""
    return mapping != mapping_of(row.mapping) or columns != (columns_of(row.columns) or ())


def count_tables(tx: Tx, project_id: str) -> int:
    """Return how many collections the project has."""
    return int(tx.one(_SQL["count_tables"], project_id=project_id).total)


def page_tables(tx: Tx, project_id: str, *, containing: str | None, page: int, size: int) -> tuple[list[str], int]:
    """Return the names of a page, in their order, and how many there are on all pages.

    ``containing``: of those that contain a text, in letters of any case.
    """
    if containing is not None and not collections.can_be_stored(containing):
        return [], 0
    place = {"offset": min(page * size, _FAR), "size": size}
    row = tx.one(_SQL["page_tables"], project_id=project_id, containing=containing, **place)
    return row.names, row.total


def describe_tables(tx: Tx, project_id: str, names: Sequence[str]) -> dict[str, Description]:
    """Return what is known of tables, by their names.

    Raises Refusal ``page_too_large`` where what is known of their columns is too much to be told at once.
    """
    if len(names) > 1:
        check_page(tx.one(_SQL["size_of_tables_columns"], project_id=project_id, names=[*names]).bytes)
    rows = tx.all(_SQL["describe_tables"], project_id=project_id, names=[*names])
    return {
        row.name: Description(
            row.id, mapping_of(row.mapping) if row.mapping else None, columns_of(row.columns), row.changed_at
        )
        for row in rows
    }


def keep_snapshot(tx: Tx) -> None:
    """Have the transaction see one moment, whatever it reads. To be called first; it can write nothing."""
    tx.run(_SQL["one_snapshot"])


def stretches_of(since: datetime | None, until: datetime | None) -> tuple[Stretch, ...]:
    """Return where the rows of a timeframe are, in the order of the key. A row is in it whose event's time is.

    The rows that their times name are a range of the key. Others are not, and lie before or behind all of those: all
    rows of a table that has a key, and in any table those that came through other doors, or before it was one.
    """
    if since is None and until is None:
        return (Stretch(),)
    first, last = _key(_EARLIEST), _key(_LATEST)
    return (
        Stretch(high=str(UUID(int=first.int - 1)), since=since, until=until),
        Stretch(str(_key(since or _EARLIEST)), str(_key(until or _LATEST))),
        Stretch(str(UUID(int=last.int + 1)), since=since, until=until),
    )


_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _key(time: datetime) -> UUID:
    return UUID(bytes=time_id((time - _EPOCH) // timedelta(microseconds=1)))


def count_rows(tx: Tx, table: Description, stretch: Stretch) -> int:
    """Return how many rows there are in a stretch. Goes through all of them."""
    return int(tx.one(_SQL["count_rows"], collection_id=table.id, **stretch._asdict()).total)


def read_rows(
    tx: Tx, table: Description, counted: Sequence[tuple[Stretch, int]], *, page: int, size: int
) -> list[StoredEvent]:
    """Return a page of the rows of some stretches, in the order of their ids; of each stretch with its count.

    Goes through all rows between the page and the nearer end of a stretch. Raises Refusal ``page_too_large`` where the
    rows of the page have more than 32 MiB.
    """
    tx.run(_COLLECTIONS["walk_by_key"])
    found: list[StoredEvent] = []
    left = _PAGE_BYTES
    before = page * size
    for stretch, count in counted:
        if before < count and len(found) < size:
            for row in _read(tx, table, stretch, before=before, behind=count - before - 1, most=size - len(found)):
                left -= len(row.payload)
                if left < 0:
                    raise Refusal("page_too_large", "The rows of this page have more than 32 MiB. Ask for fewer.")
                found.append(row)
        before = max(before - count, 0)
    return found


def first_rows(tx: Tx, table: Description, *, most: int) -> list[StoredEvent]:
    """Return the first rows of a table, in the order of their ids: so many, or those in 4 MiB."""
    tx.run(_COLLECTIONS["walk_by_key"])
    found: list[StoredEvent] = []
    left = _LOOKED_AT_BYTES
    for row in _read(tx, table, Stretch(), before=0, behind=_FAR, most=most):
        left -= len(row.payload)
        if left < 0 and found:
            break
        found.append(row)
    return found


_LOOKED_AT_BYTES = 4 * 1024 * 1024


def _read(tx: Tx, table: Description, stretch: Stretch, **place: int) -> Iterator[StoredEvent]:
    statement = _SQL["read_rows"]
    tx.run(f"DECLARE page NO SCROLL CURSOR FOR {statement}", collection_id=table.id, **stretch._asdict(), **place)
    while rows := tx.all(f"FETCH {_FETCHED} FROM page"):
        yield from (StoredEvent(row.event_id, row.time, row.payload.encode()) for row in rows)
    tx.run("CLOSE page")


def delete_rows(tx: Tx, table: Description, stretches: Sequence[Stretch]) -> tuple[int, int]:
    """Delete the rows of stretches; return how many, and their bytes with a line break each.

    The ledger is told by ``pushes.note_deletion``. Rows stay that a transaction under way stores, and that come after.
    Blocks while one that has taken the place of a row is under way. Raises Deadlock, TooSlow.
    """
    tx.run(_COLLECTIONS["walk_by_key"])
    gone = [tx.one(_SQL["delete_rows"], collection_id=table.id, **stretch._asdict()) for stretch in stretches]
    return sum(one.rows for one in gone), sum(one.bytes for one in gone)
