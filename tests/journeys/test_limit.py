"""P8 on the whole road: whoever is killed, stopped or emptied, no project has more active imports than its limit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

from common.ledger.database import Database
from tests.journeys.audit import audit
from tests.journeys.oracle import make_object
from tests.journeys.stack import Stack, wait_until

LIMIT, CALLERS, IMPORTS = 4, 64, 64
ACTIVE = "SELECT count(*) FROM imports WHERE finished_at IS NULL"
#: The history is written by a trigger, in the transactions that move an import.
MOST_AT_ONCE = """
WITH moves AS (
    SELECT h.at, CASE WHEN h.state = 'pending' THEN 1 ELSE -1 END AS step
    FROM import_history AS h
    JOIN imports AS i ON i.id = h.import_id
    WHERE i.collection_id = (SELECT id FROM collections WHERE name = %(name)s)
      AND h.state NOT IN ('planning', 'running')
)
SELECT max(active) FROM (SELECT sum(step) OVER (ORDER BY at, step) AS active FROM moves) AS counted
"""


def test_no_crowd_and_no_fault_lets_one_import_too_many_in_and_every_slot_comes_back(
    stack: Stack, collection: str
) -> None:
    """64 callers at once, each trying until it is let in, while all that may fail does."""
    source = make_object(1, 150)
    key = stack.put(source.content)
    started = _Count()
    with _limit(stack, LIMIT), _watched(stack) as seen, ThreadPoolExecutor(CALLERS) as pool:
        done = [pool.submit(_start, stack, key, collection, started, number) for number in range(IMPORTS)]
        for least, strike in _faults(stack):
            wait_until(lambda least=least: started.value >= least, what=f"{least} imports were let in", within=90)
            strike()
        ids = {future.result() for future in done}
        wait_until(lambda: stack.value(ACTIVE) == 0, what="all imports have ended", within=90)
        assert len(ids) == IMPORTS, "two callers were told of the same import"
        # The history misses nothing; who looks a hundred times a second may miss the moment of the full house.
        assert stack.value(MOST_AT_ONCE, name=collection) == LIMIT
        assert 0 < max(seen) <= LIMIT
        wait_until(lambda: not _members(stack), what="the semaphore is as empty as the ledger")

        held = [stack.post(key, collection).status for _ in range(LIMIT)]
        assert held == [201] * LIMIT, "a slot has leaked"

    # Of a request that the API's death left unanswered an import may exist: the callers came again.
    every = [row.id.replace("-", "") for row in stack.rows("SELECT id FROM imports WHERE collection_id ="
             " (SELECT id FROM collections WHERE name = %(name)s) ORDER BY number", name=collection)]  # fmt: skip
    wait_until(lambda: stack.value(ACTIVE) == 0, what="the last ones have ended")
    audit(stack, collection, *((import_id, source) for import_id in every))


def test_a_request_repeated_until_it_is_answered_makes_one_import(stack: Stack, collection: str) -> None:
    """Connections to Postgres are cut and the API is killed between any two of its steps."""
    source = make_object(1, 50)
    key = stack.put(source.content)
    unanswered = 0
    for number in range(12):
        own = f"{collection}-{number}"
        striking = threading.Thread(target=_strike_soon, args=(stack, number))
        striking.start()
        answers = [stack.post_native(key, own, idempotency_key=own) for _ in range(3)]
        striking.join()
        answers.append(wait_until(lambda own=own: _accepted(stack, key, own), what="a repeated request is answered"))
        unanswered += sum(answer.status != 201 for answer in answers)
        told = {answer.body["id"] for answer in answers if answer.status == 201}
        made = "SELECT count(*) FROM imports AS i JOIN collections AS c ON c.id = i.collection_id WHERE c.name = %(n)s"
        assert (len(told), stack.value(made, n=own)) == (1, 1), answers
    assert unanswered, "no strike met a request"


def _strike_soon(stack: Stack, number: int) -> None:
    if number % 4 == 0:
        for pid in stack.service.pids["web"]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return
    for _ in range(20):
        stack.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock-web'"
            " AND state <> 'idle'"
        )


def _accepted(stack: Stack, key: str, collection: str) -> Any:
    answer = stack.post_native(key, collection, idempotency_key=collection)
    assert answer.status in (0, 201, 503), answer
    return answer if answer.status == 201 else None


class _Count:
    """A number that threads add to."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.value += 1


def _start(stack: Stack, key: str, collection: str, started: _Count, number: int) -> str:
    """Ask until let in, as a caller does who is refused: again, after a while."""
    dice = Random(number)
    while True:
        answer = stack.post(key, collection)
        if answer.status == 201:
            started.add()
            return str(answer.headers["Location"].rsplit("/", 1)[1])
        assert answer.status in (0, 429, 502, 503), answer
        if answer.status == 429:
            assert answer.body["limit"] == LIMIT == len(answer.body["activeImports"])
            assert int(answer.headers["Retry-After"]) > 0
        time.sleep(dice.uniform(0.2, 1.0))


def _faults(stack: Stack) -> list[tuple[int, Callable[[], object]]]:
    """What happens once so many imports were let in."""
    stopped: list[int] = []

    def stop_a_worker() -> None:
        worker = stack.worker(0)
        stopped.extend([worker.main, *worker.pool])
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    def wake_it() -> None:
        # Past every lease of journeys (3 s): its chunk, and its slot's fate, are others' by now.
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill_the_api() -> None:
        for pid in stack.service.pids["web"]:
            os.kill(pid, signal.SIGKILL)

    return [
        *((least, stack.flush) for least in (4, 8, 12)),
        (16, stop_a_worker),
        (18, stack.flush),
        (20, stack.servers.restart_redis),
        (30, wake_it),
        (34, lambda: stack.kill_worker(1)),
        (40, kill_the_api),
        (46, stack.flush),
        (50, stack.servers.restart_redis),
    ]


@contextmanager
def _limit(stack: Stack, limit: int) -> Iterator[None]:
    sets = "UPDATE projects SET import_limit = %(limit)s WHERE id = %(id)s RETURNING id"
    stack.rows(sets, limit=limit, id=stack.service.project.id)
    try:
        yield
    finally:
        stack.rows(sets, limit=None, id=stack.service.project.id)


@contextmanager
def _watched(stack: Stack) -> Iterator[list[int]]:
    """Count the active imports from outside, on a connection of its own, a hundred times a second."""
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        database = Database(stack.service.environment["DATABASE_URL"], application_name="watching")
        while not done.wait(0.01):
            with database.transaction() as tx:
                seen.append(tx.one(ACTIVE).count)
        database.close()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _members(stack: Stack) -> list[bytes]:
    with stack.redis() as client:
        return list(client.zrange(f"penstock:slots:{stack.service.project.id}", 0, -1))
