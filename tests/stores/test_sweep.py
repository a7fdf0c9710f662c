"""The sweep heals what falls between, and changes nothing where all is well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import cast

import pytest
import redis
import structlog

from common.dispatch import Dispatch, Lane
from common.errors import Transient
from common.ledger import chunks, exports, imports, leases
from common.ledger.database import Database, Tx
from common.model.imports import ImportState
from tests.stage import Hand, Stage, event, ndjson
from workers import sweep as sweeping
from workers.imports import load, settle
from workers.imports.plan import plan_import
from workers.sweep import sweep


def age(stage: Stage, table: str, *, seconds: int = 3600) -> None:
    """Make everything look sent so much longer ago."""
    with stage.runtime.database.transaction() as tx:
        tx.run(f"UPDATE {table} SET sent_at = sent_at - make_interval(secs => %(seconds)s)", seconds=seconds)


def lines(prefix: str, count: int) -> bytes:
    """Return lines each of which is a chunk."""
    return ndjson(*(event(f"{prefix}-{n}", size=200) for n in range(count)))


@pytest.fixture(autouse=True)
def _only_ours(stage: Stage) -> None:
    """End what other tests left under way: the sweep looks at everything."""
    with stage.runtime.database.transaction() as tx:
        tx.run(
            "UPDATE imports SET state = 'cancelled', finished_at = now()"
            " WHERE state IN ('pending', 'planning', 'running')"
        )
        tx.run("UPDATE exports SET state = 'cancelled', finished_at = now() WHERE state IN ('pending', 'running')")


def test_a_plan_whose_message_was_lost_is_sent_again(stage: Stage) -> None:
    import_id = stage.start(ndjson(event("a")))
    stage.sent.plans.clear()
    sweep(stage.runtime)
    assert stage.sent.plans == [], "sent too soon"

    age(stage, "imports")
    sweep(stage.runtime)
    assert stage.sent.plans == [import_id]


def test_chunks_whose_messages_were_lost_are_sent_again_up_to_the_window(stage: Stage) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=200) for n in range(10))))
    assert stage.sent.loads == ids[:3]
    stage.sent.loads.clear()
    age(stage, "chunks")

    sweep(stage.runtime)
    sweep(stage.runtime)

    assert stage.sent.loads == ids[:3]


def test_what_merely_waits_in_the_queue_for_long_is_not_sent_again(stage: Stage) -> None:
    """A second message would give its import a second turn, at the cost of the others."""
    stage.planned(lines("id", 10))
    stage.sent.loads.clear()
    age(stage, "chunks", seconds=10)
    for waiting, sent in ((3, 0), (5, 0), (1, 2)):
        stage.sent.waiting = waiting
        sweep(stage.runtime)
        assert len(stage.sent.loads) == sent


def test_what_is_missing_is_what_was_sent_first_and_not_the_import_that_is_least_far(stage: Stage) -> None:
    """In the order of chunk numbers, the others' waiting chunks were sent twice and the lost ones never."""
    lost = stage.planned(lines("lost", 12))
    for chunk_id in lost[:5]:
        load.load_chunk(stage.runtime, chunk_id)
    stage.planned(lines("waiting", 12))
    stage.sent.loads.clear()
    age(stage, "chunks", seconds=10)
    stage.sent.waiting = 3
    sweep(stage.runtime)

    assert stage.sent.loads == lost[5:8]


def test_what_is_lost_comes_back_though_one_message_too_many_of_another_import_hides_it(stage: Stage) -> None:
    stage.planned(lines("waiting", 12))
    lost = stage.planned(lines("lost", 12))[:3]
    stage.sent.loads.clear()
    stage.sent.waiting = 6
    age(stage, "chunks", seconds=10)
    sweep(stage.runtime)
    assert stage.sent.loads == [], "as many wait as are due"

    age(stage, "chunks", seconds=50)
    sweep(stage.runtime)
    assert set(lost) <= set(stage.sent.loads)


def test_a_chunk_given_back_is_sent_again_however_many_wait(stage: Stage) -> None:
    chunk_id, *_ = stage.planned(lines("id", 12))
    hand = Hand.takes(stage.worker(), chunk_id)
    with stage.runtime.database.transaction() as tx:
        chunks.release_chunk(tx, hand.chunk)
    stage.sent.loads.clear()
    stage.sent.waiting = 5
    sweep(stage.runtime)

    assert stage.sent.loads == [chunk_id]


