"""P1: whatever process is killed at whatever instant, every line is stored once."""

from __future__ import annotations

import os
import signal
from random import Random
from typing import Any

import pytest

from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Fault, Stack, Worker, wait_until


def test_a_killed_worker_loses_and_doubles_nothing(stack: Stack, collection: str) -> None:
    source = make_object(1, 30_000)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(
        import_id,
        Fault(10, lambda: stack.kill_worker(0)),
        Fault(40, lambda: stack.kill_worker(1)),
        Fault(80, lambda: stack.kill_worker(0)),
        least=2,
    )

    audit_complete(stack, collection, import_id, source)


def test_a_pool_process_killed_in_the_middle_of_its_commit_loses_and_doubles_nothing(
    stack: Stack, collection: str
) -> None:
    """At each kind of statement of a chunk's transaction."""
    source = make_object(1, 25_000)
    import_id = stack.start(stack.put(source.content), collection)

    statements = ["COPY events", "COPY suspects", "INSERT INTO events", "SET state = 'done'", "COMMIT"]
    stack.follow(
        import_id,
        *(
            # Who was killed last is last in turn: Celery takes up to 5 s to notice.
            Fault(2 + 12 * n, lambda n=n, at=at: stack.signal_pool_at(_in_turn(stack, n), at, signal.SIGKILL))
            for n, at in enumerate(statements)
        ),
        least=3,
    )

    audit_complete(stack, collection, import_id, source)


def _in_turn(stack: Stack, number: int) -> Worker:
    workers = stack.workers_up()
    return workers[number % len(workers)]


def test_an_import_outlives_all_workers_at_once(stack: Stack, collection: str) -> None:
    source = make_object(1, 15_000)
    import_id = stack.start(stack.put(source.content), collection)

    def kill_all() -> None:
        for worker in [stack.worker(number) for number in range(stack.workers)]:
            for pid in (worker.main, *worker.pool, *worker.sweep):
                os.kill(pid, signal.SIGKILL)

    stack.follow(import_id, Fault(30, kill_all))

    audit_complete(stack, collection, import_id, source)


def test_killing_anything_of_the_workers_at_any_time_loses_and_doubles_nothing(stack: Stack, collection: str) -> None:
    """Sweeps, pool and main processes, in an order that the seed draws."""
    source = make_object(1, 30_000)
    import_id = stack.start(stack.put(source.content), collection)
    random = Random(14)

    def kill_one() -> None:
        worker = random.choice(stack.workers_up())
        for pid in random.choice([worker.sweep, worker.pool, worker.pool, [worker.main]]):
            os.kill(pid, signal.SIGKILL)

    stack.follow(import_id, *(Fault(percent, kill_one) for percent in range(4, 90, 14)), least=3)

    audit_complete(stack, collection, import_id, source)


def test_an_import_goes_on_while_the_api_is_dead(stack: Stack, collection: str) -> None:
    source = make_object(1, 15_000)
    import_id = stack.start(stack.put(source.content), collection)

    def kill_the_api() -> None:
        for pid in stack.service.pids["web"]:
            os.kill(pid, signal.SIGKILL)

    poll = stack.follow(import_id, Fault(10, kill_the_api), outage=True)

    assert poll.refused, "nobody noticed that the API was dead"
    audit_complete(stack, collection, import_id, source)


def test_a_planner_killed_before_it_has_planned_is_replaced(stack: Stack, collection: str) -> None:
    """The import is accepted and no worker lives to hear of it, or only for a moment."""
    source = make_object(1, 3_000)
    key = stack.put(source.content)
    for number in range(stack.workers):
        stack.kill_worker(number)
    import_id = stack.start(key, collection)
    stack.follow(import_id)

    audit_complete(stack, collection, import_id, source)


@pytest.mark.parametrize("words", ["COPY events", "SET state = 'done'"])
def test_a_worker_stopped_past_its_lease_comes_back_as_a_stranger(stack: Stack, collection: str, words: str) -> None:
    """SIGSTOP closes no connection: only the lease tells, and what the sleeper still holds must not commit."""
    # No repeated ids: nobody else waits for the sleeper's uncommitted keys.
    source = make_object(16, 40_000, repeated=0)
    import_id = stack.start(stack.put(source.content), collection)
    stored = _sleep_through(stack, import_id, words)

    assert stack.stored(import_id) == stored == len(source.firsts)
    audit_complete(stack, collection, import_id, source)


