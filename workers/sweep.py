"""Heals what falls between: lost messages, dead workers, unsettled imports, expired secrets, a forgetful Redis.

A process beside every worker (workers.sweeping) runs it. Each round looks at the whole present state (nothing is an
event that could be missed), is safe to run twice, and is run by one of them at a time: a transaction-level advisory
lock, which Postgres takes back when its holder dies. There is no service whose death would stop it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from common.dispatch import Lane
from common.errors import PenstockError, Terminal, Transient
from common.ledger import answers, chunks, collections, exports, idempotency, imports, leases, pushes, segments, uploads
from common.ledger.database import Database, TooSlow, Tx
from common.model.sources import SourceRef
from common.model.uploads import Upload
from common.runtime import Runtime
from common.settings import Settings
from common.telemetry import configure_logs, get_logger
from workers.exports import healing
from workers.imports.settle import fail_import, settle_import

log = get_logger(__name__)
T = TypeVar("T")

_LOCK = 0x5377656570
_PR_SET_PDEATHSIG = 1
#: A message is taken for lost after so many times PENSTOCK_RESEND_SECONDS, whatever the length of the queue says.
_SURELY_LOST = 10
#: How long a round deletes events of deleted collections, and waits for who uses an index of theirs.
_EMPTYING_SECONDS, _DROPPING_SECONDS = 1.0, 0.2
#: How long a round goes on counting segments, and how long it counts one: some 50 million events. A round that takes
#: three minutes is taken to hang.
_COUNTING_SECONDS, _LONGEST_COUNTING = 1.0, 60.0


def sweep(runtime: Runtime, *, guard: Database | None = None) -> bool:
    """Do one round; return False where another sweep is at it.

    ``guard`` is a second way to Postgres, for the lock, of whoever sweeps again and again; a round without it opens a
    connection. Raises nothing for a step that fails: the others are done all the same, and the next round tries again.
    """
    with guard.transaction() if guard else runtime.database.aside() as tx:
        if not tx.one("SELECT pg_try_advisory_xact_lock(%(lock)s) AS mine", lock=_LOCK).mine:
            return False
        for step in _steps():
            _try(step.__name__.strip("_"), partial(step, runtime))
    return True


def _try(what: str, work: Callable[[], object]) -> None:
    """Do a piece of a round. Whatever it raises, a mistake of ours included, must not keep the others from theirs."""
    try:
        work()
    except PenstockError as error:
        log.warning("sweep_step_failed", step=what, error=str(error))
    except Exception as error:  # noqa: BLE001
        log.warning("sweep_step_broken", step=what, error=type(error).__name__)


def _settle(runtime: Runtime) -> None:
    for import_id in _list(runtime.database, imports.unsettled_imports):
        _try("settle", partial(settle_import, runtime, import_id))


def _end_expired_holders(runtime: Runtime) -> None:
    with runtime.database.transaction() as tx:
        ended = leases.end_expired_holders(tx)
    if ended:
        log.warning("ended_expired_holders", backends=ended)


def _send_again(runtime: Runtime) -> None:
    """Send what was lost. While nobody knows how long the queue is, the broker would not take anything either.

    No more than are missing in the queue: what has waited there for long is not lost. Sent again all the same, an
    import had more messages than its window, and with each of them one more turn than the others (36 % of the chunks
    instead of 25). A plan sent twice is nobody's turn, so plans ask only that not too much waits which is nobody's.
    """
    _send_lane_again(runtime, Lane.IMPORTS)
    _send_lane_again(runtime, Lane.WALKS)


def _send_lane_again(runtime: Runtime, lane: Lane) -> None:
    """Do so for long chunks, or for plans and all other chunks: what waits in one lane is none of the other's."""
    long = lane is Lane.WALKS
    settings, waiting = runtime.settings, runtime.dispatch.queue_length(lane)
    if waiting is None:
        return
    with runtime.database.transaction() as tx:
        missing = leases.count_due(tx, window=settings.window, long=long) - waiting
        # Counted from what is due, not from nought: nine large imports alone have 72 messages, and rightly so.
        most = max(settings.resend_queue_bound + missing, 0)
        plans = [] if long else imports.send_plans_again(tx, resend_seconds=settings.resend_seconds, room=most)
        loads = chunks.send_chunks_again(
            tx,
            long=long,
            window=settings.window,
            resend_seconds=settings.resend_seconds,
            lost_seconds=settings.resend_seconds * _SURELY_LOST,
            room=missing,
            most=most,
        )
    # Up to the first that does not go: each of a hundred would wait for a Redis that hangs.
    load = partial(runtime.dispatch.load_chunk, long=long)
    all(map(runtime.dispatch.plan_import, plans)) and all(map(load, loads))
    if plans or loads:
        log.info("sent_again", plans=len(plans), chunks=len(loads), long=long)