def test_messages_sent_twice_dwindle_to_the_window_and_those_of_another_import_do_not(stage: Stage) -> None:
    """Each of them would be one turn more for its import until it ends."""
    twice, once = stage.planned(lines("twice", 40)), stage.planned(lines("once", 40))
    queue = [*stage.sent.loads, *twice[:3]]
    for _ in range(18):
        stage.sent.loads.clear()
        load.load_chunk(stage.runtime, queue.pop(0))
        queue += stage.sent.loads

    assert [len(set(ids) & set(queue)) for ids in (twice, once)] == [3, 3]
    assert len(queue) == 6


def test_nothing_is_sent_again_while_too_much_waits_that_is_not_due_or_the_broker_does_not_say(stage: Stage) -> None:
    stage.planned(ndjson(event("a")))
    stage.sent.loads.clear()
    age(stage, "chunks")
    for waiting in (1 + stage.settings.resend_queue_bound, None):
        stage.sent.waiting = waiting
        sweep(stage.runtime)

    assert stage.sent.loads == []


def test_a_lost_plan_is_sent_again_though_the_windows_of_large_imports_exceed_the_bound(stage: Stage) -> None:
    for _ in range(3):
        stage.planned(lines("large", 12))
    import_id = stage.start(ndjson(event("a")))
    stage.sent.plans.clear()
    stage.sent.loads.clear()
    age(stage, "imports")
    stage.sent.waiting = 9
    sweep(stage.worker(resend_queue_bound=4))

    assert (stage.sent.plans, stage.sent.loads) == ([import_id], [])


def test_each_chunk_done_sends_the_next_so_that_one_message_after_another_loads_all(stage: Stage) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=200) for n in range(10))))
    while stage.sent.loads:
        load.load_chunk(stage.runtime, stage.sent.loads.pop(0))

    assert stage.status(stage.import_of(ids[0])).state is ImportState.COMPLETED


def test_the_chunk_of_a_dead_worker_is_sent_again(stage: Stage) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))
    killed = stage.worker()
    Hand.takes(killed, chunk_id)
    stage.sent.loads.clear()
    age(stage, "chunks")
    sweep(stage.runtime)
    assert stage.sent.loads == [], "its holder lives"

    killed.database.close()
    sweep(stage.runtime)
    assert stage.sent.loads == [chunk_id]


def test_an_import_that_nobody_settled_is_settled(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id,) = stage.planned(ndjson(event("a")))
    with monkeypatch.context() as dying:
        dying.setattr(load, "settle_import", lambda *_: False)
        load.load_chunk(stage.runtime, chunk_id)
    import_id = stage.import_of(chunk_id)
    assert stage.status(import_id).state is ImportState.RUNNING

    sweep(stage.runtime)
    assert stage.status(import_id).state is ImportState.COMPLETED


def test_credentials_do_not_outlive_their_days(stage: Stage) -> None:
    import_id = stage.start(ndjson(event("a")))
    stage.query(
        "UPDATE import_secrets SET expires_at = now() WHERE import_id = %(id)s RETURNING import_id", id=import_id
    )
    sweep(stage.runtime)

    status = stage.status(import_id)
    assert status.error is not None
    assert status.error.code == "credentials_expired"
    assert stage.query("SELECT 1 FROM import_secrets WHERE import_id = %(id)s", id=import_id) == []


def test_progress_that_redis_lost_is_written_anew(stage: Stage) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=300) for n in range(3))))
    import_id = stage.import_of(ids[0])
    load.load_chunk(stage.runtime, ids[0])
    stage.flush_redis()
    load.load_chunk(stage.runtime, ids[1])
    assert stage.runtime.progress.read(import_id, chunks_done=0, now_ms=0) is None, (
        "a hash without the mark was believed"
    )

    sweep(stage.runtime)
    progress = stage.runtime.progress.read(import_id, chunks_done=0, now_ms=0)
    assert progress is not None
    assert progress.chunks_done == 2


def test_only_one_sweep_is_at_it_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    second = []
    monkeypatch.setattr(sweeping, "_settle", lambda _: second.append(sweep(stage.worker())))

    assert sweep(stage.runtime) is True
    assert second == [False]
    assert sweep(stage.worker()) is True


