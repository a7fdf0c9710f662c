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
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from common.errors import PenstockError, Terminal
from common.ledger import chunks, idempotency, imports, leases
from common.ledger.database import Database, Tx
from common.runtime import Runtime
from common.settings import Settings
from common.telemetry import configure_logs, get_logger
from workers.imports.settle import fail_import, settle_import

log = get_logger(__name__)
T = TypeVar("T")

_LOCK = 0x5377656570
_PR_SET_PDEATHSIG = 1
#: A message is taken for lost after so many times PENSTOCK_RESEND_SECONDS, whatever the length of the queue says.
_SURELY_LOST = 10


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
    settings, waiting = runtime.settings, runtime.dispatch.queue_length()
    if waiting is None:
        return
    with runtime.database.transaction() as tx:
        missing = leases.count_due(tx, window=settings.window) - waiting
        # Counted from what is due, not from nought: nine large imports alone have 72 messages, and rightly so.
        most = max(settings.resend_queue_bound + missing, 0)
        plans = imports.send_plans_again(tx, resend_seconds=settings.resend_seconds, room=most)
        loads = chunks.send_chunks_again(
            tx,
            window=settings.window,
            resend_seconds=settings.resend_seconds,
            lost_seconds=settings.resend_seconds * _SURELY_LOST,
            room=missing,
            most=most,
        )
    # Up to the first that does not go: each of a hundred would wait for a Redis that hangs.
    all(map(runtime.dispatch.plan_import, plans)) and all(map(runtime.dispatch.load_chunk, loads))
    if plans or loads:
        log.info("sent_again", plans=len(plans), chunks=len(loads))


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


def _forget_old_keys(runtime: Runtime) -> None:
    with runtime.database.transaction() as tx:
        idempotency.delete_old_keys(tx)


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
        _forget_old_keys,
    )


def is_work_waiting(runtime: Runtime) -> bool:
    """Return whether there is work that any worker could take, and a broker that could tell it.

    A worker that hears nothing while this is so for long has gone deaf; one whose Redis is away has not, nor one whose
    Redis is full: that tells how long the queue is and takes no message, so that every worker ended once a minute.
    """
    if runtime.dispatch.queue_length() is None or not runtime.live.takes_writes():
        return False
    with runtime.database.transaction() as tx:
        return leases.is_work_waiting(tx, window=runtime.settings.window)


def _list(database: Database, query: Callable[[Tx], list[T]]) -> list[T]:
    with database.transaction() as tx:
        return query(tx)


def main() -> None:
    """Sweep until told to stop, or until the worker that started this, whose pid is the argument, is gone.

    After each round, whether or not the sweep was another's, a line on standard output says if work waits.
    """
    if len(sys.argv) > 1:
        _die_with(parent=int(sys.argv[1]))
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
            waiting = is_work_waiting(runtime)
        except PenstockError as error:
            log.warning("sweep_failed", error=str(error))
        # News for the worker's watchdog; a round without any would look like one that hangs.
        print("work" if waiting else "none", flush=True)  # noqa: T201


def _die_with(*, parent: int) -> None:
    """Ask the kernel for a signal when the parent dies: a worker killed by SIGKILL can tell nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit()  # it died before the kernel was asked


if __name__ == "__main__":
    main()
