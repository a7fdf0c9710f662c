"""Keeps a sweep running beside the worker: a process of its own, because its connections must not cross the pool's
forks and a worker busy with chunks must not delay it. And ends a worker that consumes nothing while the sweep sees
work (workers.watchdog).
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from celery import bootsteps
from celery.signals import worker_ready
from celery.worker import state

from common.dispatch import Lane
from common.settings import Settings
from common.telemetry import get_logger
from workers.watchdog import Look, Silence, is_deaf, listen

log = get_logger(__name__)

#: Seconds before a sweep that ended is started again.
_PAUSE = 1.0
#: Seconds without news after which a sweep is taken to hang. Above what a round may wait for: a lock of Postgres, 60 s,
#: a broker and a Redis that do not answer.
_LONGEST_ROUND = 180.0
#: Seconds between looks at whether a silent sweep is still alive.
_LOOK_SECONDS = 1.0


class SweepStep(bootsteps.StartStopStep):
    """Starts the sweep with the worker and ends it with the worker.

    A thread watches over the child, not a timer of the worker's event loop: those stand still after some
    reconnections to the broker.
    """

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Make ready; nothing is started yet."""
        super().__init__(parent, **kwargs)
        self._patience = Settings.from_environment().watchdog_seconds
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._lanes: list[Lane] = []

    def start(self, parent: Any) -> None:
        """Start the sweep and the thread that starts it again."""
        # Chosen once: who cancels a worker's queue at run time has made it deaf. Work of others is none of its own.
        self._lanes = [lane for lane in Lane if lane in parent.app.amqp.queues.consume_from]
        worker_ready.connect(self._note_ready)
        # The first one here and not in the thread: an error is the worker's own, at its start.
        self._child = spawn_sweep(self._lanes)
        threading.Thread(target=self._watch, args=(parent,), name="sweep-watch", daemon=True).start()

    def _note_ready(self, **_: Any) -> None:
        """Begin to watch: a worker that is still starting hears nothing either, and may take long on a busy machine."""
        self._ready.set()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  Celery names it
        """End the sweep; whatever it was doing, another worker's does again."""
        self._stopping.set()
        if self._child:
            self._child.terminate()

    def terminate(self, parent: Any) -> None:
        """End the sweep when the worker ends in a hurry."""
        self.stop(parent)

    def _watch(self, worker: Any) -> None:
        silence: Silence | None = None
        while self._child and not self._stopping.is_set():
            for claimable in news_of(self._child, longest=_LONGEST_ROUND):
                free = self._ready.is_set() and _is_free(worker)
                look = Look(time.monotonic(), claimable, free, state.all_total_count[0])
                silence = listen(silence, look, patience=self._patience)
                if is_deaf(silence, patience=self._patience) and not self._stopping.is_set():
                    _exit_deaf(self._child, look, self._patience)
            self._child.kill()
            self._child.wait()
            self._child = self._spawn_again()

    def _spawn_again(self) -> subprocess.Popen[bytes] | None:
        while not self._stopping.wait(_PAUSE):
            try:
                return spawn_sweep(self._lanes)
            except OSError as error:  # no process or no memory to be had at the moment
                log.warning("sweep_not_started", error=str(error))
        return None


def spawn_sweep(lanes: list[Lane]) -> subprocess.Popen[bytes]:
    """Start a sweep that ends with this process; its standard output is news of the work of these lanes."""
    command = [sys.executable, "-m", "workers.sweep", str(os.getpid()), *lanes]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def news_of(child: subprocess.Popen[bytes], *, longest: float) -> Iterator[bool]:
    """Yield the newest word of each time the child speaks: whether there is work that a worker like ours could take.

    Ends when the child does, or when it says nothing for ``longest`` seconds: whoever waits for news must not hang
    with who brings them. The end of the pipe is no sure sign: a process of the pool that is forked while a sweep is
    being started inherits its far end.
    """
    assert child.stdout is not None
    heard = time.monotonic()
    with selectors.DefaultSelector() as selector, child.stdout as pipe:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < heard + longest:
            if selector.select(min(longest, _LOOK_SECONDS)):
                words = os.read(pipe.fileno(), 4096).split()
                if not words:
                    return
                heard = time.monotonic()
                yield words[-1] == b"work"
            elif child.poll() is not None:
                return
    log.warning("sweep_hangs", seconds=longest)


def _is_free(worker: Any) -> bool:
    """Whether a process has nothing to do and may be given something: a worker that is to stop takes nothing more."""
    stopping = state.should_stop is not None or state.should_terminate is not None
    return not stopping and len(state.active_requests) < int(worker.concurrency)


def _exit_deaf(sweep: subprocess.Popen[bytes], look: Look, seconds: float) -> None:
    """End the whole worker, for its supervisor to start another.

    Not by an exception or a signal: the event loop that would have to see it may be what stands still. The kernel ends
    the pool with the worker.
    """
    log.error("worker_consumes_nothing", seconds=seconds, started=look.started)
    sweep.kill()
    os._exit(os.EX_TEMPFAIL)
