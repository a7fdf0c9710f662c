"""A worker that is told to stop is gone within a known time, and gives back what it cannot finish."""

from __future__ import annotations

import os
import signal
import time

from deploy.local.reaper import runs
from tests.failing_s3 import FailingS3, Trouble
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Stack, Worker, wait_until
from workers.stopping import GIVE_BACK_SECONDS, LEAVE_SECONDS

#: Of these workers.
STOP_SECONDS = 2.0
LONGEST_STOP = STOP_SECONDS + GIVE_BACK_SECONDS + LEAVE_SECONDS


def start_slow_import(slow: Stack, dripping: FailingS3, content: bytes, collection: str) -> str:
    """Start an import and return when every worker is in the middle of a chunk that takes for ever."""
    import_id = slow.start(slow.put(content), collection)
    dripping.rule = lambda asked: Trouble.DRIP if asked.kind == "GET" and slow.open_chunks(import_id) else None
    wait_until(lambda: slow.leased(import_id) == slow.workers, what="every worker is busy with a slow chunk")
    return import_id


def stop(worker: Worker) -> float:
    """Tell a worker to stop and return how long that took."""
    began = time.monotonic()
    os.kill(worker.main, signal.SIGTERM)
    wait_until(lambda: not runs(worker.main), what="the worker is gone")
    return time.monotonic() - began


def test_a_chunk_that_a_stopping_worker_cannot_finish_is_given_back_and_costs_no_attempt(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source = make_object(1, 3_000)
    import_id = start_slow_import(slow, dripping, source.content, collection)
    worker = slow.worker(0)
    (held,) = [
        row.number
        for row in slow.rows(
            "SELECT number, holder_pid FROM chunks WHERE import_id = %(id)s AND state = 'leased'", id=import_id
        )
        if slow.holds(worker, row.holder_pid)
    ]
    took = stop(worker)
    given_back = "SELECT attempts FROM chunks WHERE import_id = %(id)s AND number = %(number)s"
    wait_until(lambda: not any(map(runs, [*worker.pool, *worker.sweep])), what="nothing is left of the worker")

    assert STOP_SECONDS < took < LONGEST_STOP + 3
    # 1 where the supervisor's next worker has taken it already.
    assert slow.value(given_back, id=import_id, number=held) <= 1
    dripping.flowing.set()
    slow.follow(import_id)
    assert slow.value("SELECT max(attempts) FROM chunks WHERE import_id = %(id)s", id=import_id) == 1
    audit_complete(slow, collection, import_id, source)


def test_a_chunk_that_is_done_in_time_is_committed_by_the_worker_that_stops(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source = make_object(1, 3_000)
    import_id = start_slow_import(slow, dripping, source.content, collection)
    leases = dict(
        slow.rows("SELECT number, lease_token FROM chunks WHERE import_id = %(id)s AND state = 'leased'", id=import_id)
    )
    workers = slow.workers_up()
    for worker in workers:
        os.kill(worker.main, signal.SIGTERM)
    dripping.flowing.set()
    for worker in workers:
        wait_until(lambda pid=worker.main: not runs(pid), what="the worker is gone")
    slow.follow(import_id)

    done = dict(slow.rows("SELECT number, lease_token FROM chunks WHERE import_id = %(id)s", id=import_id))
    assert {number: done[number] for number in leases} == leases
    assert not [line for n in (1, 2) for line in slow.log_of(f"worker-{n}") if line["event"] == "worker_did_not_leave"]
    audit_complete(slow, collection, import_id, source)


def test_a_worker_stopped_in_the_middle_of_planning_leaves_the_plan_to_another(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source = make_object(1, 3_000)
    key = slow.put(source.content)
    dripping.rule = lambda asked: Trouble.DRIP if asked.kind == "GET" else None
    import_id = slow.start(key, collection)
    planner = "SELECT holder_pid FROM imports WHERE id = %(id)s AND state = 'planning'"
    held_by = wait_until(lambda: slow.rows(planner, id=import_id), what="the import is being planned")[0].holder_pid
    (worker,) = [worker for worker in slow.workers_up() if slow.holds(worker, held_by)]
    took = stop(worker)
    wait_until(
        lambda: slow.rows(planner, id=import_id)[0].holder_pid not in (held_by, None), what="another worker plans"
    )
    dripping.flowing.set()
    slow.follow(import_id)

    assert took < LONGEST_STOP + 3
    audit_complete(slow, collection, import_id, source)
