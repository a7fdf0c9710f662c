"""P8: the semaphore in Redis refuses cheaply and decides nothing; the count in Postgres holds, whatever Redis says."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from common.errors import Refusal, Terminal
from common.live.connection import Live
from common.live.slots import Slots
from common.model.imports import ACTIVE
from common.model.sources import SourceRef
from tests.stage import Stage, event, ndjson
from workers.imports.plan import plan_import
from workers.imports.settle import fail_import
from workers.sweep import sweep

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def slots(stage: Stage) -> Slots:
    return stage.runtime.slots


@pytest.fixture
def client(stage: Stage) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stage.settings.redis_url) as connected:
        yield connected


def members(client: redis.Redis, project_id: str) -> set[str]:
    return {member.decode() for member in client.zrange(f"penstock:slots:{project_id}", 0, -1)}


def active(stage: Stage) -> set[str]:
    return {item.id for item in stage.desk.list_imports(stage.caller, limit=200).items if item.state in ACTIVE}


def test_an_import_takes_one_slot_however_often_it_asks(slots: Slots) -> None:
    assert [slots.take("p", "a", limit=2) for _ in range(3)] == [True] * 3
    assert slots.take("p", "b", limit=2)
    assert not slots.take("p", "c", limit=2)
    assert slots.take("q", "c", limit=2), "projects were mixed up"

    slots.give_back("p", "a")
    assert slots.take("p", "c", limit=2)


def test_without_redis_nobody_is_refused_by_it() -> None:
    away = Slots(Live(NOBODY, timeout_seconds=0.2))

    assert away.take("p", "a", limit=0)
    assert away.clock() is None
    away.give_back("p", "a")
    away.match({"p": ["a"]}, at=0)


def test_matching_takes_out_what_ended_puts_in_what_is_missing_and_keeps_who_came_later(
    slots: Slots, client: redis.Redis
) -> None:
    slots.take("p", "ended", limit=9)
    slots.take("idle", "ended", limit=9)
    at = slots.clock()
    assert at is not None
    slots.take("p", "later", limit=9)

    slots.match({"p": ["running"], "new": ["running"]}, at=at)

    assert members(client, "p") == {"running", "later"}
    assert members(client, "new") == {"running"}
    assert members(client, "idle") == set()
    assert client.smembers("penstock:slots") == {b"p", b"new"}


def test_what_was_written_by_hand_is_healed(slots: Slots, client: redis.Redis) -> None:
    """Scores of tomorrow, keys of another type: one of them must not keep the others from being matched."""
    client.zadd("penstock:slots:p", {"ghost": 1e12})
    client.set("penstock:slots:q", "x")
    client.set("penstock:slots", "x")
    at = slots.clock()
    assert at is not None
    for _ in range(2):
        slots.match({"p": ["running"], "q": ["running"], "r": ["running"]}, at=at)

    assert [members(client, project) for project in "pqr"] == [{"running"}] * 3
    assert client.smembers("penstock:slots") == {b"p", b"q", b"r"}


def test_a_full_house_of_ghosts_in_redis_refuses_nobody(stage: Stage, slots: Slots, client: redis.Redis) -> None:
    for ghost in range(stage.settings.import_limit):
        assert slots.take(stage.caller.project_id, str(ghost), limit=stage.settings.import_limit)

    import_id = stage.start(b"")
    assert active(stage) == {import_id}

    sweep(stage.runtime)
    assert members(client, stage.caller.project_id) == {import_id}


def test_an_emptied_redis_lets_nobody_in_above_the_limit(stage: Stage, client: redis.Redis) -> None:
    stage.runtime = stage.worker(import_limit=2)
    started = {stage.start(b"") for _ in range(2)}
    stage.flush_redis()

    with pytest.raises(Refusal, match="2 of 2") as refused:
        stage.start(b"")
    assert set(refused.value.details["activeImports"]) == started
    assert 12 <= refused.value.details["retryAfter"] <= 18
    assert members(client, stage.caller.project_id) == set(), "who was refused kept a slot"

    sweep(stage.runtime)
    assert members(client, stage.caller.project_id) == started


def test_a_crowd_before_a_full_house_does_not_wait_for_admissions(stage: Stage) -> None:
    """Whoever admits holds a lock until its commit; who is refused anyway must not queue behind it."""
    stage.runtime = stage.worker(import_limit=1)
    stage.start(b"")
    with stage.runtime.database.transaction() as tx:
        tx.run("SET lock_timeout = '1s'")
    with stage.worker().database.transaction() as admitting:
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('slots:' || %(id)s, 0))"
        admitting.run(lock, id=stage.caller.project_id)
        with pytest.raises(Refusal, match="1 of 1"):
            stage.start(b"")


def test_every_end_of_an_import_frees_its_slot_at_once(stage: Stage, client: redis.Redis) -> None:
    project = stage.caller.project_id
    cancelled, failed, empty = (stage.start(b"") for _ in range(3))
    assert members(client, project) == {cancelled, failed, empty}

    stage.desk.cancel_import(stage.caller, cancelled)
    assert members(client, project) == {failed, empty}
    fail_import(stage.runtime, failed, Terminal("x", "x"))
    assert members(client, project) == {empty}
    plan_import(stage.runtime, empty)
    assert members(client, project) == set()

    stage.run(ndjson(event("a")))
    assert members(client, project) == set()


def test_a_projects_own_limit_is_the_semaphores_too(stage: Stage, client: redis.Redis) -> None:
    stage.query("UPDATE projects SET import_limit = 1 WHERE id = %(id)s RETURNING id", id=stage.caller.project_id)
    stage.caller = replace(stage.caller, import_limit=1)
    first = stage.start(b"")
    with pytest.raises(Refusal, match="1 of 1"):
        stage.start(b"")
    assert members(client, stage.caller.project_id) == {first}


def test_under_any_race_no_more_than_the_limit_are_active_and_no_slot_leaks(
    stage: Stage, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 threads start and cancel, while Redis is emptied between some taking of a slot and the insert of its row.

    The independent count is the history's: how many lay between their first and their last entry at any moment.
    """
    stage.runtime = stage.worker(import_limit=5)
    ref, was_full = stage.put(b""), threading.Event()
    take, dice = stage.runtime.slots.take, random.Random(8)
    flushed_in_between: list[bool] = []

    def take_and_perhaps_flush(project_id: str, import_id: str, *, limit: int) -> bool:
        taken = take(project_id, import_id, limit=limit)
        if taken and dice.random() < 0.2:
            stage.flush_redis()
            flushed_in_between.append(taken)
        return taken

    monkeypatch.setattr(stage.runtime.slots, "take", take_and_perhaps_flush)

    def start_and_cancel(number: int) -> bool:
        try:
            import_id = stage.start(ref)
        except Refusal:
            was_full.set()
            return False
        finally:
            if number % 10 == 0:
                sweep(stage.runtime)
        assert was_full.wait(60), "nobody was refused"
        stage.desk.cancel_import(stage.caller, import_id)
        return True

    with ThreadPoolExecutor(64) as pool:
        admitted = sum(pool.map(start_and_cancel, range(400)))

    assert admitted >= 5
    assert flushed_in_between
    assert most_at_once(stage) == 5
    sweep(stage.runtime)
    assert members(client, stage.caller.project_id) == set()


