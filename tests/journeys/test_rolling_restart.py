"""Every process can be renewed while imports run: nothing is lost, doubled, failed or refused."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.local.reaper import runs
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Answer, Stack, processes_of, wait_until

#: Imports that the load keeps going, and threads that do.
AT_ONCE = 3
THREADS = 2


class Load:
    """Callers that start imports of one object, each into a collection of its own, and look at all that run."""

    def __init__(self, stack: Stack, key: str, collection: str) -> None:
        self._stack, self._key, self._collection = stack, key, collection
        self._numbers = itertools.count()
        self._changing = threading.Lock()
        self._over = threading.Event()
        self._running: list[str] = []
        #: By import: its collection.
        self.started: dict[str, str] = {}
        self.answers = 0
        #: Answers that no caller should get.
        self.wrong: list[Answer] = []

    @contextmanager
    def going_on(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._call) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _call(self) -> None:
        while not self._over.wait(0.05):
            if len(self._running) < AT_ONCE:
                self._start(f"{self._collection}-{next(self._numbers)}")
            for import_id in [*self._running]:
                self._look(import_id)

    def _start(self, collection: str) -> None:
        answer = self._asked(lambda: self._stack.post(self._key, collection), 201)
        if answer.status == 201:
            import_id = answer.headers["Location"].rsplit("/", 1)[1]
            with self._changing:
                self.started[import_id] = collection
                self._running.append(import_id)

    def _look(self, import_id: str) -> None:
        answer = self._asked(lambda: self._stack.request("GET", f"/event-import/{import_id}"), 200)
        if answer.status == 200 and answer.body["finished"]:
            with self._changing:
                if import_id in self._running:
                    self._running.remove(import_id)

    def _asked(self, ask: Callable[[], Answer], wanted: int) -> Answer:
        answer = ask()
        with self._changing:
            self.answers += 1
            if answer.status != wanted:
                self.wrong.append(answer)
        return answer


def test_all_processes_are_renewed_under_load_and_nothing_is_lost_doubled_failed_or_refused(
    stack: Stack, collection: str
) -> None:
    source = make_object(1, 3_000)
    load = Load(stack, stack.put(source.content), collection)
    with load.going_on():
        wait_until(lambda: len(load.started) > AT_ONCE, what="the load goes on")
        for number in range(stack.workers):
            renew_worker(stack, number)
        for _ in range(2):
            renew_web(stack)
        stack.servers.restart_redis()
        before = len(load.started)
        wait_until(lambda: len(load.started) > before, what="the load goes on")
    assert load.wrong == [], f"{len(load.wrong)} of {load.answers} answers"
    for import_id in load.started:
        stack.follow(import_id)

    for import_id, into in load.started.items():
        audit_complete(stack, into, import_id, source)


def renew_worker(stack: Stack, number: int) -> None:
    """Tell a worker to stop, and wait for the one that the supervisor starts instead."""
    old = stack.worker(number)
    os.kill(old.main, signal.SIGTERM)
    wait_until(lambda: not runs(old.main), what="the worker is gone")
    wait_until(lambda: len(stack.workers_up()) == stack.workers, what="its successor is up")


def renew_web(stack: Stack) -> None:
    """Tell gunicorn to renew its processes: it keeps the socket, so that nobody is refused meanwhile."""
    (master,) = stack.service.pids["web"]
    old = set(processes_of(master))
    os.kill(master, signal.SIGHUP)
    wait_until(lambda: old.isdisjoint(processes_of(master)), what="gunicorn has renewed its process")
    assert stack.service.pids["web"] == [master]
