"""What goes through whole objects has workers of its own: they hold nobody up, and are stopped, killed and replaced."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from backports import zstd

from deploy.local.reaper import runs
from tests.failing_s3 import FailingS3, Request, Trouble
from tests.journeys.audit import audit_complete, whole_counts
from tests.journeys.oracle import Object, make_object
from tests.journeys.stack import Stack, wait_until
from tests.journeys.test_stopping import LONGEST_STOP, STOP_SECONDS
from tests.journeys.test_watchdog import LONG

_WALKED = "SELECT number, attempts FROM chunks WHERE import_id = %(id)s AND kind = 'walk' AND long AND state = 'leased'"


def start_walk(stack: Stack, source: Object, collection: str) -> str:
    """Import an object by Zstandard, larger than a chunk: it can only be gone through from its beginning."""
    content = zstd.compress(source.content)
    assert len(content) > 2 * stack.chunk_bytes
    return stack.start_native(stack.put(content), collection)


def drip_walk(slow: Stack, dripping: FailingS3) -> list[Request]:
    """Let what a walker reads next drip, and nothing else; return a list that is filled once it does."""
    leased = "SELECT count(*) FROM chunks WHERE kind = 'walk' AND long AND state = 'leased'"
    once = threading.Lock()

    def drip_once(request: Request) -> Trouble | None:
        if request.kind != "GET" or once.locked() or not slow.value(leased) or not once.acquire(blocking=False):
            return None
        return Trouble.DRIP

    dripping.rule = drip_once
    return dripping.troubled


def is_walked(slow: Stack, import_id: str) -> Callable[[], bool]:
    return lambda: bool(slow.rows(_WALKED, id=import_id))


def audit_walk(stack: Stack, import_id: str, source: Object) -> None:
    """Hold an import into an empty collection to the oracle: receipt, errors, and every byte."""
    stack.follow(import_id)
    status = stack.status(import_id)
    assert status["status"] == ("completed_with_errors" if source.rejects else "completed")
    assert status["counts"] == whole_counts(source)
    assert [error["index"] for error in stack.list_errors(import_id)] == [line.index for line in source.rejects]
    stored = stack.rows(
        "SELECT byte_offset, payload::text AS payload FROM events"
        " WHERE import_number = (SELECT number FROM imports WHERE id = %(id)s) ORDER BY byte_offset",
        id=import_id,
    )
    assert [(row.byte_offset, row.payload.encode()) for row in stored] == [
        (line.offset, line.payload) for line in sorted(source.firsts, key=lambda line: line.offset)
    ]


def test_imports_that_can_be_cut_do_not_wait_for_a_walk(slow: Stack, dripping: FailingS3, collection: str) -> None:
    walked, cut = make_object(1, 6_000), make_object(1, 3_000)
    drip_walk(slow, dripping)
    walk_id = start_walk(slow, walked, f"{collection}-walk")
    wait_until(is_walked(slow, walk_id), what="the walker is at it")
    for number in range(3):
        name = f"{collection}-{number}"
        import_id = slow.start(slow.put(cut.content), name)
        slow.follow(import_id, within=20)
        audit_complete(slow, name, import_id, cut)
    assert is_walked(slow, walk_id)(), "the walk was no hindrance: it had ended"

    dripping.flowing.set()
    audit_walk(slow, walk_id, walked)


def test_a_walker_at_work_for_long_is_not_taken_for_deaf_however_much_waits(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source = make_object(1, 6_000)
    drip_walk(slow, dripping)
    before = slow.service.pids["walker"]
    ids = [start_walk(slow, source, f"{collection}-{number}") for number in range(2)]
    wait_until(lambda: any(is_walked(slow, import_id)() for import_id in ids), what="the walker is at one of them")
    time.sleep(LONG)  # for once: that nothing happens is what has to be seen
    assert slow.service.pids["walker"] == before

    dripping.flowing.set()
    for import_id in ids:
        audit_walk(slow, import_id, source)
    assert slow.service.pids["walker"] == before
    said = [line["event"] for name in ("walker-1", "worker-1", "worker-2") for line in slow.log_of(name)]
    assert "walks_not_served" not in said


def test_a_deaf_walker_is_replaced(slow: Stack, collection: str) -> None:
    source, before = make_object(1, 6_000), slow.walker()
    slow.deafen_walker()
    audit_walk(slow, start_walk(slow, source, collection), source)

    assert slow.walker().main != before.main
    assert "worker_consumes_nothing" in [line["event"] for line in slow.log_of("walker-1")]


def test_a_walker_that_is_told_to_stop_gives_its_chunk_back_and_costs_no_attempt(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source, walker = make_object(1, 6_000), slow.walker()
    dripped = drip_walk(slow, dripping)
    import_id = start_walk(slow, source, collection)
    wait_until(lambda: dripped, what="the walker is at it")
    begun = time.monotonic()
    os.kill(walker.main, signal.SIGTERM)
    wait_until(lambda: not runs(walker.main), what="the walker is gone")

    assert STOP_SECONDS < time.monotonic() - begun < LONGEST_STOP + 3
    dripping.flowing.set()
    audit_walk(slow, import_id, source)
    assert slow.value("SELECT max(attempts) FROM chunks WHERE import_id = %(id)s", id=import_id) == 1


def test_a_walk_whose_walker_is_killed_goes_on_where_it_was_committed(
    slow: Stack, dripping: FailingS3, collection: str
) -> None:
    source = make_object(1, 20_000)
    drip_walk(slow, dripping)
    import_id = start_walk(slow, source, collection)
    done = "SELECT count(*) FROM chunks WHERE import_id = %(id)s AND kind = 'walk' AND state = 'done'"
    wait_until(lambda: slow.value(done, id=import_id), what="a part of the walk is committed")
    os.kill(slow.walker().main, signal.SIGKILL)
    dripping.flowing.set()
    audit_walk(slow, import_id, source)

    again = "SELECT count(*) FROM chunks WHERE import_id = %(id)s AND attempts > 1"
    assert slow.value(again, id=import_id) <= 1, "what was committed was loaded again"
