"""The events themselves, and the judge of their identity: the unique key of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import NamedTuple

import psycopg2.errors

from common.errors import Transient
from common.ledger.copying import Measure, copy_rows, encode_events, encode_rejects, encode_suspects, in_pieces
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.model.chunks import Bulk, Chunk
from common.model.events import Event
from common.model.imports import Import
from common.model.mapping import OnDuplicate
from common.model.rejects import Reject
from common.model.times import as_datetime

_SQL = load_queries("events")
_CHUNKS = load_queries("chunks")

_OVERTAKEN = "The chunk was loaded by somebody else meanwhile."
#: Suspects that are settled by one statement. Between two the lease is renewed: in a table larger than memory a look-up
#: reads two pages at random (by estimate 0.5 ms), and 200,000 in one statement would outlast the lease of 30 s.
_SLICE = 5_000


class Stored(NamedTuple):
    """What became of a chunk's events, whose ids all differ."""

    #: Rows that were not there before.
    fresh: int
    #: Rows of earlier imports whose place was taken.
    replaced: int
    bulk: Bulk
    #: Whether the routes were wrong: ids that Redis called new were stored already.
    misrouted: bool


def read_hash_key(tx: Tx) -> bytes:
    """Return the key of the hash that makes event ids. The same for ever."""
    return bytes(tx.one("SELECT hash_key FROM identity_key").hash_key)


def store_events(
    tx: Tx,
    job: Import,
    chunk: Chunk,
    *,
    new: list[Event],
    suspects: list[Event],
    repeats_of: Mapping[bytes, int],
    advance: Callable[[], None],
) -> Stored:
    """Store a chunk's events: ``new`` by plain COPY, ``suspects`` by a look at what is there.

    Of two events with an id the mapping keeps the first: by position in one import, by commit among several. Or it
    replaces, and the one at the largest import number and position is kept. The ids of all events differ;
    ``repeats_of`` tells how many more lines of the chunk had an id. ``new`` that turn out to be stored already (Redis
    was flushed, or lied) become suspects too: wrong routes cost time, never a row. Which other imports own what the
    suspects met is written beside the chunk. ``advance`` is called as bytes go, and between slices of suspects.

    May block on keys that a transaction under way has inserted. Raises Deadlock, Transient.
    """
    bulk = _copy_new(tx, job, chunk, new, advance)
    if bulk is None:
        copied, suspects = Stored(0, 0, Bulk(), misrouted=True), [*new, *suspects]
    else:
        copied = Stored(len(new), 0, bulk, misrouted=False)
    return _place_suspects(tx, job, chunk, suspects, repeats_of, advance, copied) if suspects else copied


def _copy_new(tx: Tx, job: Import, chunk: Chunk, new: list[Event], advance: Callable[[], None]) -> Bulk | None:
    """Return how much that was; None where one of them is stored already, and so none of them was."""
    if not new:
        return Bulk()
    # Sorted by id: neighbours in the index are written together (350-470 k events/s against 260-350 k), and chunks
    # that share ids wait for each other in one order.
    measured: list[Measure] = []
    pieces = encode_events(new, measured, **_place_of(job, chunk))
    tx.run("SAVEPOINT before_new")
    try:
        copy_rows(tx, _SQL["copy_events"], pieces, advance)
    except psycopg2.errors.UniqueViolation:
        tx.run("ROLLBACK TO SAVEPOINT before_new")
        return None
    return _sum_up(measured)


def _place_suspects(
    tx: Tx,
    job: Import,
    chunk: Chunk,
    suspects: list[Event],
    repeats_of: Mapping[bytes, int],
    advance: Callable[[], None],
    stored: Stored,
) -> Stored:
    """Return what was stored, with what had been before."""
    ordered = sorted(suspects, key=itemgetter(0))
    tx.run(_SQL["create_suspects"])
    tx.run(_SQL["plan_by_key"])
    tx.run(_SQL["count_taken_from_nothing"])
    fresh, taken, owners = 0, 0, Counter[int]()
    bulk = stored.bulk
    for first in range(0, len(ordered), _SLICE):
        part = ordered[first : first + _SLICE]
        rows = encode_suspects((event, 1 + repeats_of.get(event.event_id, 0)) for event in part)
        tx.run(_SQL["empty_suspects"])
        copy_rows(tx, _SQL["copy_suspects"], in_pieces(rows), advance)
        placed = _place_slice(tx, job, chunk, part, owners)
        fresh, taken, bulk = fresh + placed.fresh, taken + placed.taken, bulk + placed.bulk
    if owners:
        tx.run(
            _CHUNKS["insert_chunk_duplicates"],
            chunk_id=chunk.id,
            owners=list(owners.keys()),
            lines=list(owners.values()),
        )
    replaced = 0
    if taken:
        former = tx.one(_SQL["read_taken"])
        bulk += Bulk(-former.bytes)
        replaced = taken - former.own if _replaces(job) else 0
    return stored._replace(fresh=stored.fresh + fresh, replaced=replaced, bulk=bulk)


class _Placed(NamedTuple):
    """What became of a slice of suspects: rows that were not there before, and such that took the place of one."""

    fresh: int
    taken: int
    bulk: Bulk


def _place_slice(tx: Tx, job: Import, chunk: Chunk, part: list[Event], owners: Counter[int]) -> _Placed:
    """Store suspects whose id is free, and those to whom the row in their place has to give way.

    Where the import keeps, those that stand before a row of its own; where it replaces, behind a row of any import. The
    lines that were dropped for other imports are added to ``owners``.
    """
    found = tx.one(_SQL["place_suspects"], **_place_of(job, chunk), replaces=_replaces(job))
    if found.fresh + found.taken == len(part):
        # Nobody else owns any of them: no second look-up, 0.8 to 1.1 us of CPU each.
        return _Placed(found.fresh, found.taken, _measure(part))
    bulk = Bulk()
    statement = _SQL["count_owners_and_measure"] if found.fresh or found.taken else _SQL["count_owners"]
    for row in tx.all(statement, **_place_of(job, chunk)):
        if row.owner_number == job.number:
            bulk = Bulk(row.size, row.first, row.last)
        else:
            owners[row.owner_number] += row.lines
    return _Placed(found.fresh, found.taken, bulk)


def _measure(events: list[Event]) -> Bulk:
    times = [event.time for event in events]
    size = sum([len(event.payload) + 1 for event in events])
    return _sum_up([Measure(size, min(times), max(times))])


def _sum_up(measured: list[Measure]) -> Bulk:
    sizes, firsts, lasts = zip(*measured, strict=True)
    return Bulk(sum(sizes), as_datetime(min(firsts)), as_datetime(max(lasts)))


def _replaces(job: Import) -> bool:
    return job.mapping.on_duplicate is OnDuplicate.REPLACE


def _place_of(job: Import, chunk: Chunk) -> dict[str, int]:
    """Return what is the same of all rows of a chunk."""
    return {
        "collection_id": job.collection_id,
        "import_number": job.number,
        "source_ordinal": chunk.source_ordinal,
    }


def store_rejects(tx: Tx, chunk: Chunk, rejects: list[Reject], advance: Callable[[], None]) -> None:
    """Store the chunk's rejected lines. Raises Transient where another attempt at it has, and so has committed it."""
    if not rejects:
        return
    try:
        copy_rows(tx, _SQL["copy_rejects"], in_pieces(encode_rejects(rejects, chunk_id=chunk.id)), advance)
    except psycopg2.errors.UniqueViolation as error:
        raise Transient(_OVERTAKEN, "another attempt has stored the chunk's rejects") from error