def test_rounds_share_a_connection_for_their_lock_and_hold_it_no_longer_than_a_round(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of this database: pg_locks shows those of all, and the workers of the journeys sweep theirs.
    locks = (
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    held: list[int] = []
    monkeypatch.setattr(sweeping, "_settle", lambda runtime: held.extend(row.pid for row in stage.query(locks)))
    guard = Database(stage.settings.database_url)
    for _ in range(3):
        assert sweep(stage.runtime, guard=guard)
        assert stage.query(locks) == []
    guard.close()

    assert len(held) == 3
    assert len(set(held)) == 1


def test_a_sweep_of_a_healthy_house_sends_nothing(stage: Stage) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=200) for n in range(10))))
    load.load_chunk(stage.runtime, ids[0])
    stage.sent.loads.clear()
    stage.sent.plans.clear()
    sweep(stage.runtime)

    assert (stage.sent.plans, stage.sent.loads) == ([], [])


@pytest.mark.parametrize("error", [Transient("away"), KeyError("a mistake of ours")], ids=["in passing", "mistake"])
def test_a_step_that_fails_does_not_keep_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: Tx) -> list[str]:
        raise error

    monkeypatch.setattr(sweeping.imports, "unsettled_imports", fail)
    import_id = stage.start(ndjson(event("a")))
    stage.sent.plans.clear()
    age(stage, "imports")
    sweep(stage.runtime)

    assert stage.sent.plans == [import_id]
    assert settle.settle_import(stage.runtime, import_id) is False


def test_a_worker_stopped_before_its_commit_does_not_keep_its_chunk(stage: Stage) -> None:
    (chunk_id,) = stage.planned(ndjson(event("a")))
    stopped = stage.worker()
    Hand.takes(stopped, chunk_id)

    def stop_before_commit() -> None:
        """Lock the chunk's row, as its entry in the ledger does: every claim passes it by from then on."""
        stopped.database._connection().cursor().execute("UPDATE chunks SET lines = 0 WHERE id = %s", (chunk_id,))

    stop_before_commit()
    sweep(stage.runtime)
    load.load_chunk(stage.worker(), chunk_id)
    assert stage.rows() == [], "its lease had not ended"

    stopped.database._local.held[1].rollback()
    stage.expire_lease(chunk_id)
    stop_before_commit()
    sweep(stage.runtime)
    load.load_chunk(stage.worker(), chunk_id)
    assert len(stage.rows()) == 1


def test_a_planner_stopped_before_its_commit_does_not_keep_its_import(stage: Stage) -> None:
    """Cancel, too, would wait for it: Postgres ends such a session after a minute."""
    import_id, stopped = stage.start(ndjson(event("a"))), stage.worker()
    with stopped.database.transaction() as tx:
        assert imports.claim_plan(tx, import_id, lease_seconds=60)

    def stop_before_commit() -> None:
        """Lock the import's row, as its step to running does."""
        touch = "UPDATE imports SET chunks_total = 0 WHERE id = %s"
        stopped.database._connection().cursor().execute(touch, (import_id,))

    stop_before_commit()
    sweep(stage.runtime)
    plan_import(stage.worker(), import_id)
    assert stage.status(import_id).state is ImportState.PLANNING, "its lease had not ended"

    stopped.database._local.held[1].rollback()
    expire = "UPDATE imports SET lease_expires_at = now() - interval '1 second' WHERE id = %(id)s RETURNING id"
    stage.query(expire, id=import_id)
    stop_before_commit()
    sweep(stage.runtime)
    plan_import(stage.worker(), import_id)
    assert stage.status(import_id).state is ImportState.RUNNING


def test_whatever_the_plan_only_holders_beyond_their_lease_are_ended(stage: Stage) -> None:
    """As one WHERE, joined by hash, pg_terminate_backend was asked of every backend before anything else."""
    (chunk_id,) = stage.planned(ndjson(event("a")))
    Hand.takes(stage.worker(), chunk_id)
    with stage.worker().database.transaction() as bystander, stage.runtime.database.transaction() as tx:
        tx.run("SET LOCAL enable_nestloop = off")
        assert leases.end_expired_holders(tx) == 0
        assert bystander.one("SELECT 1 AS alive").alive


def test_the_first_message_that_does_not_go_is_the_last_of_the_round(stage: Stage) -> None:
    """Each of a hundred would wait for a Redis that hangs."""
    ids = stage.planned(lines("id", 10))
    stage.sent.loads.clear()
    age(stage, "chunks")
    looked = stage.sent.queue_length

    def length_before_it_hangs(lane: Lane = Lane.IMPORTS) -> int | None:
        length, stage.sent.waiting = looked(lane), None
        return length

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage.sent, "queue_length", length_before_it_hangs)
        sweep(stage.runtime)

    assert stage.sent.loads == ids[:1]