def _tell_of_unserved_walks(runtime: Runtime) -> None:
    """Say that long chunks wait and nobody is a walker: nothing else would, and their imports would wait for ever."""
    patience = runtime.settings.watchdog_seconds
    with runtime.database.transaction() as tx:
        waits = leases.is_work_waiting(tx, window=runtime.settings.window, long=True) and not leases.is_walked(tx)
    if _unserved_walks.lasts(is_so=waits, at=time.monotonic(), patience=patience):
        log.warning("walks_not_served", seconds=patience, remedy="Run the Procfile's walker: a worker with -Q walks.")


def _tell_of_unserved_exports(runtime: Runtime) -> None:
    """Say that exports wait and nobody is an exporter."""
    patience = runtime.settings.watchdog_seconds
    with runtime.database.transaction() as tx:
        waits = exports.is_export_waiting(tx) and not exports.is_export_in_work(tx)
    if _unserved_exports.lasts(is_so=waits, at=time.monotonic(), patience=patience):
        remedy = "Run the Procfile's exporter: a worker with -Q exports."
        log.warning("exports_not_served", seconds=patience, remedy=remedy)


class Spell:
    """A time in which something was so at every look."""

    def __init__(self) -> None:
        """Begin with no look."""
        self._since: float | None = None

    def lasts(self, *, is_so: bool, at: float, patience: float) -> bool:
        """Return whether it has been so for so many seconds at this look, and begin anew where it has.

        A single look does not tell: between two chunks a walker has none.
        """
        if not is_so:
            self._since = None
            return False
        if self._since is None:
            self._since = at
        if at < self._since + patience:
            return False
        self._since = at
        return True


_unserved_walks, _unserved_exports = Spell(), Spell()


def _expire_secrets(runtime: Runtime) -> None:
    days = runtime.settings.secret_days
    error = Terminal(
        "credentials_expired", f"The import did not end within {days} days, after which S3 credentials are deleted."
    )
    for import_id in _list(runtime.database, imports.expired_secrets):
        _try("expire_secrets", partial(fail_import, runtime, import_id, error))
    with runtime.database.transaction() as tx:
        imports.delete_stale_secrets(tx)


def _match_slots(runtime: Runtime) -> None:
    """Make the semaphore equal to the ledger. Its clock comes first: what it gives meanwhile is not in the ledger."""
    at = runtime.slots.clock()
    if at is not None:
        with runtime.database.transaction() as tx:
            held = imports.slots_in_use(tx)
        runtime.slots.match(held, at=at)


def _end_silent_uploads(runtime: Runtime) -> None:
    """Fail imports whose body stopped coming: whoever read it was killed, or it would have ended them itself."""
    silent_seconds = runtime.settings.upload_seconds
    error = Terminal("upload_broken", "The body of the request did not come to its end. Send it again.")
    for import_id in _list(runtime.database, partial(uploads.silent_uploads, silent_seconds=silent_seconds)):
        held_by = partial(uploads.give_up_body, import_id=import_id, silent_seconds=silent_seconds)
        _try("end_silent_uploads", partial(fail_import, runtime, import_id, error, held_by=held_by))


def _empty_spool(runtime: Runtime) -> None:
    """Delete the bodies of imports that have ended. Up to the first failure: each of a hundred would wait for an S3
    that hangs.
    """
    with runtime.database.transaction() as tx:
        ended = uploads.take_ended_uploads(tx, again_seconds=runtime.settings.upload_seconds)
    for upload in ended:
        if _is_deleted(runtime, upload):
            with runtime.database.transaction() as tx:
                uploads.delete_upload(tx, upload.import_id)


def _is_deleted(runtime: Runtime, upload: Upload) -> bool:
    """Delete a body or its parts; return whether S3 has, and gets, nothing of it any more."""
    spool, ref = runtime.spool, SourceRef(upload.bucket, upload.key)
    if upload.done:
        spool.delete(ref)
        return True
    begun = [upload.upload_id] if upload.upload_id else _list_begun(runtime, ref)
    gone = [spool.break_off(ref, upload_id) for upload_id in begun]
    spool.delete(ref)  # whoever was late may have made an object of it before its upload was broken off
    # While no id is known one may yet be on its way.
    return upload.old or (upload.upload_id is not None and all(gone))


def _list_begun(runtime: Runtime, ref: SourceRef) -> list[str]:
    try:
        return runtime.spool.list_begun(ref)
    except Transient as error:
        # Not every server has the request. Where S3 is away, to delete the object fails too.
        log.warning("uploads_not_listed", error=str(error))
        return []


def _forget_old_keys(runtime: Runtime) -> None:
    with runtime.database.transaction() as tx:
        idempotency.delete_old_keys(tx)
        answers.delete_old_answers(tx)


def _fold_pushes(runtime: Runtime) -> None:
    with runtime.database.transaction() as tx:
        pushes.fold_pushes(tx)


