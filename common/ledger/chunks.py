"""The rows of chunks: inserted by the plan, leased, committed once."""

from __future__ import annotations

from common.ledger.database import Tx
from common.ledger.leases import end_holder
from common.ledger.queries import load_queries
from common.ledger.rows import counts_of, hex_id
from common.model.chunks import Chunk, Counts, Entry, count_chunks

_SQL = load_queries("chunks")


def insert_chunks(tx: Tx, import_id: str, ordinal: int, *, size: int, chunk_bytes: int, window: int) -> int:
    """Cut a source into chunks and return their number; the first ``window`` count as sent."""
    count = count_chunks(size, chunk_bytes)
    tx.run(
        _SQL["insert_chunks"],
        import_id=import_id,
        ordinal=ordinal,
        size=size,
        chunk_bytes=chunk_bytes,
        window=window,
        count=count,
    )
    return count


def first_window(tx: Tx, import_id: str) -> list[int]:
    """Return the ids of the chunks that the plan has to send."""
    return [row.id for row in tx.all(_SQL["first_window"], import_id=import_id)]


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
    )


def next_claimable(tx: Tx, chunk_id: int) -> int | None:
    """Return the first chunk of the same import that nobody holds. Only a look: the claim decides."""
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


def finish_chunk(tx: Tx, chunk: Chunk, counts: Counts) -> Entry | None:
    """Write the chunk's entry and return it; None where the token is not the latest: the caller has to roll back."""
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
    )
    return Entry(chunk.number, chunk.end - chunk.start, counts, row.done_ms) if row else None


def send_next(tx: Tx, import_id: str) -> int | None:
    """Mark the import's next unsent chunk as sent and return its id; send it after the commit."""
    row = tx.one(_SQL["send_next"], import_id=import_id)
    return row.id if row else None


def pass_fence(tx: Tx, import_id: str) -> bool:
    """Hold the import in its running state until the commit that follows at once; False: roll back."""
    return tx.one(_SQL["fence"], import_id=import_id) is not None


def is_running(tx: Tx, import_id: str) -> bool:
    """Return whether the fence would be passed at this moment. Decides nothing, saves work."""
    return tx.one(_SQL["look_at_fence"], import_id=import_id) is not None


def is_committed(tx: Tx, chunk: Chunk) -> bool:
    """Return whether this very attempt's commit took effect."""
    row = tx.one(_SQL["is_committed"], chunk_id=chunk.id, lease_token=chunk.lease_token)
    return bool(row and row.committed)


def send_chunks_again(
    tx: Tx, *, window: int, resend_seconds: float, lost_seconds: float, room: int, most: int
) -> list[int]:
    """Mark chunks whose message or holder was lost as sent, and return their ids in order; ``most`` in all.

    The ``room`` oldest of those sent so many seconds ago, and whatever was never sent or is past ``lost_seconds``.
    """
    rows = tx.all(
        _SQL["send_chunks_again"],
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
