"""Of imports that replace, the line at the largest import number and position is kept, and each id counts once for each
import, also where several commit at the same instant.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from common.ledger import chunks, events
from common.ledger.database import Tx
from common.model.chunks import Chunk, Counts
from common.model.imports import ImportState
from common.model.mapping import Mapping, OnDuplicate
from common.runtime import Runtime
from tests.stage import Hand, Stage, event, ndjson
from workers.imports.load import Done, load_chunk

REPLACE = Mapping(on_duplicate=OnDuplicate.REPLACE)


def filled(unique_id: str, note: str = "", *, length: int = 256) -> dict[str, Any]:
    """Return an event whose line has so many bytes: as many as a chunk, if nothing is said."""
    return event(unique_id, note, size=length - len(ndjson(event(unique_id, note, size=0))))


def sums(stage: Stage, import_id: str) -> tuple[int, int, int]:
    """Return how many lines were imported, replaced something, and were duplicates, over all chunks."""
    (row,) = stage.query(
        "SELECT sum(imported)::int AS imported, sum(replaced)::int AS replaced, sum(duplicates)::int AS duplicates"
        " FROM chunks WHERE import_id = %(id)s",
        id=import_id,
    )
    return row.imported, row.replaced, row.duplicates


def await_a_wait(stage: Stage) -> None:
    """Return once somebody waits for somebody else's row."""
    deadline = time.monotonic() + 10
    while not stage.query(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ):
        assert time.monotonic() < deadline, "nobody waits"


def test_a_later_import_replaces_what_an_earlier_one_stored(stage: Stage) -> None:
    first = stage.run(ndjson(event("a", "old"), event("b", "old")), mapping=REPLACE)
    second = stage.run(ndjson(event("b", "new"), event("b", "newest"), event("c", "new")), mapping=REPLACE)

    assert first.progress.counts == Counts(lines=2, imported=2)
    assert second.progress.counts == Counts(lines=3, imported=1, replaced=1, duplicates=1)
    assert [row.payload.split(b'"')[7] for row in stage.rows()] == [b"old", b"newest", b"new"]


def test_an_earlier_import_that_comes_late_loses_and_says_to_whom(stage: Stage) -> None:
    early = stage.planned(ndjson(event("a", "early"), event("a", "early too")), mapping=REPLACE)
    late = stage.run(ndjson(event("a", "late")), mapping=REPLACE)
    for chunk_id in early:
        load_chunk(stage.runtime, chunk_id)

    assert sums(stage, stage.import_of(early[0])) == (0, 0, 2)
    assert b'"late"' in stage.rows()[0].payload
    owners = stage.query(
        "SELECT owner_number, sum(lines)::int AS lines FROM chunk_duplicates WHERE chunk_id = ANY(%(ids)s)"
        " GROUP BY owner_number",
        ids=early,
    )
    assert owners == [(late.number, 2)]


def test_a_later_import_between_two_chunks_takes_the_id_from_the_second(stage: Stage) -> None:
    stage.run(ndjson(event("a", "oldest")), mapping=REPLACE)
    one, two = stage.planned(ndjson(filled("a"), filled("a")), mapping=REPLACE)
    load_chunk(stage.runtime, one)
    stage.run(ndjson(event("a", "latest")), mapping=REPLACE)
    load_chunk(stage.runtime, two)

    assert sums(stage, stage.import_of(one)) == (0, 1, 1)
    assert b'"latest"' in stage.rows()[0].payload


@pytest.mark.parametrize("first", [0, 1], ids=["first chunk first", "last chunk first"])
@pytest.mark.parametrize("stored", [False, True], ids=["of a free id", "of an earlier import's"])
@pytest.mark.parametrize("flushed", [False, True], ids=["with Redis", "with Redis emptied"])
def test_of_two_chunks_that_meet_at_one_id_one_counts_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, first: int, stored: bool, flushed: bool
) -> None:
    """The second one looks while the first has written and not yet committed, so what it saw is not what it meets."""
    if stored:
        stage.run(ndjson(event("same", "oldest")), mapping=REPLACE)
    ids = stage.planned(ndjson(filled("same", "one"), filled("same", "two")), mapping=REPLACE)
    hands = [Hand.takes(stage.worker(), chunk_id) for chunk_id in ids]
    with Meeting(stage, monkeypatch) as meeting:
        meeting.hold(hands[first])
        if flushed:
            stage.flush_redis()
        meeting.meet(hands[1 - first])

    (row,) = stage.rows()
    assert b'"two"' in row.payload
    assert sums(stage, hands[0].work.job.id) == (int(not stored), int(stored), 1)