def test_no_work_waits_for_workers_whose_redis_answers_and_takes_nothing(stage: Stage) -> None:
    """They would take themselves for deaf, and end each minute."""
    with redis.Redis.from_url(stage.settings.redis_url) as client:
        dispatch = Dispatch.from_settings(stage.settings)
        stage.runtime.dispatch = dispatch
        stage.start(ndjson(event("a")))
        assert sweeping.is_work_waiting(stage.runtime)

        (before,) = cast(dict[str, str], client.config_get("maxmemory")).values()
        client.config_set("maxmemory", 1)
        try:
            assert not dispatch.load_chunk(1)
            assert dispatch.queue_length() == 1
            assert not sweeping.is_work_waiting(stage.runtime)
        finally:
            client.config_set("maxmemory", before)
        assert sweeping.is_work_waiting(stage.runtime)


def test_work_waits_while_it_is_due_and_nobody_holds_it_and_the_broker_answers(stage: Stage) -> None:
    """What a worker's watchdog goes by."""
    assert not sweeping.is_work_waiting(stage.runtime), "an empty house"
    import_id = stage.start(ndjson(*(event(f"id-{n}", size=200) for n in range(10))))
    assert sweeping.is_work_waiting(stage.runtime), "a plan"
    plan_import(stage.runtime, import_id)
    assert sweeping.is_work_waiting(stage.runtime), "chunks"
    stage.sent.waiting = None
    assert not sweeping.is_work_waiting(stage.runtime), "nobody could be told"
    stage.sent.waiting = 0

    held = [stage.worker() for _ in range(stage.settings.window)]
    for worker, chunk_id in zip(held, stage.chunk_ids(import_id), strict=False):
        Hand.takes(worker, chunk_id)
    assert not sweeping.is_work_waiting(stage.runtime), "the whole window is in work; what is behind it waits for that"
    stage.expire_lease(stage.chunk_ids(import_id)[0])
    assert sweeping.is_work_waiting(stage.runtime), "a chunk that its holder has had for too long"

    postpone = "UPDATE chunks SET not_before = now() + interval '1 hour' WHERE import_id = %(id)s RETURNING id"
    stage.query(postpone, id=import_id)
    assert not sweeping.is_work_waiting(stage.runtime), "postponed"
    stage.query("UPDATE chunks SET not_before = now() WHERE import_id = %(id)s RETURNING id", id=import_id)
    stage.query("UPDATE imports SET state = 'paused' WHERE id = %(id)s RETURNING id", id=import_id)
    assert not sweeping.is_work_waiting(stage.runtime), "paused"


# --- long chunks: work of walkers alone


def make_long(stage: Stage, chunk_ids: list[int]) -> None:
    with stage.runtime.database.transaction() as tx:
        tx.run("UPDATE chunks SET long = true WHERE id = ANY (%(ids)s)", ids=chunk_ids)


def mixed(stage: Stage, count: int = 12) -> tuple[list[int], list[int]]:
    """Plan an import whose every other chunk is long; return the ids of the long ones and of the others."""
    ids = stage.planned(lines("id", count))
    make_long(stage, ids[::2])
    stage.sent.loads.clear()
    return ids[::2], ids[1::2]


def test_of_long_chunks_and_of_all_others_a_window_each_is_sent_again_each_to_its_own(stage: Stage) -> None:
    long, others = mixed(stage)
    age(stage, "chunks")
    sweep(stage.runtime)

    assert (stage.sent.walks, stage.sent.loads) == (long[:3], others[:3])


@pytest.mark.parametrize(("walks_waiting", "waiting"), [(3, 0), (0, 3)])
def test_messages_that_wait_for_walkers_hide_no_lost_ones_of_workers_nor_the_other_way(
    stage: Stage, walks_waiting: int, waiting: int
) -> None:
    mixed(stage)
    with stage.runtime.database.transaction() as tx:
        tx.run("UPDATE chunks SET sent_at = now()")
    age(stage, "chunks", seconds=10)
    stage.sent.walks_waiting, stage.sent.waiting = walks_waiting, waiting
    sweep(stage.runtime)

    assert (len(stage.sent.walks), len(stage.sent.loads)) == (3 - walks_waiting, 3 - waiting)


def test_a_plan_is_due_to_workers_and_not_to_walkers(stage: Stage) -> None:
    stage.start(ndjson(event("a")))
    with stage.runtime.database.transaction() as tx:
        due = [leases.count_due(tx, window=3, long=long) for long in (False, True)]

    assert due == [1, 0]


