"""Bounds the end of a worker that is told to stop.

Celery's warm shutdown waits for as long as tasks take. Its bounded one (worker_soft_shutdown_timeout with
REMAP_SIGTERM) sleeps through the whole of its time even where the task is done at once, with the event loop standing
still, wants a variable set before Celery is imported, and ends with status 1. So the warm one is kept and given an end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutting_down

from common.settings import Settings
from common.telemetry import get_logger

log = get_logger(__name__)

#: Seconds in which a pool process gives back what it was at: one transaction. Who takes longer (Python hears no signal
#: while the driver waits for a lock) is killed: its chunk is anybody's as soon as Postgres has noticed, and counts an
#: attempt.
GIVE_BACK_SECONDS = 3.0
#: Seconds in which the worker leaves when its pool is gone. A broker that says nothing could hold it up for ever.
LEAVE_SECONDS = 2.0


class StopStep(bootsteps.StartStopStep):
    """Sees to it that a stop is over in ``PENSTOCK_STOP_SECONDS`` and five more.

    Tasks under way may finish for so long, and no new ones begin. Then those left are told to give back what they hold
    (SystemExit in the pool process: the chunk is due at once and the attempt does not count).
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Make ready; nothing is started yet."""
        super().__init__(parent, **kwargs)
        self._patience = Settings.from_environment().stop_seconds
        self._asked = threading.Event()

    def start(self, parent: Any) -> None:
        """Start the thread that waits for the word to stop. Now: a signal's receiver is no place to start one."""
        worker_shutting_down.connect(self._ask)
        threading.Thread(target=self._see_it_through, args=(parent,), name="stop-watch", daemon=True).start()

    def _ask(self, **_: Any) -> None:
        self._asked.set()

    def _see_it_through(self, worker: Any) -> None:
        self._asked.wait()
        pause = threading.Event().wait
        pause(self._patience)
        _end_pool(worker, signal.SIGTERM)
        pause(GIVE_BACK_SECONDS)
        _end_pool(worker, signal.SIGKILL)
        pause(LEAVE_SECONDS)
        log.error("worker_did_not_leave")
        os._exit(os.EX_TEMPFAIL)


def _end_pool(worker: Any, number: signal.Signals) -> None:
    with contextlib.suppress(AttributeError):  # the pool has closed itself between the question and the answer
        for pid in worker.pool.info["processes"]:
            log.warning("pool_process_ended", pid=pid, signal=number.name)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
