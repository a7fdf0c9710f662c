"""Pushed events and imported ones: one judge, one key, and receipts that add up."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.pushing import PushDesk
from common.ledger import collections, pushes
from common.ledger.database import Deadlock, Tx
from common.ledger.rows import mapping_json
from common.model.events import Event
from common.model.mapping import Mapping, OnDuplicate
from common.model.pushes import Outcome, Push, Stored
from common.model.rejects import RejectCode
from common.runtime import Runtime
from tests.stage import Hand, Stage, ndjson
from tests.stores.test_replace import await_a_wait
from tests.unit.workers.imports.test_decoding import MAPPING, lines
from workers.imports.load import load_chunk
from workers.sweep import sweep

BOTH = pytest.mark.parametrize("rule", OnDuplicate)


def push(stage: Stage, *events: dict[str, Any] | bytes, worker: Runtime | None = None, **more: Any) -> list[Any]:
    """Push events into one collection, and return the verdicts."""
    name, mapping = more.get("collection", "events"), more.get("mapping", Mapping())
    given_lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    pushed = PushDesk(worker or stage.runtime).push(stage.caller, {name: given_lines}, mapping=mapping)
    return pushed.verdicts[name]


def listed(stage: Stage, name: str = "events") -> Any:
    with stage.runtime.database.transaction() as tx:
        (found,), _ = collections.list_collections(tx, stage.caller.project_id, names=[name], limit=1)
    return found


def counted(stage: Stage, name: str = "events") -> Any:
    """Return what the listing should say, by a look at the events."""
    (row,) = stage.query(
        "SELECT count(*) AS events, coalesce(sum(octet_length(payload::text) + 1), 0) AS bytes, min(time) AS first,"
        " max(time) AS last FROM events WHERE collection_id ="
        " (SELECT id FROM collections WHERE project_id = %(project)s AND name = %(name)s)",
        project=stage.caller.project_id,
        name=name,
    )
    return row


def table(stage: Stage, name: str) -> list[Any]:
    return stage.query(
        "SELECT event_id, byte_offset, time, odd, payload::text AS payload, import_number FROM events"
        " WHERE collection_id = (SELECT id FROM collections WHERE project_id = %(project)s AND name = %(name)s)",
        project=stage.caller.project_id,
        name=name,
    )


def assert_listing_is_right(stage: Stage, name: str = "events") -> None:
    said, found = listed(stage, name), counted(stage, name)
    assert (said.events, said.size) == (found.events, found.bytes)
    if found.events:
        assert said.first_time <= found.first <= found.last <= said.last_time


def without_line_end(line: bytes) -> bytes:
    return line.rstrip(b"\r")


@given(body=st.lists(lines.map(without_line_end).filter(lambda line: line.strip(b" \t\r")), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_push_and_an_import_of_the_same_line_agree(stage: Stage, body: list[bytes]) -> None:
    stage.runtime.settings = stage.worker(import_limit=10**6, chunk_bytes=1 << 20).settings
    pushed, imported = uuid.uuid4().hex, uuid.uuid4().hex
    # A first line of its own: only there is a byte order mark none of the line's.
    status = stage.run(b'{"first":1}\n' + b"\n".join(body), collection=imported, mapping=MAPPING)
    verdicts = push(stage, b'{"first":1}', *body, collection=pushed, mapping=MAPPING)

    rejects = stage.query(
        "SELECT r.line, r.code FROM rejects AS r JOIN chunks AS c ON c.id = r.chunk_id WHERE c.import_id = %(id)s",
        id=status.id,
    )
    assert {row.line: row.code for row in rejects} == {
        place: verdict.value for place, verdict in enumerate(verdicts) if isinstance(verdict, RejectCode)
    }
    counts = status.progress.counts
    assert verdicts.count(Outcome.STORED) == counts.imported
    assert verdicts.count(Outcome.DUPLICATE) == counts.duplicates
    theirs, ours = table(stage, imported), table(stage, pushed)
    (created,), (number,) = {row.time for row in theirs if row.byte_offset == 0}, {row.import_number for row in ours}
    (asked,) = {row.time for row in ours if row.byte_offset == 0}

    def told(row: Any, default: Any) -> tuple[Any, ...]:
        derived = int(row.event_id[19], 16) < 8
        time = "the default" if row.time == default else row.time
        return "derived" if derived else row.event_id, time, row.odd, row.payload

    assert sorted(repr(told(row, asked)) for row in ours) == sorted(repr(told(row, created)) for row in theirs)
    assert number > status.number


def test_a_time_before_1970_and_the_last_one_there_is_come_back(stage: Stage) -> None:
    push(stage, {"$time": "0001-01-01"}, {"$time": "9999-12-31T23:59:59.999999Z"}, {"$time": 0})

    times = sorted(row.time.isoformat() for row in table(stage, "events"))
    assert times == ["0001-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00"]
    assert_listing_is_right(stage)


# --- the collection's rule --------------------------------------------------------------------------------------


def test_of_a_batch_the_first_of_an_id_is_kept_or_the_last_where_the_collection_replaces(stage: Stage) -> None:
    for rule, kept, told in (
        (OnDuplicate.KEEP, 1, [Outcome.STORED, Outcome.DUPLICATE]),
        (OnDuplicate.REPLACE, 2, [Outcome.DUPLICATE, Outcome.STORED]),
    ):
        events = [{"$unique_id": "a", "n": n} for n in (1, 2)]
        assert push(stage, *events, collection=rule, mapping=Mapping(on_duplicate=rule)) == told
        assert [json.loads(row.payload)["n"] for row in stage.rows(rule)] == [kept]


def test_a_collection_has_its_own_mapping_whatever_the_push_brings(stage: Stage) -> None:
    stage.run(ndjson({"k": "a", "n": 1}), mapping=Mapping(id_names=("k",), on_duplicate=OnDuplicate.REPLACE))

    assert push(stage, {"k": "a", "n": 22}, {"$unique_id": "a"}) == [Outcome.REPLACED, Outcome.STORED]
    assert b'{"k": "a", "n": 22}' in [row.payload for row in stage.rows()]
    assert_listing_is_right(stage)


def test_an_import_that_was_asked_for_before_a_push_loses_to_it_where_the_collection_replaces(stage: Stage) -> None:
    replace = Mapping(on_duplicate=OnDuplicate.REPLACE)
    (chunk_id,) = stage.planned(ndjson({"$unique_id": "a", "n": "import"}), mapping=replace)
    push(stage, {"$unique_id": "a", "n": "push"})
    load_chunk(stage.runtime, chunk_id)

    assert [row.payload for row in stage.rows()] == [b'{"$unique_id": "a", "n": "push"}']
    assert stage.status(stage.import_of(chunk_id)).progress.counts.duplicates == 1
    assert_listing_is_right(stage)


def test_a_collection_whose_events_were_all_refused_is_not_made(stage: Stage) -> None:
    assert push(stage, b"{bad", b"[]") == [RejectCode.INVALID_JSON, RejectCode.NOT_AN_OBJECT]
    assert not stage.query("SELECT FROM collections WHERE project_id = %(id)s", id=stage.caller.project_id)


# --- routes -----------------------------------------------------------------------------------------------------


def test_an_import_of_pushed_ids_finds_them_by_their_marks(stage: Stage) -> None:
    push(stage, {"$unique_id": "a"}, {"no": "id"})
    (chunk_id,) = stage.planned(ndjson({"$unique_id": "a"}))

    assert not Hand.takes(stage.worker(), chunk_id).commits().misrouted


def test_without_redis_a_push_is_stored_and_an_import_still_finds_it(stage: Stage) -> None:
    away = stage.worker(redis_url="redis://127.0.0.1:1/0")
    assert push(stage, {"$unique_id": "a"}, worker=away) == [Outcome.STORED]
    (chunk_id,) = stage.planned(ndjson({"$unique_id": "a"}))
    done = Hand.takes(away, chunk_id).commits()

    assert (done.misrouted, done.entry.counts.duplicates) == (True, 1)
    away.database.close()


# --- side by side -----------------------------------------------------------------------------------------------


Numbers = dict[str, set[int]]


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """By id, the numbers of the pushes that brought it."""
    found: Numbers = defaultdict(set)
    store_pushed = pushes.store_pushed

    def note_number(tx: Tx, asked: Push, events: Sequence[Event]) -> Stored:
        for event in events:
            found[json.loads(event.payload)["$unique_id"]].add(asked.number)
        return store_pushed(tx, asked, events)

    monkeypatch.setattr(pushes, "store_pushed", note_number)
    return found


def begin_imports(stage: Stage, files: list[list[dict[str, Any]]], mapping: Mapping, numbers: Numbers) -> list[int]:
    """Begin an import of each file, note its number for the ids in it, and return all chunks."""
    chunk_ids = []
    for events in files:
        chunks = stage.planned(ndjson(*events), mapping=mapping)
        for one in events:
            numbers[one["$unique_id"]].add(stage.status(stage.import_of(chunks[0])).number)
        chunk_ids += chunks
    return chunk_ids


def do_all(stage: Stage, jobs: list[Any], mapping: Mapping) -> None:
    """Load chunks and push batches, in their order, by four workers at a time; then load what that left open."""
    together = threading.Barrier(4)

    def work(mine: list[Any]) -> None:
        worker = stage.worker()
        together.wait()
        for job in mine:
            if isinstance(job, int):
                load_chunk(worker, job)
            else:
                push(stage, *job, worker=worker, mapping=mapping)
        worker.database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [jobs[first::4] for first in range(4)]))
    for import_id in {stage.import_of(job) for job in jobs if isinstance(job, int)}:
        stage.load_all(import_id)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_pushes_and_imports_side_by_side_store_each_id_once_and_their_receipts_add_up(
    stage: Stage, numbers: Numbers, rule: OnDuplicate, seed: int
) -> None:
    chance, mapping = random.Random(seed), Mapping(on_duplicate=rule)

    def draw(count: int) -> list[dict[str, Any]]:
        return [{"$unique_id": f"e{chance.randrange(40)}", "x": "x" * chance.randrange(80)} for _ in range(count)]

    batches = [draw(15) for _ in range(12)]
    jobs = [*begin_imports(stage, [draw(12) for _ in range(3)], mapping, numbers), *batches]
    chance.shuffle(jobs)
    do_all(stage, jobs, mapping)

    rows = table(stage, "events")
    holders = {json.loads(row.payload)["$unique_id"]: row.import_number for row in rows}
    assert len(rows) == len(holders) == len(numbers)
    if rule is OnDuplicate.REPLACE:
        assert holders == {one: max(drawn) for one, drawn in numbers.items()}
    (sums,) = stage.query(
        "SELECT sum(events + replaced + duplicates)::int AS taken, sum(events)::int AS events,"
        " (SELECT sum(imported)::int FROM imports WHERE project_id = %(id)s) AS imported"
        " FROM pushes WHERE project_id = %(id)s",
        id=stage.caller.project_id,
    )
    assert (sums.taken, sums.events + sums.imported) == (sum(map(len, batches)), len(rows))
    assert_listing_is_right(stage)


def begun(tx: Tx, stage: Stage, rule: OnDuplicate, collection: str = "events") -> Push:
    """Return a push that has its number and its collection, and has stored nothing yet."""
    number, _ = pushes.begin_push(tx)
    mapping = mapping_json(Mapping(on_duplicate=rule))
    found = collections.ensure(tx, stage.caller.project_id, collection, mapping)
    return Push(number, stage.caller.project_id, found.id, None, rule)


def an_event(name: bytes, payload: bytes = b"{}") -> Event:
    return Event(name.ljust(16, b"\xff"), True, 0, 0, False, payload)


def test_who_has_the_smaller_number_and_commits_later_loses_where_the_collection_replaces(stage: Stage) -> None:
    late, early = stage.worker(), stage.worker()
    with late.database.transaction() as tx:
        first = begun(tx, stage, OnDuplicate.REPLACE)
    with early.database.transaction() as tx:
        second = begun(tx, stage, OnDuplicate.REPLACE)
        pushes.store_pushed(tx, second, [an_event(b"a", b'{"n":2}')])
    with late.database.transaction() as tx:
        stored = pushes.store_pushed(tx, first, [an_event(b"a", b'{"n":1}'), an_event(b"b")])

    assert (first.number < second.number, len(stored.fresh), stored.replaced) == (True, 1, {})
    assert sorted(row.payload for row in stage.rows()) == [b'{"n":2}', b"{}"]
    for worker in (late, early):
        worker.database.close()


@BOTH
def test_a_push_waits_before_it_holds_what_comes_later_in_the_order(stage: Stage, rule: OnDuplicate) -> None:
    """Of collections by name, of ids by their bytes: two that share some cannot wait for each other."""
    before, small, large = ("00000000-0000-4000-8000-00000000000" + digit for digit in "012")
    mapping = Mapping(on_duplicate=rule)
    push(stage, {"$unique_id": before}, collection="a", mapping=mapping)
    push(stage, {"$unique_id": before}, collection="b", mapping=mapping)
    waiting, other = stage.worker(), stage.worker()
    lines = {"b": [b'{"$unique_id":"%b"}' % small.encode()]}
    lines["a"] = [b'{"$unique_id":"%b"}' % one.encode() for one in (large, small)]
    with ThreadPoolExecutor(2) as pool:
        blocker = stage.worker()
        with blocker.database.transaction() as tx:
            held = begun(tx, stage, rule, "a")
            pushes.store_pushed(tx, held, [an_event(uuid.UUID(small).bytes)])
            asked = pool.submit(PushDesk(waiting).push, stage.caller, lines, mapping=mapping)
            await_a_wait(stage)
            overtaking = [
                pool.submit(push, stage, {"$unique_id": one}, collection=name, mapping=mapping, worker=other)
                for name, one in (("a", large), ("b", small))
            ]
            told = [one.result(timeout=5) for one in overtaking]
        verdicts = asked.result().verdicts
        blocker.database.close()

    assert told == [[Outcome.STORED], [Outcome.STORED]]
    # Of "a" the overtaking one has the largest number, of "b" the one that was overtaken: it came there later.
    last = Outcome.REPLACED if rule is OnDuplicate.REPLACE else Outcome.DUPLICATE
    assert verdicts == {"a": [Outcome.DUPLICATE, last], "b": [last]}
    assert_listing_is_right(stage, "b")


def test_a_push_that_waits_for_a_deletion_goes_into_the_new_collection(stage: Stage) -> None:
    push(stage, {"$unique_id": "a", "n": "old"})
    (old,) = {row.collection_id for row in stage.query(NUMBER, id=stage.caller.project_id)}
    deleting, pushing = stage.worker(), stage.worker()
    with ThreadPoolExecutor(1) as pool:
        with deleting.database.transaction() as tx:
            collections.delete_collection(tx, stage.caller.project_id, "events")
            asked = pool.submit(push, stage, {"$unique_id": "a", "n": "new"}, worker=pushing)
            await_a_wait(stage)
        assert asked.result() == [Outcome.STORED]

    assert [row.payload for row in stage.rows()] == [b'{"$unique_id": "a", "n": "new"}']
    assert len({row.collection_id for row in stage.query(NUMBER, id=stage.caller.project_id)} - {old}) == 1
    assert_listing_is_right(stage)


def test_a_deletion_waits_for_a_push_and_takes_its_events_with_it(stage: Stage) -> None:
    deleting, pushing = stage.worker(), stage.worker()

    def delete() -> int:
        with deleting.database.transaction() as tx:
            return collections.delete_collection(tx, stage.caller.project_id, "events")

    push(stage, {"$unique_id": "a"})
    with ThreadPoolExecutor(1) as pool:
        with pushing.database.transaction() as tx:
            held = begun(tx, stage, OnDuplicate.KEEP)
            pushes.store_pushed(tx, held, [an_event(b"b")])
            asked = pool.submit(delete)
            await_a_wait(stage)
        assert asked.result() == held.collection_id

    assert stage.rows() == []
    assert push(stage, {"$unique_id": "a"}) == [Outcome.STORED]
    assert_listing_is_right(stage)


NUMBER = "SELECT collection_id FROM pushes WHERE project_id = %(id)s"


def test_a_push_that_ends_a_deadlock_is_done_once_more(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [Deadlock("away"), Deadlock("away")]
    store_pushed = pushes.store_pushed

    def fail_at_first(tx: Tx, asked: Push, events: Sequence[Event]) -> Stored:
        if len(failures) > 1:
            raise failures.pop()
        return store_pushed(tx, asked, events)

    monkeypatch.setattr(pushes, "store_pushed", fail_at_first)

    assert push(stage, {"$unique_id": "a"}) == [Outcome.STORED]
    assert_listing_is_right(stage)


# --- receipts ---------------------------------------------------------------------------------------------------


@BOTH
def test_many_receipts_become_one_that_says_the_same(stage: Stage, rule: OnDuplicate) -> None:
    mapping = Mapping(on_duplicate=rule)
    for n in range(40):
        push(stage, {"$unique_id": n % 7, "$time": n * 86_400, "x": "x" * n}, {"n": n}, mapping=mapping)
    push(stage, {"a": 1}, collection="quiet")
    before = [listed(stage), listed(stage, "quiet")]
    (sums,) = stage.query(SUMS, id=stage.caller.project_id)

    for _ in range(2):
        assert sweep(stage.runtime)
        assert [listed(stage), listed(stage, "quiet")] == before
        assert stage.query(SUMS, id=stage.caller.project_id) == [sums]
    (rows,) = stage.query("SELECT count(*) AS count FROM pushes WHERE project_id = %(id)s", id=stage.caller.project_id)
    assert rows.count == 2
    assert_listing_is_right(stage)

    push(stage, {"$unique_id": 1}, mapping=mapping)
    assert_listing_is_right(stage)


SUMS = (
    "SELECT sum(requests) AS requests, sum(events) AS events, sum(replaced) AS replaced, sum(duplicates) AS duplicates,"
    " sum(bytes) AS bytes, max(number) AS number FROM pushes WHERE project_id = %(id)s"
)


def test_receipts_are_folded_while_others_are_written(stage: Stage) -> None:
    stop = threading.Event()

    def fold() -> None:
        worker = stage.worker()
        while not stop.is_set():
            with worker.database.transaction() as tx:
                pushes.fold_pushes(tx)
        worker.database.close()

    with ThreadPoolExecutor(2) as pool:
        folding = [pool.submit(fold) for _ in range(2)]
        try:
            for n in range(150):
                push(stage, {"n": n})
                assert listed(stage).events == n + 1
        finally:
            stop.set()
        for one in folding:
            one.result()
    assert_listing_is_right(stage)