def test_no_message_of_a_worker_comes_to_a_long_chunk(stage: Stage) -> None:
    """Neither does one whose own chunk is taken, nor does a chunk that is done send a long one to all."""
    long, others = mixed(stage)
    Hand.takes(stage.worker(), others[0])
    queue = others[:3]
    while queue:
        load.load_chunk(stage.runtime, queue.pop(0))
        queue += stage.sent.loads
        stage.sent.loads.clear()

    done = stage.query("SELECT id FROM chunks WHERE id = ANY (%(ids)s) AND state = 'done'", ids=long + others)
    assert {row.id for row in done} == set(others[1:])
    assert stage.sent.walks == []


def test_a_walker_whose_chunk_is_taken_or_done_goes_on_with_the_next_long_one(stage: Stage) -> None:
    long, others = mixed(stage)
    import_id, walker = stage.import_of(long[0]), stage.worker()
    Hand.takes(walker, long[0])
    with stage.runtime.database.transaction() as tx:
        # The first of all comes before the second long one, and is none of a walker's.
        assert chunks.next_claimable(tx, long[0]) == long[1]
        assert chunks.next_claimable(tx, others[0]) == others[0]
        tx.run("UPDATE chunks SET sent_at = NULL WHERE id = ANY (%(ids)s)", ids=long + others)
        assert chunks.send_next(tx, import_id, long=True) == long[1]
        assert chunks.send_next(tx, import_id) == others[0]
    walker.database.close()


def test_work_waits_for_walkers_or_for_workers_and_neither_is_judged_by_the_others(stage: Stage) -> None:
    def waiting() -> tuple[bool, bool]:
        return sweeping.is_work_waiting(stage.runtime), sweeping.is_work_waiting(stage.runtime, Lane.WALKS)

    import_id = stage.start(ndjson(event("a")))
    assert waiting() == (True, False), "a plan"
    stage.desk.cancel_import(stage.caller, import_id)
    long, others = mixed(stage, count=4)
    assert waiting() == (True, True)
    held = [(stage.worker(), chunk_id) for chunk_id in long]
    for walker, chunk_id in held:
        Hand.takes(walker, chunk_id)
    assert waiting() == (True, False), "walkers are at it"
    for walker, _ in held:
        walker.database.close()
    for chunk_id in others:
        load.load_chunk(stage.runtime, chunk_id)
    stage.expire_lease(long[0])
    assert waiting() == (False, True), "a walker has died"


@pytest.fixture
def tells(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], bool]:
    """Whether a round, so many seconds from the start, tells that nobody walks. The patience is 60 s."""
    sweeping._unserved_walks.lasts(is_so=False, at=0, patience=60)

    def tells(at: float) -> bool:
        with monkeypatch.context() as later, structlog.testing.capture_logs() as said:
            later.setattr(sweeping.time, "monotonic", lambda: at)
            sweeping._tell_of_unserved_walks(stage.runtime)
        return [line["event"] for line in said] == ["walks_not_served"]

    return tells


def test_where_long_chunks_wait_and_nobody_walks_it_is_told_again_and_again(
    stage: Stage, tells: Callable[[float], bool]
) -> None:
    mixed(stage)
    assert [at for at in range(0, 200, 10) if tells(at)] == [60, 120, 180]


def test_a_walker_at_work_even_on_another_import_is_a_sign_that_one_is_there(
    stage: Stage, tells: Callable[[float], bool]
) -> None:
    """Between two chunks it has none."""
    long, _ = mixed(stage)
    assert not any(tells(at) for at in range(0, 60, 10))
    walker = stage.worker()
    Hand.takes(walker, long[0])
    assert not any(tells(at) for at in range(60, 200, 10))
    walker.database.close()
    assert [at for at in range(200, 300, 10) if tells(at)] == [260]


def test_nobody_misses_a_walker_where_nothing_waits_for_one(stage: Stage, tells: Callable[[float], bool]) -> None:
    stage.planned(lines("short", 3))
    assert not any(tells(at) for at in range(0, 200, 10))


# --- exports: work of exporters alone


class Exports:
    """What the ledger says of exports."""

    waiting = False
    in_work = False


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Exports:
    said = Exports()
    monkeypatch.setattr(exports, "is_export_waiting", lambda _: said.waiting)
    monkeypatch.setattr(exports, "is_export_in_work", lambda _: said.in_work)
    return said


