"""P1 and P4: Redis may forget, Postgres may restart, either may be away; nothing is lost and nothing doubled."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.local.postgres import StopMode
from tests.journeys.audit import audit_complete
from tests.journeys.oracle import make_object
from tests.journeys.stack import Fault, Stack, wait_until


def test_an_emptied_redis_costs_nothing_but_speed(stack: Stack, collection: str) -> None:
    source = make_object(1, 25_000)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(import_id, *(Fault(percent, stack.flush) for percent in (0, 10, 20, 40, 60, 75, 85)))

    audit_complete(stack, collection, import_id, source)


def test_a_redis_that_is_killed_and_comes_back_empty_costs_nothing_but_speed(stack: Stack, collection: str) -> None:
    source = make_object(1, 25_000)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(import_id, *(Fault(percent, stack.servers.restart_redis) for percent in (10, 40, 70)))

    audit_complete(stack, collection, import_id, source)


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_restart_of_postgres_loses_and_doubles_nothing(stack: Stack, collection: str, mode: StopMode) -> None:
    source = make_object(1, 20_000)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(
        import_id,
        Fault(15, lambda: stack.servers.restart_postgres(mode)),
        Fault(60, lambda: stack.servers.restart_postgres(mode)),
        outage=True,
    )

    audit_complete(stack, collection, import_id, source)


def test_cut_connections_to_postgres_lose_and_double_nothing(stack: Stack, collection: str) -> None:
    """Anywhere in a chunk, the COMMIT included: then only the rows can tell what became of it."""
    source = make_object(1, 25_000)
    import_id = stack.start(stack.put(source.content), collection)
    stack.follow(import_id, *(Fault(percent, stack.end_sessions) for percent in range(2, 90, 4)))

    audit_complete(stack, collection, import_id, source)


def test_an_import_is_taken_while_redis_is_down_and_runs_when_it_is_back(stack: Stack, collection: str) -> None:
    source = make_object(1, 3_000)
    key = stack.put(source.content)
    stack.servers.stop_redis()
    try:
        import_id = stack.start(key, collection)
        waiting = stack.request("GET", f"/event-import/{import_id}")
    finally:
        stack.servers.restart_redis()
    stack.follow(import_id)

    assert (waiting.status, waiting.body["status"]) == (200, "pending")
    audit_complete(stack, collection, import_id, source)


def test_while_postgres_is_down_callers_are_told_when_to_come_again(stack: Stack, collection: str) -> None:
    source = make_object(1, 3_000)
    key = stack.put(source.content)
    stack.servers.stop_postgres()
    try:
        refused = [
            stack.post(key, collection),
            stack.post_native(key, collection),
            stack.request("GET", f"/event-import/{'0' * 32}"),
        ]
    finally:
        stack.servers.restart_postgres()
    import_id = stack.start(key, collection)
    stack.follow(import_id)

    assert [answer.status for answer in refused] == [503, 503, 503]
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    wait_until(lambda: stack.request("GET", "/readyz").status == 200, what="the API is ready again")
    # What was refused left nothing behind: the audit knows of one import in this collection.
    audit_complete(stack, collection, import_id, source)
    of_collection = (
        "SELECT count(*) FROM imports AS i JOIN collections AS c ON c.id = i.collection_id WHERE c.name = %(n)s"
    )
    assert stack.value(of_collection, n=collection) == 1


def test_while_postgres_hangs_callers_are_told_so_and_the_process_lives(stack: Stack, collection: str) -> None:
    """Stopped, not dead: its connections stand, and none of its own timeouts ends a wait."""
    source = make_object(1, 15_000)
    import_id = stack.start(stack.put(source.content), collection)
    path = f"/event-import/{import_id}"

    def hang() -> None:
        stopped = stack.stop_postgres_processes()
        try:
            begun = time.monotonic()
            with ThreadPoolExecutor(20) as pool:  # more than the process has threads
                answers = list(pool.map(lambda _: stack.request("GET", path), range(20)))
            assert {answer.status for answer in answers} == {503}, answers
            assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
            assert stack.request("GET", "/healthz").status == 200
            assert time.monotonic() - begun < 15, "two rounds of threads, of one or two waits each"
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    stack.follow(import_id, Fault(10, hang))

    audit_complete(stack, collection, import_id, source)
