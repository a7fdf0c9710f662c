"""Work on a chunk: lease, read, frame, decode, route, and one commit.

The whole of the engine on one page. A chunk may run any number of times and counts once: its events, its rejects and
its entry in the ledger stand in one transaction, whose last statements show the lease's token and pass the import's
fence. Redis is asked which ids were seen, and may say anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

from common.errors import PenstockError, SourceFailed, Terminal, Transient
from common.ledger import chunks, events, imports, registry
from common.ledger.database import CommitUnknown, Deadlock, Tx
from common.model.chunks import Chunk, Counts, Entry, Kind, Ranges
from common.model.events import Event
from common.model.imports import Import
from common.runtime import Runtime
from common.telemetry import bind, get_logger
from workers.imports.framing import owned_blocks, reading_start
from workers.imports.lease import Lease, LeaseLostError
from workers.imports.lines import Lines
from workers.imports.look import look
from workers.imports.reading import open_reading
from workers.imports.scan import scan
from workers.imports.sending import send
from workers.imports.settle import fail_import, settle_import, too_many_rejects
from workers.imports.walk import Ending, Trail
from workers.imports.work import Cut, Judge, Work
from workers.retrying import delay_after

log = get_logger(__name__)


def load_chunk(runtime: Runtime, chunk_id: int) -> None:
    """Claim the chunk, or another of its import, do what it is there for, commit it, and see whether its import ends.

    Safe to run twice, and by several at once. Whatever goes wrong ends in the rows: the chunk is due again, or its
    import or its source has failed with a reason. A worker that is told to stop gives the chunk back.
    """
    chunk = _claim(runtime, chunk_id) or _claim_another(runtime, chunk_id)
    with Trail() as trail:
        while chunk is not None:
            chunk = _work_on(runtime, chunk, trail)


def _work_on(runtime: Runtime, chunk: Chunk, trail: Trail) -> Chunk | None:
    """Do a chunk, and return the one to go on with: the rest of a source that can be entered at its beginning only."""
    bind(import_id=chunk.import_id, chunk=chunk.number, attempt=chunk.attempts)
    rest: int | None = None
    with _outcome_in_rows(runtime, chunk):
        with runtime.database.transaction() as tx:
            job = imports.read_import(tx, chunk.import_id)
            source = imports.read_source(tx, chunk.import_id, chunk.source_ordinal)
        if chunk.attempts > runtime.settings.chunk_attempts:
            raise _worn_out(chunk)
        work = Work(runtime, job, source, chunk, Lease(runtime, chunk))
        done = _do(work, trail)
        _pass_on(work, done)
        rest = done.rest if trail.goes_on else None
    return _claim(runtime, rest) if rest is not None else None


def _do(work: Work, trail: Trail) -> Done:
    match work.chunk.kind:
        case Kind.LOAD:
            return commit(work, read_lines(work), Ending())
        case Kind.WALK:
            return commit(work, *trail.follow(work))
        case Kind.LOOK:
            return commit_cut(work, look(work))
        case Kind.SCAN:
            return commit_cut(work, scan(work))


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
    except SourceFailed as error:
        _fail_source(runtime, chunk, error)
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


def read_lines(work: Work) -> Lines:
    """Read the chunk's range, of the pinned version only, and decode the lines that it owns."""
    chunk, judge = work.chunk, Judge(work)
    start = reading_start(chunk.start)
    with closing(open_reading(work, start, advance=work.lease.advance)) as reading:
        pieces = reading.pieces_from(start)
        for block in owned_blocks(pieces, start=chunk.start, end=chunk.end, max_line=work.longest_line):
            judge.take(block)
    return judge.lines


@dataclass(frozen=True, slots=True)
class Done:
    """A committed chunk: its entry, and what follows into the queues."""

    entry: Entry
    #: Chunks that take their turn now, and such as have the queue of long ones.
    next_chunks: list[int]
    long_chunks: list[int] = field(default_factory=list)
    #: The rest of a walk.
    rest: int | None = None
    #: Whether Redis called ids new that were stored.
    misrouted: bool = False


def commit(work: Work, lines: Lines, ending: Ending) -> Done:
    """Write everything the chunk came to, or nothing, and return its entry.

    Raises LeaseLostError where the chunk was taken over or the import no longer runs, Transient, and Terminal where
    the store refuses what passed our checks. A COMMIT whose answer was lost is looked up in the rows.
    """
    with work.runtime.database.transaction() as tx:
        if not chunks.is_running(tx, work.job.id):
            raise LeaseLostError
    new, suspects = _route(work.runtime, work.job, list(lines.kept.values()))
    try:
        return _commit_once(work, lines, ending, new, suspects)
    except Deadlock:
        # New rows and suspects are two passes over the keys. As one sorted pass the same chunk cannot deadlock with
        # another that does so too.
        log.info("chunk_deadlocked")
        return _commit_once(work, lines, ending, [], [*new, *suspects])


def _route(runtime: Runtime, job: Import, found: list[Event]) -> tuple[list[Event], list[Event]]:
    """Part events into those that nobody saw before and suspects, as Redis remembers. May be wrong, costs only time.

    An event without an id has one made of its position: nobody else can have it.
    """
    with_id = [event for event in found if event.has_id]
    marked = runtime.seen.mark(job.collection_id, [event.event_id for event in with_id])
    new = [event for event in found if not event.has_id]
    new += [event for event, known in zip(with_id, marked, strict=True) if not known]
    return new, [event for event, known in zip(with_id, marked, strict=True) if known]