@pytest.mark.parametrize("waiting", [False, True])
def test_exports_that_wait_are_work_for_exporters_and_for_nobody_else(
    stage: Stage, ledger: Exports, waiting: bool
) -> None:
    ledger.waiting = waiting
    assert {lane: sweeping.is_work_waiting(stage.runtime, lane) for lane in Lane} == {
        Lane.IMPORTS: False,
        Lane.WALKS: False,
        Lane.EXPORTS: waiting,
    }


def test_imports_and_walks_that_wait_are_no_work_for_exporters(stage: Stage) -> None:
    mixed(stage)
    assert [sweeping.is_work_waiting(stage.runtime, lane) for lane in Lane] == [True, True, False]


def test_no_export_waits_for_exporters_whom_no_broker_could_tell(stage: Stage, ledger: Exports) -> None:
    ledger.waiting, stage.sent.waiting = True, None
    assert not sweeping.is_work_waiting(stage.runtime, Lane.EXPORTS)


def test_messages_that_wait_for_exporters_hide_no_lost_ones_of_others(stage: Stage) -> None:
    mixed(stage)
    with stage.runtime.database.transaction() as tx:
        tx.run("UPDATE chunks SET sent_at = now()")
    age(stage, "chunks", seconds=10)
    stage.sent.exports_waiting = 1000
    sweep(stage.runtime)

    assert (len(stage.sent.walks), len(stage.sent.loads)) == (3, 3)


@pytest.fixture
def tells_of_exports(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], bool]:
    """Whether a round, so many seconds from the start, tells that nobody serves exports. The patience is 60 s."""
    sweeping._unserved_exports.lasts(is_so=False, at=0, patience=60)

    def tells(at: float) -> bool:
        with monkeypatch.context() as later, structlog.testing.capture_logs() as said:
            later.setattr(sweeping.time, "monotonic", lambda: at)
            sweeping._tell_of_unserved_exports(stage.runtime)
        return [line["event"] for line in said] == ["exports_not_served"]

    return tells


def test_where_exports_wait_and_nobody_writes_any_it_is_told_again_and_again(
    ledger: Exports, tells_of_exports: Callable[[float], bool]
) -> None:
    ledger.waiting = True
    assert [at for at in range(0, 200, 10) if tells_of_exports(at)] == [60, 120, 180]


def test_an_exporter_at_work_is_a_sign_that_one_is_there(
    ledger: Exports, tells_of_exports: Callable[[float], bool]
) -> None:
    ledger.waiting = True
    assert not any(tells_of_exports(at) for at in range(0, 60, 10))
    ledger.in_work = True
    assert not any(tells_of_exports(at) for at in range(60, 200, 10))
    ledger.in_work = False
    assert [at for at in range(200, 300, 10) if tells_of_exports(at)] == [260]


def test_nobody_misses_an_exporter_where_nothing_waits_for_one(
    ledger: Exports, tells_of_exports: Callable[[float], bool]
) -> None:
    assert not ledger.waiting
    assert not any(tells_of_exports(at) for at in range(0, 200, 10))


def test_a_spell_without_walkers_is_none_without_exporters(
    stage: Stage, ledger: Exports, tells: Callable[[float], bool], tells_of_exports: Callable[[float], bool]
) -> None:
    mixed(stage)
    assert not any(tells(at) for at in range(0, 60, 10))
    ledger.waiting = True
    assert not tells_of_exports(60)
    assert tells(60)


@pytest.mark.parametrize(
    ("queue", "word"), [("imports", b"work"), ("walks", b"none"), ("exports", b"none"), ("other", b"none")]
)
def test_a_worker_hears_from_its_sweep_of_work_in_its_own_queues_alone(stage: Stage, queue: str, word: bytes) -> None:
    stage.start(ndjson(event("a")))
    with _sweep_beside(stage, queue) as child:
        assert child.stdout is not None
        heard = child.stdout.readline().strip()
        child.terminate()

    assert heard == word


def test_a_sweep_whose_worker_is_killed_in_the_middle_of_a_round_ends_without_a_word(stage: Stage) -> None:
    with _sweep_beside(stage, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        said = child.stderr.read()

    assert (child.returncode, said) == (0, b"")


def _sweep_beside(stage: Stage, *queues: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """Start a sweep as a worker does that serves these queues."""
    environment = {
        "DATABASE_URL": stage.settings.database_url,
        "REDIS_URL": stage.settings.redis_url,
        "PENSTOCK_SEALING_KEYS": stage.settings.sealing_keys,
        "PENSTOCK_SWEEP_SECONDS": "0.01",
    }
    command = [sys.executable, "-m", "workers.sweep", str(os.getpid()), *queues]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, **environment})