def test_the_limit_holds_in_a_database_that_prefers_another_isolation(stage: Stage) -> None:
    """Under "repeatable read" the count behind the lock is as old as the transaction: 23 were let in, not 3."""
    name = stage.query("SELECT current_database() AS name")[0].name
    with stage.runtime.database.transaction() as tx:
        tx.run(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    try:
        stage.runtime = stage.worker(import_limit=3)
        stage.runtime.slots = Slots(Live(NOBODY, timeout_seconds=0.2))

        def start(number: int) -> bool:
            try:
                stage.start(SourceRef("b", "k"), collection=str(number))
            except Refusal:
                return False
            return True

        with ThreadPoolExecutor(24) as pool:
            assert sum(pool.map(start, range(24))) == 3
    finally:
        with stage.runtime.database.transaction() as tx:
            tx.run(f"ALTER DATABASE {name} RESET default_transaction_isolation")


def most_at_once(stage: Stage) -> int:
    """Return how many imports of the project were active at the same moment, by the history that a trigger writes."""
    (row,) = stage.query(
        """
        WITH moves AS (
            SELECT h.at, CASE WHEN h.state = 'pending' THEN 1 ELSE -1 END AS step
            FROM import_history AS h
            JOIN imports AS i ON i.id = h.import_id
            WHERE i.project_id = %(id)s AND h.state IN ('pending', 'completed', 'failed', 'cancelled')
        )
        SELECT max(active) AS most FROM (SELECT sum(step) OVER (ORDER BY at, step) AS active FROM moves) AS counted
        """,
        id=stage.caller.project_id,
    )
    return int(row.most)
