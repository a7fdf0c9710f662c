"""The events themselves, and the judge of their identity: the unique key of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import NamedTuple

import psycopg2.errors

from common.errors import Transient
from common.ledger.copying import copy_rows, encode_events, encode_rejects, encode_suspects, in_pieces
from common.ledger.database import Tx
from common.ledger.queries import load_queries
from common.model.chunks import Bulk, Chunk
from common.model.events import Event
from common.model.imports import Import
from common.model.mapping import OnDuplicate
from common.model.rejects import Reject

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
    measured: list[Bulk] = []
    pieces = encode_events(new, measured, **_place_of(job, chunk))
    tx.run("SAVEPOINT before_new")
    try:
        copy_rows(tx, _SQL["copy_events"], pieces, advance)
    except psycopg2.errors.UniqueViolation:
        tx.run("ROLLBACK TO SAVEPOINT before_new")
        return None
    return sum(measured, Bulk())


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
    lines = [1 + repeats_of.get(event.event_id, 0) for event in ordered]
    tx.run(_SQL["create_suspects"])
    tx.run(_SQL["plan_by_key"])
    owners = Counter[int]()
    for first in range(0, len(ordered), _SLICE):
        part = slice(first, first + _SLICE)
        tx.run(_SQL["empty_suspects"])
        rows = encode_suspects(zip(ordered[part], lines[part], strict=True))
        copy_rows(tx, _SQL["copy_suspects"], in_pieces(rows), advance)
        stored = _place_slice(tx, job, chunk, stored)
        for row in tx.all(_SQL["count_owners"], collection_id=job.collection_id, import_number=job.number):
            owners[row.owner_number] += row.lines
    if owners:
        tx.run(
            _CHUNKS["insert_chunk_duplicates"],
            chunk_id=chunk.id,
            owners=list(owners.keys()),
            lines=list(owners.values()),
        )
    return stored


def _place_slice(tx: Tx, job: Import, chunk: Chunk, stored: Stored) -> Stored:
    """Store suspects whose id is free, and those to whom the row in their place has to give way.

    Where the import keeps, those that stand before a row of its own; where it replaces, behind a row of any import.
    """
    asked = {**_place_of(job, chunk), "replaces": job.mapping.on_duplicate is OnDuplicate.REPLACE}
    free = tx.one(_SQL["insert_or_lock_suspects"], **asked)
    stored = stored._replace(fresh=stored.fresh + free.fresh, bulk=stored.bulk + Bulk(free.size, free.first, free.last))
    if free.met == free.fresh:
        return stored
    taken = tx.one(_SQL["replace_locked"], **asked)
    return stored._replace(
        replaced=stored.replaced + taken.replaced, bulk=stored.bulk + Bulk(taken.size, taken.first, taken.last)
    )


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