def _rebuild_progress(runtime: Runtime) -> None:
    """Write progress anew where Redis knows of fewer chunks than the ledger."""
    for import_id, done in _list(runtime.database, imports.running_imports):
        known = runtime.progress.size(import_id)
        if known is not None and known < done:
            with runtime.database.transaction() as tx:
                entries = chunks.read_entries(tx, import_id)
            runtime.progress.build(import_id, entries)


def _trim_marks(runtime: Runtime) -> None:
    runtime.seen.trim()


def _count_segments(runtime: Runtime) -> None:
    """Count segments whose imports did not settle but end otherwise, or were too large to be counted by who settled."""
    until = time.monotonic() + _COUNTING_SECONDS
    for import_id in _list(runtime.database, segments.uncounted_imports):
        if time.monotonic() < until:
            _try("count_segment", partial(_count_segment, runtime, import_id))


def _count_segment(runtime: Runtime, import_id: str) -> None:
    try:
        with runtime.database.transaction() as tx:
            segments.count_segment(tx, import_id, seconds=_LONGEST_COUNTING)
    except (TooSlow, Terminal) as error:
        # Each round would take as long again, and the other steps would wait for it.
        with runtime.database.transaction() as tx:
            segments.leave_uncounted(tx, import_id)
        log.warning("segment_left_uncounted", import_id=import_id, error=str(error))


def _empty_collections(runtime: Runtime) -> None:
    """Delete the events of deleted collections, for so long that the other steps do not wait for it."""
    until = time.monotonic() + _EMPTYING_SECONDS
    for collection_id in _list(runtime.database, collections.collections_to_empty):
        while time.monotonic() < until:
            with runtime.database.transaction() as tx:
                deleted = collections.empty_collection(tx, collection_id)
            if not deleted:
                _try("note_emptied", partial(_note_emptied, runtime, collection_id))
                break


def _note_emptied(runtime: Runtime, collection_id: int) -> None:
    # An export of another collection may use the table for an hour: then it is dropped after that.
    collections.drop_time_index(runtime.database, collection_id, patience=_DROPPING_SECONDS)
    with runtime.database.transaction() as tx:
        collections.note_emptied(tx, collection_id)
    log.info("collection_emptied", collection=collection_id)


def _steps() -> tuple[Callable[[Runtime], None], ...]:
    """Return the steps of a round, what keeps imports waiting first."""
    return (
        _settle,
        _end_expired_holders,
        _send_again,
        _match_slots,
        _rebuild_progress,
        _trim_marks,
        _expire_secrets,
        _end_silent_uploads,
        _forget_old_keys,
        _fold_pushes,
        _tell_of_unserved_walks,
        _tell_of_unserved_exports,
        *healing.STEPS,
        _count_segments,
        _empty_spool,
        _empty_collections,
    )


def is_work_waiting(runtime: Runtime, lane: Lane = Lane.IMPORTS) -> bool:
    """Return whether there is work that any process of the lane could take, and a broker that could tell it.

    A worker that hears nothing while this is so for long has gone deaf; one whose Redis is away has not, nor one whose
    Redis is full: that tells how long the queue is and takes no message, so that every worker ended once a minute.
    """
    if runtime.dispatch.queue_length(lane) is None or not runtime.live.takes_writes():
        return False
    with runtime.database.transaction() as tx:
        if lane is Lane.EXPORTS:
            return exports.is_export_waiting(tx)
        return leases.is_work_waiting(tx, window=runtime.settings.window, long=lane is Lane.WALKS)


def _list(database: Database, query: Callable[[Tx], list[T]]) -> list[T]:
    with database.transaction() as tx:
        return query(tx)


def main() -> None:
    """Sweep until told to stop, or until the worker that started this, whose pid is the argument, is gone.

    After each round, whether or not the sweep was another's, a line on standard output says if work waits in one of the
    lanes that the worker serves, the further arguments.
    """
    if len(sys.argv) > 1:
        _die_with(parent=int(sys.argv[1]))
    lanes = [lane for lane in Lane if lane in sys.argv[2:]]
    settings = Settings.from_environment()
    configure_logs(settings.log_level, settings.log_format)
    runtime = Runtime.build(settings, name="penstock-sweep")
    guard = Database(settings.database_url, application_name="penstock-sweep")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not stop.wait(settings.sweep_seconds):
        waiting = False
        try:
            sweep(runtime, guard=guard)
            waiting = any(is_work_waiting(runtime, lane) for lane in lanes)
        except PenstockError as error:
            log.warning("sweep_failed", error=str(error))
        # News for the worker's watchdog; a round without any would look like one that hangs.
        try:
            os.write(sys.stdout.fileno(), b"work\n" if waiting else b"none\n")
        except BrokenPipeError:
            return  # it was killed in the middle of this round


def _die_with(*, parent: int) -> None:
    """Ask the kernel for a signal when the parent dies: a worker killed by SIGKILL can tell nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit()  # it died before the kernel was asked


if __name__ == "__main__":
    main()
