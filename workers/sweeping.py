"""Keeps a sweep running beside the worker: a process of its own, because its connections must not cross the pool's
forks and a worker busy with chunks must not delay it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

from celery import bootsteps

#: Seconds before a sweep that ended is started again.
_PAUSE = 1.0


class SweepStep(bootsteps.StartStopStep):
    """Starts the sweep with the worker and ends it with the worker.

    A thread watches over the child, not a timer of the worker's event loop: those stand still after some
    reconnections to the broker.
    """

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Make ready; nothing is started yet."""
        super().__init__(parent, **kwargs)
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, parent: Any) -> None:  # noqa: ARG002  Celery names it
        """Start the sweep and the thread that starts it again."""
        self._child = self._spawn()
        threading.Thread(target=self._watch, name="sweep-watch", daemon=True).start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  Celery names it
        """End the sweep; whatever it was doing, another worker's does again."""
        self._stopping.set()
        if self._child:
            self._child.terminate()

    def terminate(self, parent: Any) -> None:
        """End the sweep when the worker ends in a hurry."""
        self.stop(parent)

    def _watch(self) -> None:
        while self._child and not self._stopping.is_set():
            self._child.wait()
            if not self._stopping.wait(_PAUSE):
                self._child = self._spawn()

    @staticmethod
    def _spawn() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "workers.sweep", str(os.getpid())])
