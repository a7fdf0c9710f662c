"""The rows of chunks: inserted by the plan, leased, committed once."""

from __future__ import annotations

from operator import attrgetter

from common.ledger.database import Tx
from common.ledger.leases import end_holder
from common.ledger.queries import load_queries
from common.ledger.rows import counts_of, hex_id
from common.model.chunks import CHUNKS_OF_A_SOURCE, Bulk, Chunk, Counts, Entry, Kind, Ranges, Step, count_chunks

_SQL = load_queries("chunks")
_NOTHING = Bulk()

#: Chunks that a source may have before its ranges: one that looks, one that scans. And some to spare.
_STEPS = 10


def insert_cut(tx: Tx, import_id: str, ordinal: int, cut: Step | Ranges, *, number: int, size: int) -> int:
    """Insert what a source is to be done with next, from a number on, and return how many chunks that is.

    ``size`` in bytes is the object's own. None of them counts as sent but a step of the long kind.
    """
    if isinstance(cut, Step):
        insert_step(tx, import_id, ordinal, cut, number=number, start=0)
        return 1
    # An enormous object gets larger chunks rather than numbers of its successor's.
    chunk_bytes = max(cut.chunk_bytes, -(-cut.extent // (CHUNKS_OF_A_SOURCE - _STEPS)))
    count = count_chunks(cut.extent, chunk_bytes)
    tx.run(
        _SQL["insert_ranges"],
        import_id=import_id,
        ordinal=ordinal,
        number=number,
        extent=cut.extent,
        size=size,
        chunk_bytes=chunk_bytes,
        count=count,
    )
    return count


def insert_step(
    tx: Tx, import_id: str, ordinal: int, step: Step, *, number: int, start: int, sent: bool = False
) -> int:
    """Insert a chunk that is no range, and return its id. ``sent`` where whoever made it takes it."""
    row = tx.one(
        _SQL["insert_step"],
        import_id=import_id,
        ordinal=ordinal,
        number=number,
        kind=step.kind,
        long=step.long,
        start=start,
        sent=sent or step.long,
    )
    return int(row.id)


def insert_looks(tx: Tx, import_id: str, count: int) -> None:
    """Insert a chunk for each of an import's sources, that looks at it."""
    tx.run(_SQL["insert_looks"], import_id=import_id, count=count, stride=CHUNKS_OF_A_SOURCE)


def long_steps(tx: Tx, import_id: str, ordinal: int) -> list[int]:
    """Return the ids of a source's chunks of the long kind that wait."""
    return [row.id for row in tx.all(_SQL["long_steps"], import_id=import_id, ordinal=ordinal)]


def bytes_before(tx: Tx, chunk: Chunk) -> int:
    """Return how many of the object's own bytes the chunks before this one took."""
    row = tx.one(_SQL["bytes_before"], import_id=chunk.import_id, ordinal=chunk.source_ordinal, number=chunk.number)
    return int(row.bytes)


def send_window(tx: Tx, import_id: str, *, window: int, least: int) -> list[int]:
    """Mark chunks as sent until the import has ``window`` of them, ``least`` in any case; return their ids in order."""
    rows = tx.all(_SQL["send_window"], import_id=import_id, window=window, least=least)
    return [row.id for row in sorted(rows, key=attrgetter("number"))]


def claim_chunk(tx: Tx, chunk_id: int, *, lease_seconds: float) -> Chunk | None:
    """Lease the chunk for the backend of this transaction; None where it is taken or done, or not to be loaded.

    The attempt is counted here, before the work, so that one that kills its process counts. The backend of a former
    holder whose lease has ended is ended too.
    """
    row = tx.one(_SQL["claim_chunk"], chunk_id=chunk_id, lease_seconds=lease_seconds)
    if row is None:
        return None
    end_holder(tx, row.former_pid, row.former_started)
    return Chunk(
        row.id,
        hex_id(row.import_id),
        row.source_ordinal,
        row.number,
        row.start_offset,
        row.end_offset,
        row.attempts,
        row.lease_token,
        Kind(row.kind),
        row.long,
    )


def next_claimable(tx: Tx, chunk_id: int) -> int | None:
    """Return the first chunk of the same import that nobody holds, long if this one is. The claim decides."""
    row = tx.one(_SQL["next_claimable"], chunk_id=chunk_id)
    return row.id if row else None


def holds_chunk(tx: Tx, chunk: Chunk) -> bool:
    """Return whether the chunk is still the holder's of this token."""
    return tx.one(_SQL["holds_chunk"], chunk_id=chunk.id, lease_token=chunk.lease_token) is not None


def renew_lease(tx: Tx, chunk: Chunk, *, lease_seconds: float, ceiling_seconds: float) -> bool:
    """Lengthen the lease, up to the ceiling counted from the claim; False where it is another's by now."""
    return (
        tx.one(
            _SQL["renew_lease"],
            chunk_id=chunk.id,
            lease_token=chunk.lease_token,
            lease_seconds=lease_seconds,
            ceiling_seconds=ceiling_seconds,
        )
        is not None
    )


def release_chunk(tx: Tx, chunk: Chunk, *, delay_seconds: float = 0, attempt_counts: bool = True) -> None:
    """Give the chunk back, due again after the delay. Does nothing where the lease is another's."""
    tx.run(
        _SQL["release_chunk"],
        chunk_id=chunk.id,
        lease_token=chunk.lease_token,
        delay_seconds=delay_seconds,
        attempt_counts=attempt_counts,
    )


def finish_chunk(
    tx: Tx,
    chunk: Chunk,
    counts: Counts,
    bulk: Bulk = _NOTHING,
    *,
    text_lines: int | None = None,
    end: int | None = None,
    size: int | None = None,
) -> Entry | None:
    """Write the chunk's entry and return it; None where the token is not the latest: the caller has to roll back.

    ``text_lines`` where its lines took up another number of lines of text; ``end``, and ``size`` (of the object's own
    bytes), where they are known only now.
    """
    row = tx.one(
        _SQL["finish_chunk"],
        chunk_id=chunk.id,
        lease_token=chunk.lease_token,
        lines=counts.lines,
        imported=counts.imported,
        replaced=counts.replaced,
        duplicates=counts.duplicates,
        rejected=counts.rejected,
        blank=counts.blank,
        stored_bytes=bulk.size,
        first_time=bulk.first,
        last_time=bulk.last,
        text_lines=text_lines,
        end=end,
        bytes=size,
    )
    return Entry(chunk.number, row.bytes, counts, row.done_ms) if row else None


def close_source(tx: Tx, chunk: Chunk) -> None:
    """End the open chunks of the chunk's source, itself among them, with nothing in them."""
    tx.run(_SQL["close_source"], import_id=chunk.import_id, ordinal=chunk.source_ordinal)


def send_next(tx: Tx, import_id: str, *, long: bool = False) -> int | None:
    """Mark the import's next unsent chunk as sent and return its id; send it after the commit.

    ``long``: its next long one, where a long one is done.
    """
    row = tx.one(_SQL["send_next"], import_id=import_id, long=long)
    return row.id if row else None


def pass_fence(tx: Tx, import_id: str) -> bool:
    """Hold the import in its running state until the commit that follows at once; False: roll back."""
    return tx.one(_SQL["fence"], import_id=import_id) is not None


def extend_import(tx: Tx, import_id: str, *, added: int) -> bool:
    """Count chunks that this commit adds, and do as pass_fence does."""
    return tx.one(_SQL["extend"], import_id=import_id, added=added) is not None


def is_running(tx: Tx, import_id: str) -> bool:
    """Return whether the fence would be passed at this moment. Decides nothing, saves work."""
    return tx.one(_SQL["look_at_fence"], import_id=import_id) is not None


def is_committed(tx: Tx, chunk: Chunk) -> bool:
    """Return whether this very attempt's commit took effect."""
    row = tx.one(_SQL["is_committed"], chunk_id=chunk.id, lease_token=chunk.lease_token)
    return bool(row and row.committed)


def send_chunks_again(
    tx: Tx, *, long: bool, window: int, resend_seconds: float, lost_seconds: float, room: int, most: int
) -> list[int]:
    """Mark chunks, long ones or all others, whose message or holder was lost as sent; return their ids in order.

    The ``room`` oldest of those sent so many seconds ago, and whatever was never sent or is past ``lost_seconds``;
    ``most`` in all.
    """
    rows = tx.all(
        _SQL["send_chunks_again"],
        long=long,
        window=window,
        resend_seconds=resend_seconds,
        lost_seconds=lost_seconds,
        room=room,
        most=most,
    )
    return sorted(row.id for row in rows)


def read_entries(tx: Tx, import_id: str) -> list[Entry]:
    """Return the entries of the import's done chunks."""
    return [
        Entry(
            row.number,
            row.bytes,
            counts_of(row),
            row.done_ms,
        )
        for row in tx.all(_SQL["read_progress"], import_id=import_id)
    ]
