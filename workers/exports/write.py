"""Write an export: one snapshot, read, encoded, compressed and sent at the same time, and a row that says it is there.

The whole of it on one page. An export may be begun any number of times and is there once: each attempt has a snapshot
of its own, and no object of one stands beside an object of another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from common.errors import PenstockError, Terminal, Transient
from common.ledger import exports
from common.ledger.database import CommitUnknown, Database, Tx
from common.ledger.exports import Snapshot
from common.model.exports import Attempt, Export, Totals, WrittenObject
from common.model.formats import Compression, Format
from common.objects import Writer
from common.runtime import Runtime
from common.telemetry import bind, get_logger
from workers.exports.behind import Behind
from workers.exports.clean import clean, take_back
from workers.exports.delivery import Delivery
from workers.exports.encoding import Columns, Path, encoder_of
from workers.exports.watch import LeaseLostError, Watch
from workers.retrying import delay_after

log = get_logger(__name__)
T = TypeVar("T")

#: Bytes of rows that are encoded at a time: one call of C for hundreds of them.
_BLOCK = 256 * 1024


def write_export(runtime: Runtime, export_id: str) -> None:
    """Claim the export, write it, and say so in its row.

    Safe to run twice, and by several at once: the claim decides, and who lost it can neither make an object nor end the
    export. Whatever goes wrong ends in the row: due again, to begin anew, or failed with a reason and nothing in the
    bucket. Blocks for as long as it takes.
    """
    with runtime.database.transaction() as tx:
        attempt = exports.claim_export(tx, export_id, lease_seconds=runtime.settings.lease_seconds)
    if attempt is None:
        return
    bind(export_id=attempt.job.id, attempt=attempt.number)
    with _outcome_in_row(runtime, attempt):
        if attempt.number > runtime.settings.chunk_attempts:
            raise _worn_out(attempt)
        with runtime.writer_of(attempt.job) as writer, Watch(runtime, attempt) as watch:
            _clear(runtime, attempt, writer, watch)
            _write(runtime, attempt, writer, watch)


@contextmanager
def _outcome_in_row(runtime: Runtime, attempt: Attempt) -> Iterator[None]:
    try:
        yield
    except LeaseLostError:
        log.info("export_overtaken")
        _release(runtime, attempt, delay_seconds=0, attempt_counts=False)  # does nothing where it is another's
        _clean(runtime, attempt.job)
    except Terminal as error:
        _fail(runtime, attempt, error)
        _clean(runtime, attempt.job)
    except Transient as error:
        log.warning("export_postponed", error=str(error))
        _release(runtime, attempt, delay_seconds=delay_after(attempt.number))
    except Exception:
        _release(runtime, attempt, delay_seconds=delay_after(attempt.number))
        raise
    except BaseException:
        # The process was told to stop: no fault of the export's, so the attempt does not count.
        _release(runtime, attempt, delay_seconds=0, attempt_counts=False)
        raise


def _clear(runtime: Runtime, attempt: Attempt, writer: Writer, watch: Watch) -> None:
    """Take back what earlier attempts left: from now on none of them can make an object.

    Where the credentials do not allow to delete, an object stays until this attempt's takes its place; not so a part,
    which could have no successor, and would stand beside those of another snapshot.
    """
    in_parts = attempt.job.spec.part_bytes
    try:
        left = take_back(runtime, attempt.job, writer, goes_on=watch.goes_on)
    except Terminal as error:
        if in_parts:
            raise
        log.warning("attempt_not_cleared", reason=str(error))
    else:
        watch.check()
        if left and in_parts:
            raise Transient("S3 cannot be reached at the moment.", "an earlier attempt's uploads are not gone yet")


def _write(runtime: Runtime, attempt: Attempt, writer: Writer, watch: Watch) -> None:
    job = attempt.job
    with closing(_reader(runtime)) as reader, closing(Delivery(runtime, attempt, writer, watch)) as delivery:
        with _until_lost(watch), reader.transaction() as tx:
            snapshot = exports.begin_snapshot(tx)
            watch.depends_on(snapshot)
            _note(runtime, exports.note_snapshot, attempt, snapshot)
            _note(runtime, exports.note_totals, attempt, _count(tx, job))
            _read(runtime, tx, job, delivery, watch)
        # The reader's session stays open, with nothing under way: while it lives the lease is taken to be held.
        objects = delivery.finish()
        if job.spec.part_bytes:
            delivery.write_manifest(manifest(job, snapshot, objects))
        _complete(runtime, attempt, objects)


def _reader(runtime: Runtime) -> Database:
    """Return a second way to Postgres: the statement that reads occupies it to the end."""
    return Database(runtime.settings.database_url, application_name="penstock-export")


@contextmanager
def _until_lost(watch: Watch) -> Iterator[None]:
    """Take the end of the statement for what it is where the watch has ended it."""
    try:
        yield
    except Transient:
        watch.check()
        raise


def _note(runtime: Runtime, write: Callable[[Tx, Attempt, T], bool], attempt: Attempt, value: T) -> None:
    with runtime.database.transaction() as tx:
        if not write(tx, attempt, value):
            raise LeaseLostError


def _count(tx: Tx, job: Export) -> Totals:
    """Count what the snapshot holds. Raises Terminal ``too_many_events``: before anything is in the bucket."""
    spec, (totals, odd) = job.spec, exports.count_events(tx, job)
    if odd:
        totals = totals.plus(_count_odd(tx, job))
    if spec.most_events is not None and totals.events > spec.most_events:
        text = f"There are {totals.events} events, and an export has {spec.most_events} at the most. Ask for fewer."
        raise Terminal("too_many_events", text)
    as_counted = spec.format is Format.NDJSON and spec.compression is Compression.NONE
    return totals if as_counted else Totals(totals.events, None)


def _count_odd(tx: Tx, job: Export) -> Totals:
    """Count those that Postgres cannot look into, by encoding them as they will be."""
    encoder, events, size = encoder_of(job.spec), 0, 0

    def add(rows: bytes) -> None:
        nonlocal events, size
        lines = encoder.encode(rows)
        events, size = events + lines.events, size + len(lines.data)

    _copy(tx, job, add, odd_only=True)
    return Totals(events, size)


def _read(runtime: Runtime, tx: Tx, job: Export, delivery: Delivery, watch: Watch) -> None:
    """Read the snapshot by one statement, and hand its lines on as they come.

    What Postgres sends is taken while what came before is encoded, compressed and hashed, which C does without Python's
    lock: one export has two cores.
    """
    encoder = encoder_of(job.spec, _columns(tx, job) if job.spec.format is Format.CSV else ())
    delivery.head = encoder.head()

    def hand_on(rows: bytes) -> None:
        watch.check()
        watch.moved()
        delivery.write(encoder.encode(rows))

    # That thread has a connection of its own, on which it notes objects.
    with Behind(hand_on, check=watch.check, end=runtime.database.close) as behind:
        _copy(tx, job, behind.give)


def _copy(tx: Tx, job: Export, take: Callable[[bytes], None], *, odd_only: bool = False) -> None:
    """Have the rows taken block by block: a call for each row would cost more than the row."""
    waiting: list[bytes] = []
    length = 0

    def gather(row: bytes) -> None:
        nonlocal length
        waiting.append(row)
        length += len(row)
        if length >= _BLOCK:
            hand_on()

    def hand_on() -> None:
        nonlocal length
        rows = b"".join(waiting)
        waiting.clear()
        length = 0
        if rows:
            take(rows)

    exports.copy_events(tx, job, gather, odd_only=odd_only)
    hand_on()


def _columns(tx: Tx, job: Export) -> list[Path]:
    """Return the columns asked for, or else those that the snapshot's events have: it is gone through for that."""
    if job.spec.columns:
        return [tuple(column.split(".")) for column in job.spec.columns]
    columns = Columns(job.spec)
    _copy(tx, job, columns.look)
    return columns.paths()