def _commit_once(work: Work, lines: Lines, ending: Ending, new: list[Event], suspects: list[Event]) -> Done:
    job, chunk, advance = work.job, work.chunk, work.lease.advance

    def write(tx: Tx) -> Done:
        stored = events.store_events(
            tx, job, chunk, new=new, suspects=suspects, repeats_of=lines.repeats_of, advance=advance
        )
        events.store_rejects(tx, chunk, lines.rejects, advance)
        registry.register_named(tx, job.project_id, lines.known.named)
        counts = lines.counts(stored.fresh, stored.replaced)
        entry = chunks.finish_chunk(
            tx, chunk, counts, stored.bulk, text_lines=lines.text_lines, end=ending.end, size=ending.size
        )
        if entry is None:
            raise LeaseLostError  # at once: whoever overtook us has taken the number of the rest
        rest = None
        if ending.rest and ending.end is not None:
            after = chunk.number + 1
            ordinal, start, sent = chunk.source_ordinal, ending.end, ending.goes_on
            rest = chunks.insert_step(tx, job.id, ordinal, ending.rest, number=after, start=start, sent=sent)
        if ending.failure:
            imports.fail_source(tx, job.id, chunk.source_ordinal, ending.failure)
        # The turn of a long one is none of the window's, and a walk that goes on keeps its own.
        following = None if chunk.long or ending.goes_on else chunks.send_next(tx, job.id)
        passed = chunks.extend_import(tx, job.id, added=1) if rest else chunks.pass_fence(tx, job.id)
        if not passed:
            raise LeaseLostError
        return Done(entry, [following] if following is not None else [], [], rest, stored.misrouted)

    return _settle_commit(work, write)


def commit_cut(work: Work, found: Cut) -> Done:
    """Write what was found out about a source, and the chunks that follow from it. Raises as ``commit`` does."""
    job, chunk, ordinal = work.job, work.chunk, work.chunk.source_ordinal

    def write(tx: Tx) -> Done:
        # A gzip of nothing has no chunk that could count its bytes.
        size = work.source.size if isinstance(found.cut, Ranges) and not found.cut.extent else 0
        entry = chunks.finish_chunk(tx, chunk, Counts(), size=size)
        if entry is None:
            raise LeaseLostError  # at once, as above
        imports.describe_source(tx, job.id, ordinal, layout=found.layout, decoded_size=found.decoded_size)
        imports.keep_indexes(tx, job.id, ordinal, found.indexes())
        after = chunk.number + 1
        added = chunks.insert_cut(tx, job.id, ordinal, found.cut, number=after, size=work.source.size)
        following = chunks.send_window(tx, job.id, window=work.runtime.settings.window, least=0 if chunk.long else 1)
        long = chunks.long_steps(tx, job.id, ordinal)
        if not chunks.extend_import(tx, job.id, added=added):
            raise LeaseLostError
        return Done(entry, following, long)

    return _settle_commit(work, write)


def _settle_commit(work: Work, write: Callable[[Tx], Done]) -> Done:
    """Run a chunk's last transaction, and find out about a COMMIT whose answer was lost."""
    done: Done | None = None
    try:
        with work.runtime.database.transaction() as tx:
            done = write(tx)
    except CommitUnknown:
        with work.runtime.database.transaction() as tx:
            if done is None or not chunks.is_committed(tx, work.chunk):
                raise
    return done


def _pass_on(work: Work, done: Done) -> None:
    """After the commit: all of this may be lost, and the sweep makes good for it."""
    runtime, job, counts = work.runtime, work.job, done.entry.counts
    log.info(
        "chunk_loaded",
        kind=work.chunk.kind,
        imported=counts.imported,
        replaced=counts.replaced,
        duplicates=counts.duplicates,
        rejected=counts.rejected,
        misrouted=done.misrouted,
    )
    if counts.rejected:
        _enforce_reject_limit(runtime, job)
    runtime.progress.write(job.id, done.entry)
    settle_import(runtime, job.id)  # forgets the progress, so it comes after
    send(runtime, done.next_chunks, done.long_chunks)


def _fail_source(runtime: Runtime, chunk: Chunk, error: SourceFailed) -> None:
    """End the chunk's source, and its other chunks with it; the others go on, and this chunk's turn is theirs."""
    try:
        with runtime.database.transaction() as tx:
            following = _close_source(tx, runtime, chunk, error)
    except LeaseLostError:
        _release(runtime, chunk, delay_seconds=0, attempt_counts=False)
    except PenstockError as failure:
        log.warning("source_not_failed", error=str(failure))  # whoever takes the chunk next finds the same
        _release(runtime, chunk, delay_seconds=delay_after(chunk.attempts))
    else:
        log.warning("source_failed", code=error.code, reason=str(error))
        settle_import(runtime, chunk.import_id)
        send(runtime, following)


def _close_source(tx: Tx, runtime: Runtime, chunk: Chunk, error: SourceFailed) -> list[int]:
    """Return the chunks that follow. Raises LeaseLostError where the chunk is another's, or its import has ended."""
    if not chunks.holds_chunk(tx, chunk):
        raise LeaseLostError
    imports.fail_source(tx, chunk.import_id, chunk.source_ordinal, error)
    chunks.close_source(tx, chunk)
    least = 0 if chunk.long else 1
    following = chunks.send_window(tx, chunk.import_id, window=runtime.settings.window, least=least)
    if not chunks.pass_fence(tx, chunk.import_id):
        raise LeaseLostError
    return following


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
