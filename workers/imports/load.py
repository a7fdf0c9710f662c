"""Load a chunk: lease, read, frame, decode, route, and one commit.

The whole of the engine on one page. A chunk may run any number of times and counts once: its events, its rejects and
its entry in the ledger stand in one transaction, whose last statements show the lease's token and pass the import's
fence. Redis is asked which ids were seen, and may say anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial

from common.errors import PenstockError, Terminal, Transient
from common.ledger import chunks, events, imports
from common.ledger.database import CommitUnknown, Deadlock
from common.model.chunks import MOST_LINES, Chunk, Counts, Entry
from common.model.events import Event, Identity
from common.model.imports import Import
from common.model.rejects import Reject
from common.runtime import Runtime
from common.telemetry import bind, get_logger
from workers.imports.decoding import Decoder
from workers.imports.framing import owned_blocks, reading_start
from workers.imports.lease import Lease, LeaseLostError
from workers.imports.retrying import delay_after
from workers.imports.settle import fail_import, settle_import, too_many_rejects

log = get_logger(__name__)


def load_chunk(runtime: Runtime, chunk_id: int) -> None:
    """Claim the chunk, or another of its import, load it, commit it, and see whether the import is at its end.

    Safe to run twice, and by several at once. Whatever goes wrong ends in the rows: the chunk is due again, or the
    import has failed with a reason. A worker that is told to stop gives the chunk back.
    """
    chunk = _claim(runtime, chunk_id) or _claim_another(runtime, chunk_id)
    if chunk is None:
        return
    bind(import_id=chunk.import_id, chunk=chunk.number, attempt=chunk.attempts)
    with _outcome_in_rows(runtime, chunk):
        with runtime.database.transaction() as tx:
            job = imports.read_import(tx, chunk.import_id)
        if chunk.attempts > runtime.settings.chunk_attempts:
            raise _worn_out(chunk)
        lease = Lease(runtime, chunk)
        done = commit(runtime, job, chunk, read_lines(runtime, job, chunk, lease), lease)
        _pass_on(runtime, job, done)


def _claim(runtime: Runtime, chunk_id: int) -> Chunk | None:
    with runtime.database.transaction() as tx:
        return chunks.claim_chunk(tx, chunk_id, lease_seconds=runtime.settings.lease_seconds)


def _claim_another(runtime: Runtime, chunk_id: int) -> Chunk | None:
    """A message whose chunk is in work serves the next one of its import; one whose chunk is done serves nobody.

    In transactions of their own: Postgres shows the living backends as of a transaction's first look at them, and a
    later look in the same one would take a younger holder for dead.
    """
    with runtime.database.transaction() as tx:
        another = chunks.next_claimable(tx, chunk_id)
    return _claim(runtime, another) if another is not None else None


@contextmanager
def _outcome_in_rows(runtime: Runtime, chunk: Chunk) -> Iterator[None]:
    try:
        yield
    except LeaseLostError:
        log.info("chunk_overtaken")
        _release(runtime, chunk, delay_seconds=0, attempt_counts=False)  # does nothing where it is another's
    except Terminal as error:
        _fail(runtime, chunk, error)
    except Transient as error:
        log.warning("chunk_postponed", error=str(error))
        _release(runtime, chunk, delay_seconds=delay_after(chunk.attempts))
    except Exception:
        _release(runtime, chunk, delay_seconds=delay_after(chunk.attempts))
        raise
    except BaseException:
        # The process was told to stop: no fault of the chunk's, so the attempt does not count.
        _release(runtime, chunk, delay_seconds=0, attempt_counts=False)
        raise


def _fail(runtime: Runtime, chunk: Chunk, error: Terminal) -> None:
    """End the import, and give the chunk back all the same: a lease left behind would end its holder's other work."""
    try:
        fail_import(runtime, chunk.import_id, error, held_by=partial(chunks.holds_chunk, chunk=chunk))
    except PenstockError as failure:
        log.warning("import_not_failed", error=str(failure))  # whoever loads the chunk next finds the same
    _release(runtime, chunk, delay_seconds=delay_after(chunk.attempts))


def _release(runtime: Runtime, chunk: Chunk, *, delay_seconds: float, attempt_counts: bool = True) -> None:
    try:
        with runtime.database.transaction() as tx:
            chunks.release_chunk(tx, chunk, delay_seconds=delay_seconds, attempt_counts=attempt_counts)
    except PenstockError as error:
        log.warning("chunk_not_released", error=str(error))  # its lease ends by itself


@dataclass(slots=True)
class Lines:
    """What a chunk's lines came to, before the store has its say."""

    lines: int = 0
    blank: int = 0
    #: The first event of each id: inside a chunk the first line wins here.
    firsts: dict[bytes, Event] = field(default_factory=dict)
    #: Of ids with more than one line: how many came after the first.
    repeats_of: Counter[bytes] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)

    def add(self, found: list[Event]) -> None:
        """Keep the first event of each id and count the others."""
        for event in found:
            if self.firsts.setdefault(event.event_id, event) is not event:
                self.repeats_of[event.event_id] += 1

    def counts(self, fresh: int) -> Counts:
        """Return the chunk's receipt, given how many of the first events the store did not have."""
        return Counts(
            lines=self.lines,
            imported=fresh,
            duplicates=len(self.firsts) - fresh + sum(self.repeats_of.values()),
            rejected=len(self.rejects),
            blank=self.blank,
        )


