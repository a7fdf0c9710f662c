"""A chunk counts once, whoever runs it, however often, in whatever order."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest

from common.errors import Terminal, Transient
from common.ledger import chunks, imports
from common.ledger.database import Database, Tx
from common.model.chunks import Counts
from common.model.imports import ImportState
from tests.stage import Hand, Stage, event, ndjson
from workers.imports import load, work
from workers.imports.lease import Lease, LeaseLostError


def sums(stage: Stage, import_id: str) -> Counts:
    """Return the sums over the import's chunks, and hold the job's receipt and the table to them."""
    (row,) = stage.query(
        "SELECT sum(lines) AS lines, sum(imported) AS imported, sum(replaced) AS replaced,"
        " sum(duplicates) AS duplicates, sum(rejected) AS rejected, sum(blank) AS blank"
        " FROM chunks WHERE import_id = %(id)s AND state = 'done'",
        id=import_id,
    )
    counts = Counts(*(int(value or 0) for value in row))
    status = stage.status(import_id)
    (stored,) = stage.query("SELECT count(*) AS n FROM events WHERE import_number = %(n)s", n=status.number)

    assert stored.n == counts.imported
    assert status.progress.counts == counts
    return counts


def test_a_whole_object_is_imported_and_its_receipt_adds_up(stage: Stage) -> None:
    body = ndjson(event("a"), event("b"), event("a", "again"), b"", b"{bad", event(None), b"  \r", event("c"))

    status = stage.run(body)

    assert status.state is ImportState.COMPLETED_WITH_ERRORS
    assert sums(stage, status.id) == Counts(lines=8, imported=4, duplicates=1, rejected=1, blank=2)
    assert status.percent == 100
    assert [state for state, _ in status.history] == ["pending", "planning", "running", "completed_with_errors"]
    assert [error.index for error in stage.desk.list_errors(stage.caller, status.id).items] == [4]


def test_a_redelivered_chunk_counts_once(stage: Stage) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}") for n in range(6))))
    for chunk_id in [*ids, *ids, *ids]:
        load.load_chunk(stage.runtime, chunk_id)

    assert sums(stage, stage.import_of(ids[0])) == Counts(lines=6, imported=6)
    assert stage.query("SELECT max(attempts) AS n FROM chunks WHERE id = ANY(%(ids)s)", ids=ids)[0].n == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first chunk first", "last chunk first"])
@pytest.mark.parametrize("routed", [True, False], ids=["with Redis", "with Redis emptied in between"])
def test_the_first_line_wins_in_either_order_of_commits(stage: Stage, order: tuple[int, int], routed: bool) -> None:
    body = ndjson(event("same", "first", size=200), event("same", "second", size=200))
    ids = stage.planned(body)
    assert len(ids) == 2
    for place in order:
        if not routed:
            stage.flush_redis()
        load.load_chunk(stage.runtime, ids[place])

    (row,) = stage.rows()
    assert row.offset == 0
    assert b"first" in row.payload
    assert sums(stage, stage.import_of(ids[0])) == Counts(lines=2, imported=1, duplicates=1)


@pytest.mark.parametrize("first", [0, 1])
def test_two_chunks_that_share_ids_may_commit_at_the_same_time(stage: Stage, first: int) -> None:
    shared = [event(f"shared-{n}", size=1) for n in range(5)]
    body = ndjson(*shared, event("one", size=100), *shared, event("two", size=100))
    one, two = stage.worker(chunk_bytes=len(body) // 2), stage.worker()
    stage.runtime = one
    ids = stage.planned(body)
    hands = [Hand.takes(one, ids[0]), Hand.takes(two, ids[1])]
    stage.flush_redis()

    with ThreadPoolExecutor(2) as pool:
        # Connections belong to threads, and a claim to its connection; here only the keys matter.
        for done in [pool.submit(hands[first].commits), pool.submit(hands[1 - first].commits)]:
            done.result(timeout=20)
    load.settle_import(one, hands[0].work.job.id)

    assert len(ids) == 2
    assert sums(stage, hands[0].work.job.id) == Counts(lines=12, imported=7, duplicates=5)
    assert all(row.offset < len(body) // 2 for row in stage.rows() if b"shared" in row.payload)


def test_a_zombie_is_fenced(stage: Stage) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a"), event("b")))
    zombie = Hand.takes(stage.worker(), chunk_id)
    stage.expire_lease(chunk_id)
    heir = Hand.takes(stage.worker(), chunk_id)
    heir.commits()

    with pytest.raises(LeaseLostError):
        zombie.commits()

    assert len(stage.rows()) == 2
    assert sums(stage, zombie.work.job.id).imported == 2


def test_a_zombie_that_commits_first_is_fenced_too(stage: Stage) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))
    zombie = Hand.takes(stage.worker(), chunk_id)
    stage.expire_lease(chunk_id)
    heir = Hand.takes(stage.worker(), chunk_id)

    with pytest.raises(LeaseLostError):
        zombie.commits()
    assert stage.rows() == []

    heir.commits()
    assert len(stage.rows()) == 1


def test_a_live_lease_is_respected_and_a_message_takes_the_next_chunk_instead(stage: Stage) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=200) for n in range(3))))
    Hand.takes(stage.worker(), ids[0])
    load.load_chunk(stage.runtime, ids[0])

    states = stage.query("SELECT state FROM chunks WHERE id = ANY(%(ids)s) ORDER BY number", ids=ids)
    assert [row.state for row in states] == ["leased", "done", "waiting"]


def test_the_lease_of_a_dead_backend_is_free_at_once(stage: Stage) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))
    killed = stage.worker()
    Hand.takes(killed, chunk_id)
    killed.database.close()

    load.load_chunk(stage.runtime, chunk_id)

    assert len(stage.rows()) == 1


@pytest.mark.parametrize("table", ["events", "suspects", "rejects"])
def test_a_worker_stopped_in_the_middle_of_a_copy_does_not_block_the_retry(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    stage.run(ndjson(event("a")), collection="events")
    if table == "events":
        stage.flush_redis()
    (chunk_id, *_) = stage.planned(ndjson(event("a", size=10), event("b", size=10), b"{bad"))
    stopped, go_on, ended = threading.Event(), threading.Event(), []
    copy_in = Tx.copy_in

    def stop_in_copy(tx: Tx, statement: str, rows: Any, *, piece: int) -> None:
        class Stopping(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                found = rows.read(size)
                if (
                    not found and f"COPY {table}" in statement
                ):  # all rows are with the server, uncommitted, their keys locked
                    stopped.set()
                    go_on.wait(timeout=30)
                return found

        copy_in(tx, statement, Stopping(), piece=piece)

    def work() -> None:
        monkeypatch.setattr(Tx, "copy_in", stop_in_copy)
        try:
            Hand.takes(stage.worker(), chunk_id).commits()
        except Transient as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert stopped.wait(timeout=10)
    monkeypatch.setattr(Tx, "copy_in", copy_in)
    stage.expire_lease(chunk_id)

    load.load_chunk(stage.runtime, chunk_id)  # would wait for the keys for ever
    go_on.set()
    thread.join(timeout=10)

    assert len(ended) == 1
    assert sums(stage, stage.import_of(chunk_id)) == Counts(lines=3, imported=1, duplicates=1, rejected=1)


def test_who_gave_a_chunk_back_is_left_in_peace_by_its_next_holder(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=300) for n in range(2))))
    busy, other = stage.worker(), stage.worker()

    def away(*_: object) -> None:
        raise Transient("S3 asks to slow down.")

    with monkeypatch.context() as slow:
        slow.setattr(load, "read_lines", away)
        load.load_chunk(busy, ids[0])
    hand = Hand.takes(busy, ids[1])
    stage.query("UPDATE chunks SET not_before = now() WHERE id = %(id)s RETURNING id", id=ids[0])
    with busy.database.transaction() as tx:
        with other.database.aside() as beside:
            assert chunks.claim_chunk(beside, ids[0], lease_seconds=30)
        assert tx.one("SELECT 1 AS alive").alive

    hand.commits()


def test_what_reading_raises_inside_a_copy_comes_out_as_it_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))
    for raised in (LeaseLostError(), SystemExit(0)):
        stage.expire_lease(chunk_id)
        hand = Hand.takes(stage.worker(), chunk_id)

        def advance(_: Lease, error: BaseException = raised) -> None:
            raise error

        with monkeypatch.context() as broken:
            broken.setattr(Lease, "advance", advance)
            with pytest.raises(type(raised)):
                hand.commits()
    assert stage.rows() == []


def test_a_cancel_waits_for_a_commit_under_way_and_counts_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=300) for n in range(3))))
    import_id = stage.import_of(ids[0])
    at_fence, go_on = threading.Event(), threading.Event()
    pass_fence = chunks.pass_fence

    def hold(tx: Tx, held_id: str) -> bool:
        passed = pass_fence(tx, held_id)
        at_fence.set()
        return go_on.wait(timeout=20) and passed

    monkeypatch.setattr(chunks, "pass_fence", hold)
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(load.load_chunk, stage.worker(), ids[0])
        assert at_fence.wait(timeout=10)
        cancelling = pool.submit(stage.desk.cancel_import, stage.caller, import_id)
        with pytest.raises(TimeoutError):
            cancelling.result(timeout=0.5)
        go_on.set()
        loading.result(timeout=10)
        status = cancelling.result(timeout=10)

    assert status.state is ImportState.CANCELLED
    assert sums(stage, import_id) == Counts(lines=1, imported=1)


def test_after_a_cancel_nothing_commits(stage: Stage) -> None:
    ids = stage.planned(ndjson(*(event(f"id-{n}", size=200) for n in range(3))))
    hand = Hand.takes(stage.worker(), ids[0])
    stage.desk.cancel_import(stage.caller, hand.work.job.id)

    with pytest.raises(LeaseLostError):
        hand.commits()
    for chunk_id in ids:
        load.load_chunk(stage.runtime, chunk_id)

    assert stage.rows() == []
    assert sums(stage, hand.work.job.id) == Counts()


def test_the_fence_alone_stops_a_commit_that_looked_before_the_cancel(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stage.planned(ndjson(event("a"), event("b")))
    hand = Hand.takes(stage.worker(), ids[0])
    finish_chunk = chunks.finish_chunk

    def cancel_before(*asked: Any, **rest: Any) -> object:
        stage.desk.cancel_import(stage.caller, hand.work.job.id)
        return finish_chunk(*asked, **rest)

    monkeypatch.setattr(chunks, "finish_chunk", cancel_before)
    with pytest.raises(LeaseLostError):
        hand.commits()

    assert stage.rows() == []


def test_wrong_routes_cost_a_look_and_no_row(stage: Stage) -> None:
    body = ndjson(*(event(f"id-{n}") for n in range(6)))
    stage.run(body)
    stage.flush_redis()

    again = stage.run(body)

    assert sums(stage, again.id) == Counts(lines=6, duplicates=6)
    assert len(stage.rows()) == 6


def test_redis_that_calls_everything_seen_loses_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.runtime.seen, "mark", lambda _, ids: [True] * len(ids))

    status = stage.run(ndjson(*(event(f"id-{n}") for n in range(6))))

    assert sums(stage, status.id) == Counts(lines=6, imported=6)


def test_a_second_import_of_the_same_object_takes_only_lines_without_an_id(stage: Stage) -> None:
    ref = stage.put(ndjson(event("a"), event(None), event("b"), event("a"), event(None)))
    first, second = stage.run(ref), stage.run(ref)

    assert sums(stage, first.id) == Counts(lines=5, imported=4, duplicates=1)
    assert sums(stage, second.id) == Counts(lines=5, imported=2, duplicates=3)
    owners = stage.query(
        "SELECT owner_number, sum(d.lines) AS lines FROM chunk_duplicates AS d JOIN chunks ON id = chunk_id"
        " WHERE import_id = %(id)s GROUP BY 1",
        id=second.id,
    )
    assert [(row.owner_number, row.lines) for row in owners] == [(first.number, 3)]


class AnswerLost:
    """A connection that commits, or does not, and then breaks before it can say so."""

    def __init__(self, real: Any, *, commits: bool) -> None:
        self._real, self._commits = real, commits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self) -> None:
        if self._commits:
            self._real.commit()
        self._real.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")


def lose_answer_of_chunk_commit(database: Database, monkeypatch: pytest.MonkeyPatch, *, commits: bool) -> None:
    """Break the second transaction from here: the first is the look at the fence."""
    real, opened = database._connection, []

    def connection() -> Any:
        opened.append(1)
        return AnswerLost(real(), commits=commits) if len(opened) == 2 else real()

    monkeypatch.setattr(database, "_connection", connection)


def test_a_commit_whose_answer_was_lost_counts_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))
    hand = Hand.takes(stage.worker(), chunk_id)
    lose_answer_of_chunk_commit(hand.work.runtime.database, monkeypatch, commits=True)

    done = hand.commits()

    assert done.entry.counts == Counts(lines=1, imported=1)
    assert len(stage.rows()) == 1


def test_a_commit_that_never_arrived_is_done_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))
    hand = Hand.takes(stage.worker(), chunk_id)
    lose_answer_of_chunk_commit(hand.work.runtime.database, monkeypatch, commits=False)

    with pytest.raises(Transient):
        hand.commits()
    assert stage.rows() == []

    load.load_chunk(stage.runtime, chunk_id)
    assert sums(stage, hand.work.job.id) == Counts(lines=1, imported=1)


def test_a_chunk_that_failed_in_passing_is_due_again_later(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))

    def away(*_: object) -> None:
        raise Transient("S3 cannot be reached at the moment.")

    monkeypatch.setattr(load, "read_lines", away)
    load.load_chunk(stage.runtime, chunk_id)

    (row,) = stage.query(
        "SELECT state, sent_at, not_before > now() AS later, attempts FROM chunks WHERE id = %(id)s", id=chunk_id
    )
    assert (row.state, row.sent_at, row.later, row.attempts) == ("waiting", None, True, 1)


def test_a_chunk_that_never_ends_well_fails_its_import(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))
    stage.query("UPDATE chunks SET attempts = 25 WHERE id = %(id)s RETURNING id", id=chunk_id)

    load.load_chunk(stage.runtime, chunk_id)

    status = stage.status(stage.import_of(chunk_id))
    assert status.error is not None
    assert status.error.code == "chunk_failed"


def test_too_many_rejects_fail_the_import_and_what_was_stored_stays(stage: Stage) -> None:
    body = ndjson(*([event("a", size=200)] * 2), b"{bad", b"{bad", event("b", size=200), event("c", size=200))

    status = stage.run(body, max_rejects=1)

    assert status.state is ImportState.FAILED
    assert status.error is not None
    assert status.error.code == "too_many_rejects"
    assert sums(stage, status.id).rejected == 2
    assert len(stage.rows()) == status.progress.counts.imported > 0


def test_too_many_rejects_are_not_forgotten_when_another_commits_the_last_chunk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stage.planned(ndjson(b"{bad", b"{bad", event("a", size=300), event("b", size=300)), max_rejects=1)
    with monkeypatch.context() as dying:
        dying.setattr(load, "_enforce_reject_limit", lambda *_: None)
        for chunk_id in ids:
            load.load_chunk(stage.runtime, chunk_id)

    status = stage.status(stage.import_of(ids[0]))
    assert (status.state, status.error and status.error.code) == (ImportState.FAILED, "too_many_rejects")


def test_a_chunk_of_nothing_but_bad_lines_stops_early_where_fewer_are_allowed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MOST_LINES", 3)
    (chunk_id, *_) = stage.planned(b"{}\n" + b"x\n" * 50, max_rejects=5)
    load.load_chunk(stage.runtime, chunk_id)

    status = stage.status(stage.import_of(chunk_id))
    assert (status.error and status.error.code, status.progress.counts.rejected) == ("too_many_rejects", 0)


def test_who_failed_an_import_is_left_in_peace_afterwards(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id,) = stage.planned(ndjson(event("a")))
    worker = stage.worker(lease_seconds=0.1)

    def changed(*_: object) -> None:
        raise Terminal("source_changed", "The object changed.")

    with monkeypatch.context() as broken:
        broken.setattr(load, "read_lines", changed)
        load.load_chunk(worker, chunk_id)
    (row,) = stage.query("SELECT state, holder_pid FROM chunks WHERE id = %(id)s", id=chunk_id)

    assert stage.status(stage.import_of(chunk_id)).state is ImportState.FAILED
    assert (row.state, row.holder_pid) == ("waiting", None)


def test_the_lease_is_looked_at_between_slices_of_suspects(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.ledger.events._SLICE", 2)
    body = ndjson(*(event(f"id-{n}", size=1) for n in range(7)), event("id-0", size=1))
    stage.runtime = stage.worker(chunk_bytes=10_000)
    first = stage.run(body)
    (chunk_id,) = stage.planned(body)
    hand = Hand.takes(stage.runtime, chunk_id)
    advanced: list[int] = []
    monkeypatch.setattr(hand.work.lease, "advance", lambda: advanced.append(1))

    assert hand.commits().entry.counts == Counts(lines=8, duplicates=8)
    assert len(advanced) >= 4
    (owner,) = stage.query("SELECT owner_number, lines FROM chunk_duplicates WHERE chunk_id = %(id)s", id=chunk_id)
    assert (owner.owner_number, owner.lines) == (first.number, 8)


def test_the_progress_of_an_import_that_has_ended_is_forgotten(stage: Stage) -> None:
    status = stage.run(ndjson(event("a")))

    assert stage.runtime.progress.size(status.id) == -1


def test_a_zombies_reason_does_not_fail_the_import(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (chunk_id, *_) = stage.planned(ndjson(event("a")))

    def lose_and_fail(*_: object) -> None:
        monkeypatch.undo()
        stage.expire_lease(chunk_id)
        Hand.takes(stage.worker(), chunk_id)
        raise Terminal("source_changed", "seen by a zombie")

    monkeypatch.setattr(load, "read_lines", lose_and_fail)
    load.load_chunk(stage.worker(), chunk_id)

    assert stage.status(stage.import_of(chunk_id)).state is ImportState.RUNNING


def test_errors_are_listed_only_when_their_index_is_known(stage: Stage) -> None:
    body = ndjson(event("a", size=240), b"{bad1", event("b", size=240), b"{bad2", event("c", size=240))
    ids = stage.planned(body)
    import_id = stage.import_of(ids[0])
    last_with_bad = next(n for n in range(len(ids) - 1, -1, -1) if _holds(body, b"{bad2", n))
    load.load_chunk(stage.runtime, ids[last_with_bad])

    assert stage.desk.list_errors(stage.caller, import_id).items == []
    assert stage.status(import_id).progress.counts.rejected == 1

    for chunk_id in ids:
        load.load_chunk(stage.runtime, chunk_id)
    page = stage.desk.list_errors(stage.caller, import_id, limit=1)
    assert page.next_after is not None
    rest = stage.desk.list_errors(stage.caller, import_id, after=page.next_after)
    assert [error.index for error in [*page.items, *rest.items]] == [1, 3]
    assert [body[e.byte_offset :][: e.length] for e in [*page.items, *rest.items]] == [b"{bad1", b"{bad2"]


def _holds(body: bytes, text: bytes, number: int) -> bool:
    return body.index(text) // 256 == number


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1000, 100_000])
def test_the_table_and_the_receipt_do_not_depend_on_the_size_of_chunks(stage: Stage, chunk_bytes: int) -> None:
    lines = [event(f"id-{n % 7}", f"line {n}", size=n) for n in range(12)]
    body = ndjson(*lines, b"", b"nope", b'{"no": "id"}\r', b"[1]").rstrip(b"\n")
    stage.runtime = stage.worker(chunk_bytes=chunk_bytes)

    status = stage.run(body)

    assert sums(stage, status.id) == Counts(lines=16, imported=8, duplicates=5, rejected=2, blank=1)
    assert [row.payload for row in stage.rows()] == [*body.split(b"\n")[:7], b'{"no": "id"}']
    assert [e.index for e in stage.desk.list_errors(stage.caller, status.id).items] == [13, 15]


def test_the_credentials_are_gone_when_the_import_ends(stage: Stage) -> None:
    status = stage.run(ndjson(event("a")))

    assert stage.query("SELECT count(*) AS n FROM import_secrets WHERE import_id = %(id)s", id=status.id)[0].n == 0
    with stage.runtime.database.transaction() as tx:
        assert imports.read_secret(tx, status.id) is None


def test_a_lease_is_lengthened_as_bytes_advance_up_to_its_ceiling(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (chunk_id,) = stage.planned(ndjson(event("a")))
    hand = Hand.takes(stage.worker(lease_seconds=30, lease_ceiling_seconds=100), chunk_id)

    def left() -> float:
        (row,) = stage.query(
            "SELECT extract(epoch FROM lease_expires_at - leased_at) AS seconds FROM chunks WHERE id = %(id)s",
            id=chunk_id,
        )
        return float(row.seconds)

    hand.work.lease.advance()
    assert left() == 30, "renewed before a third of it had passed"

    clock = iter(range(10**6, 10**9, 1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    hand.work.lease.advance()
    assert 30 < left() < 40

    stage.query("UPDATE chunks SET leased_at = leased_at - interval '90 s' WHERE id = %(id)s RETURNING 1", id=chunk_id)
    hand.work.lease.advance()
    assert left() == 100

    stage.expire_lease(chunk_id)
    Hand.takes(stage.worker(), chunk_id)
    with pytest.raises(LeaseLostError):
        hand.work.lease.advance()
