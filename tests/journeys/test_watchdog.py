"""A worker that is alive, connected and consumes nothing is replaced; one with a reason not to consume is not."""

from __future__ import annotations

import os
import signal
import time

from deploy.local.reaper import runs
from tests.failing_s3 import FailingS3, Trouble
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Stack, wait_until

#: Well beyond the patience of these workers, 2 s.
LONG = 3.5


def test_workers_that_have_gone_deaf_are_replaced_and_the_import_completes(slow: Stack, collection: str) -> None:
    source = make_object(1, 3_000)
    key = slow.put(source.content)
    deaf = [slow.worker(number) for number in range(slow.workers)]
    for number in range(slow.workers):
        slow.deafen(number)
    import_id = slow.start(key, collection)
    slow.follow(import_id)

    audit_complete(slow, collection, import_id, source)
    assert _complaints(slow), "no worker said why it ended"
    gone = [worker for worker in deaf if worker.main not in slow.service.pids["worker"]]
    assert gone, "the deaf ones live on"
    for worker in gone:
        wait_until(lambda all=worker: not any(map(runs, [*all.pool, *all.sweep])), what="nothing is left of the worker")
    for worker in deaf:
        if worker not in gone:  # the other's successor was so fast that there was no work left for long
            os.kill(worker.main, signal.SIGKILL)


def test_slow_chunks_and_a_broker_that_is_away_are_no_reason_to_end(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source = make_object(1, 3_000)
    before, complaints = slow.service.pids["worker"], len(_complaints(slow))
    import_id = slow.start(slow.put(source.content), collection)
    dripping.rule = lambda asked: Trouble.DRIP if asked.kind == "GET" and slow.open_chunks(import_id) else None
    wait_until(lambda: slow.leased(import_id) == slow.workers, what="every worker is busy with a slow chunk")
    time.sleep(LONG)  # for once: that nothing happens is what has to be seen
    assert slow.service.pids["worker"] == before

    slow.servers.stop_redis()
    try:
        dripping.flowing.set()
        wait_until(lambda: slow.leased(import_id) == 0, what="nobody is busy")
        assert slow.open_chunks(import_id), "no work was left: give it a larger object"
        time.sleep(LONG)
        # Afterwards a worker may take longer than its patience here to look for Redis again (up to 5 s).
        assert slow.service.pids["worker"] == before
        assert len(_complaints(slow)) == complaints
    finally:
        slow.servers.restart_redis()
    slow.follow(import_id)

    audit_complete(slow, collection, import_id, source)


def _complaints(stack: Stack) -> list[str]:
    lines = [line["event"] for number in range(stack.workers) for line in stack.log_of(f"worker-{number + 1}")]
    return [event for event in lines if event == "worker_consumes_nothing"]