def test_a_stopped_worker_whose_keys_others_wait_for_holds_them_up_no_longer_than_its_lease(
    stack: Stack, collection: str
) -> None:
    """Every chunk repeats ids of every other, so the one worker left soon waits for keys of the sleeper."""
    source = make_object(17, 12_000, repeated=0.9)
    import_id = stack.start(stack.put(source.content), collection)
    # The first words of the statement that places suspects: Postgres shows no more than 1,024 bytes of one.
    stored = _sleep_through(stack, import_id, "Suspects whose id is free")

    assert stack.stored(import_id) == stored == len(source.firsts)
    audit_complete(stack, collection, import_id, source)


def test_a_worker_that_slept_while_it_lost_connection_and_chunk_cannot_commit_it_again(
    stack: Stack, collection: str
) -> None:
    """It sleeps outside of any transaction and wakes while the import runs: the token alone keeps it out."""
    source = make_object(1, 40_000)
    import_id = stack.start(stack.put(source.content), collection)
    stopped: list[int] = []

    def sleep_until_another_has_done_the_chunk() -> None:
        worker = stack.worker(0)
        chunks: list[Any] = []
        while not chunks:
            assert stack.status(import_id)["status"] == "running", "it was never met at its commit"
            stopped.extend(_stop_at(stack, worker, "COMMIT"))
            idle = [one.pid for one in stack.sessions(worker.pool) if one.state == "idle"]
            held = "SELECT id FROM chunks WHERE import_id = %(id)s AND state = 'leased' AND holder_pid = ANY (%(pids)s)"
            chunks = stack.rows(held, id=import_id, pids=idle)
            if not chunks:
                _wake(stopped)
        stack.rows("SELECT pg_terminate_backend(pid) FROM unnest(%(pids)s) AS p (pid)", pids=idle)
        is_done = "SELECT state = 'done' FROM chunks WHERE id = %(id)s"
        wait_until(lambda: stack.value(is_done, id=chunks[0].id), what="another worker has done the sleeper's chunk")
        assert stack.status(import_id)["status"] == "running", "the sleeper woke too late: give it a larger object"
        _wake(stopped)

    try:
        stack.follow(import_id, Fault(5, sleep_until_another_has_done_the_chunk))
    finally:
        _wake(stopped)
    stack.drain(idle=1.0)

    audit_complete(stack, collection, import_id, source)


def _sleep_through(stack: Stack, import_id: str, words: str) -> int:
    """Stop worker 0 at a statement of its commit until the import has ended; return what was stored by then."""
    stopped: list[int] = []

    def stop_at_the_statement() -> None:
        worker = stack.worker(0)
        while not stopped:
            # A statement of a small chunk is over in a millisecond or two: it may take many tries.
            assert stack.status(import_id)["status"] == "running", "it was never met at the statement"
            stopped.extend(_stop_at(stack, worker, words))
            if not _sleeps_at(stack, worker.pool, words):
                _wake(stopped)

    try:
        # Ten times the lease; what waits for Postgres' own timeouts takes 60 s.
        stack.follow(import_id, Fault(10, stop_at_the_statement), within=30)
        return stack.stored(import_id)
    finally:
        _wake(stopped)
        stack.drain(idle=1.0)


def _stop_at(stack: Stack, worker: Worker, words: str) -> list[int]:
    stack.signal_pool_at(worker, words, signal.SIGSTOP)
    os.kill(worker.main, signal.SIGSTOP)
    return [*worker.pool, worker.main]


def _wake(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    pids.clear()


def _sleeps_at(stack: Stack, pool: list[int], words: str) -> bool:
    """Look once the server has done all that the sleeper had asked for."""

    def settled() -> list[Any]:
        sessions = stack.sessions(pool)
        return [] if any(one.state == "active" and one.wait_event != "ClientRead" for one in sessions) else sessions

    sessions = wait_until(settled, what="the server waits for the sleeper")
    return any(one.state != "idle" and words in one.query for one in sessions)