def manifest(job: Export, snapshot: Snapshot, objects: Sequence[WrittenObject]) -> bytes:
    """Return the JSON that says what the export is, and which objects it has. It is written after all of them."""
    spec = job.spec
    told = {
        "export": job.id,
        "collection": spec.collection,
        "query": dict(spec.asked),
        "timeframe": {"start": _iso(spec.query.start), "end": _iso(spec.query.end)},
        "snapshotAt": _iso(snapshot.at),
        "format": spec.format.value,
        "compression": spec.compression.value,
        "events": sum(written.events for written in objects),
        "bytes": sum(written.size for written in objects),
        "objects": [
            {"key": written.key, "events": written.events, "bytes": written.size, "sha256": written.sha256}
            for written in objects
        ],
    }
    return json.dumps(told, indent=1).encode() + b"\n"


def _iso(time: datetime | None) -> str | None:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if time else None


def _complete(runtime: Runtime, attempt: Attempt, objects: Sequence[WrittenObject]) -> None:
    """End the export. A COMMIT whose answer was lost is looked up in the rows."""
    events, size = sum(written.events for written in objects), sum(written.size for written in objects)
    try:
        with runtime.database.transaction() as tx:
            completed = exports.complete_export(tx, attempt, events=events, size=size)
    except CommitUnknown:
        with runtime.database.transaction() as tx:
            completed = exports.is_completed(tx, attempt)
    if not completed:
        raise LeaseLostError
    log.info("export_completed", events=events, bytes=size, objects=len(objects))


def _fail(runtime: Runtime, attempt: Attempt, error: Terminal) -> None:
    try:
        with runtime.database.transaction() as tx:
            failed = exports.fail_export(tx, attempt.job.id, error, attempt=attempt)
    except PenstockError as failure:
        log.warning("export_not_failed", error=str(failure))  # whoever writes it next finds the same
    else:
        if failed:
            log.warning("export_failed", code=error.code, reason=str(error))


def _clean(runtime: Runtime, job: Export) -> None:
    """Take back at once what an ended export has left. Whatever fails here the sweep does again."""
    try:
        with runtime.database.transaction() as tx:
            ended = exports.has_ended(tx, job.id)
        if ended:
            clean(runtime, job)
    except PenstockError as error:
        log.warning("export_not_cleaned", error=str(error))


def _release(runtime: Runtime, attempt: Attempt, *, delay_seconds: float, attempt_counts: bool = True) -> None:
    try:
        with runtime.database.transaction() as tx:
            exports.release_export(tx, attempt, delay_seconds=delay_seconds, attempt_counts=attempt_counts)
    except PenstockError as error:
        log.warning("export_not_released", error=str(error))  # its lease ends by itself


def _worn_out(attempt: Attempt) -> Terminal:
    text = f"The export could not be written in {attempt.number - 1} attempts."
    return Terminal("export_failed", text)