def test_what_is_counted_is_what_stood_there_when_the_row_was_taken(stage: Stage) -> None:
    """One chunk has to wait at its first id, and has seen its second as it was before another chunk took that."""
    oldest = stage.run(ndjson(event("a", "oldest"), event("b", "oldest")), mapping=REPLACE)
    stored = stage.query(
        "SELECT collection_id, event_id, payload FROM events WHERE import_number = %(n)s ORDER BY event_id",
        n=oldest.number,
    )
    one, two = (row.payload["$unique_id"] for row in stored)
    body = ndjson(filled(one, length=128), filled(two, length=128), filled(two))
    hands = [Hand.takes(stage.worker(), chunk_id) for chunk_id in stage.planned(body, mapping=REPLACE)]
    with ThreadPoolExecutor(1) as pool, stage.worker().database.transaction() as tx:
        tx.one(
            "SELECT FROM events WHERE collection_id = %(collection)s AND event_id = %(id)s FOR UPDATE",
            collection=stored[0].collection_id,
            id=stored[0].event_id,
        )
        waiting = pool.submit(hands[0].commits)
        await_a_wait(stage)
        hands[1].commits()
        tx.run("ROLLBACK")
        waiting.result(timeout=20)

    assert sums(stage, hands[0].work.job.id) == (0, 2, 1)
    assert [row.offset for row in stage.rows()] == [0, 256]


@pytest.mark.parametrize("first", [0, 1], ids=["earlier first", "later first"])
def test_of_two_imports_that_meet_at_one_id_the_later_one_stays(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    (early,) = stage.planned(ndjson(event("same", "early")), mapping=REPLACE)
    (late,) = stage.planned(ndjson(event("same", "late")), mapping=REPLACE)
    hands = [Hand.takes(stage.worker(), early), Hand.takes(stage.worker(), late)]
    with Meeting(stage, monkeypatch) as meeting:
        meeting.hold(hands[first])
        meeting.meet(hands[1 - first])

    (row,) = stage.rows()
    assert b'"late"' in row.payload
    receipts = [sums(stage, hand.work.job.id) for hand in hands]
    assert receipts == ([(1, 0, 0), (0, 1, 0)] if first == 0 else [(0, 0, 1), (1, 0, 0)])


class Meeting:
    """Two chunks of which one has written and waits with its commit until the other waits for its rows."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stage = stage
        self._held: Chunk | None = None
        self._written, self._go_on = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(2)
        self._done: list[Future[Done]] = []
        finish = chunks.finish_chunk

        def wait(tx: Tx, chunk: Chunk, *args: Any, **more: Any) -> object:
            if chunk is self._held:
                self._written.set()
                assert self._go_on.wait(timeout=20)
            return finish(tx, chunk, *args, **more)

        monkeypatch.setattr(chunks, "finish_chunk", wait)

    def __enter__(self) -> Meeting:
        return self

    def hold(self, hand: Hand) -> None:
        self._held = hand.chunk
        self._done.append(self._pool.submit(hand.commits))
        assert self._written.wait(timeout=10)

    def meet(self, hand: Hand) -> None:
        self._done.append(self._pool.submit(hand.commits))
        await_a_wait(self._stage)

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        for done in self._done:
            done.result(timeout=20)
        self._pool.shutdown()


@pytest.mark.parametrize("seed", range(3))
def test_imports_that_replace_side_by_side_end_as_one_after_the_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(events, "_SLICE", 7)
    rng = random.Random(seed)
    ids = [f"id-{n}" for n in range(40)]
    bodies = [[rng.choice(ids) for _ in range(120)] for _ in range(3)]
    # Lines of one length, so that a line's place tells its offset.
    lines = [ndjson(*(event(id_, f"{n:03}", size=9 - len(id_)) for n, id_ in enumerate(body))) for body in bodies]
    import_ids, tasks = [], []
    for body in lines:
        chunk_ids = stage.planned(body, mapping=REPLACE)
        import_ids.append(stage.import_of(chunk_ids[0]))
        tasks += chunk_ids
    rng.shuffle(tasks)

    def load(mine: list[int]) -> None:
        runtime = stage.worker()
        deadline = time.monotonic() + 20
        for chunk_id in mine:
            while not is_done(runtime, chunk_id):
                assert time.monotonic() < deadline, "a chunk is not done"
                load_chunk(runtime, chunk_id)
        runtime.database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, [tasks[n::4] for n in range(4)]))

    statuses = [stage.status(import_id) for import_id in import_ids]
    assert {status.state for status in statuses} == {ImportState.COMPLETED}
    last = {id_: (place, n) for place, body in enumerate(bodies) for n, id_ in enumerate(body)}
    numbers = [status.number for status in statuses]
    stored = stage.query(
        "SELECT import_number AS number, byte_offset AS at FROM events WHERE import_number = ANY(%(numbers)s)",
        numbers=numbers,
    )
    width = len(lines[0]) // 120
    assert sorted((numbers.index(row.number), row.at // width) for row in stored) == sorted(last.values())
    receipts = [status.progress.counts for status in statuses]
    assert sum(found.imported for found in receipts) == len(last)
    assert receipts[0].replaced == 0
    # Nobody takes an id from the last import: it counts each of its own once.
    assert receipts[2].imported + receipts[2].replaced == len(set(bodies[2]))
    for found, body in zip(receipts, bodies, strict=True):
        assert found.imported + found.replaced <= len(set(body))
        assert found.imported + found.replaced + found.duplicates == found.lines == 120


def is_done(runtime: Runtime, chunk_id: int) -> bool:
    with runtime.database.transaction() as tx:
        return bool(tx.one("SELECT state = 'done' AS done FROM chunks WHERE id = %(id)s", id=chunk_id).done)