def read_lines(runtime: Runtime, job: Import, chunk: Chunk, lease: Lease) -> Lines:
    """Read the chunk's range, of the pinned version only, and decode the lines that it owns."""
    with runtime.database.transaction() as tx:
        source = imports.read_source(tx, job.id, chunk.source_ordinal)
    decoder = Decoder(
        job.mapping,
        identity=_identity(runtime),
        import_number=job.number,
        source_ordinal=chunk.source_ordinal,
        default_time=round(job.created_at.timestamp() * 1_000_000),
        max_line=runtime.settings.max_line_bytes,
    )
    pieces = runtime.objects_of(job).read_from(source, reading_start(chunk.start), chunk.end)
    result = Lines()
    # One more than the decoder takes: a carriage return before the newline does not count.
    longest = runtime.settings.max_line_bytes + 1
    for block in owned_blocks(pieces, start=chunk.start, end=chunk.end, max_line=longest):
        decoded = decoder.decode(block, result.lines)
        result.add(decoded.events)
        result.rejects += decoded.rejects
        # Where the plan's sample misjudged the lines. Otherwise the chunk commits its rejects, so that they are seen.
        if len(result.rejects) > max(job.max_rejects, MOST_LINES):
            raise too_many_rejects()
        result.lines += decoded.lines
        result.blank += decoded.blank
        lease.advance()
    return result


@cache
def _identity(runtime: Runtime) -> Identity:
    with runtime.database.transaction() as tx:
        return Identity(events.read_hash_key(tx))


@dataclass(frozen=True, slots=True)
class Done:
    """A committed chunk: its entry, and the chunk that follows into the queue."""

    entry: Entry
    next_chunk: int | None
    #: Whether Redis called ids new that were stored.
    misrouted: bool


def commit(runtime: Runtime, job: Import, chunk: Chunk, lines: Lines, lease: Lease) -> Done:
    """Write everything the chunk came to, or nothing, and return its entry.

    Raises LeaseLostError where the chunk was taken over or the import no longer runs, Transient, and Terminal where
    the store refuses what passed our checks. A COMMIT whose
    answer was lost is looked up in the rows.
    """
    with runtime.database.transaction() as tx:
        if not chunks.is_running(tx, job.id):
            raise LeaseLostError
    new, suspects = _route(runtime, job, list(lines.firsts.values()))
    try:
        return _commit_once(runtime, job, chunk, lines, lease, new, suspects)
    except Deadlock:
        # New rows and suspects are two passes over the keys. As one sorted pass the same chunk cannot deadlock with
        # another that does so too.
        log.info("chunk_deadlocked")
        return _commit_once(runtime, job, chunk, lines, lease, [], [*new, *suspects])


def _route(runtime: Runtime, job: Import, found: list[Event]) -> tuple[list[Event], list[Event]]:
    """Part events into those that nobody saw before and suspects, as Redis remembers. May be wrong, costs only time.

    An event without an id has one made of its position: nobody else can have it.
    """
    with_id = [event for event in found if event.has_id]
    marked = runtime.seen.mark(job.collection_id, [event.event_id for event in with_id])
    new = [event for event in found if not event.has_id]
    new += [event for event, known in zip(with_id, marked, strict=True) if not known]
    return new, [event for event, known in zip(with_id, marked, strict=True) if known]


def _commit_once(
    runtime: Runtime,
    job: Import,
    chunk: Chunk,
    lines: Lines,
    lease: Lease,
    new: list[Event],
    suspects: list[Event],
) -> Done:
    done: Done | None = None
    try:
        with runtime.database.transaction() as tx:
            stored = events.store_events(
                tx, job, chunk, new=new, suspects=suspects, repeats_of=lines.repeats_of, advance=lease.advance
            )
            events.store_rejects(tx, chunk, lines.rejects, lease.advance)
            entry = chunks.finish_chunk(tx, chunk, lines.counts(stored.fresh))
            if entry is None:
                raise LeaseLostError
            done = Done(entry, chunks.send_next(tx, job.id), stored.misrouted)
            if not chunks.pass_fence(tx, job.id):
                raise LeaseLostError
    except CommitUnknown:
        with runtime.database.transaction() as tx:
            if done is None or not chunks.is_committed(tx, chunk):
                raise
    return done


def _pass_on(runtime: Runtime, job: Import, done: Done) -> None:
    """After the commit: all of this may be lost, and the sweep makes good for it."""
    counts = done.entry.counts
    log.info(
        "chunk_loaded",
        imported=counts.imported,
        duplicates=counts.duplicates,
        rejected=counts.rejected,
        misrouted=done.misrouted,
    )
    if counts.rejected:
        _enforce_reject_limit(runtime, job)
    runtime.progress.write(job.id, done.entry)
    settle_import(runtime, job.id)  # forgets the progress, so it comes after
    if done.next_chunk is not None:
        runtime.dispatch.load_chunk(done.next_chunk)


def _enforce_reject_limit(runtime: Runtime, job: Import) -> None:
    """End the import early where it has too many; its last chunk would find out too."""
    with runtime.database.transaction() as tx:
        exceeded = imports.has_too_many_rejects(tx, job.id)
    if exceeded:
        fail_import(runtime, job.id, too_many_rejects())


def _worn_out(chunk: Chunk) -> Terminal:
    return Terminal(
        "chunk_failed",
        f"Bytes {chunk.start} to {chunk.end} could not be loaded in {chunk.attempts - 1} attempts.",
    )
