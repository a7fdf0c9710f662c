"""Tables: what their columns are, which rows are in them, and what becomes of rows that are put and deleted."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.callers import ADMIN, FILTERED_QUERY, PUSH, QUERY
from api.rendering import http_status
from api.replies import NumberedPage
from api.tabling import Put, RowPage, TableDesk
from common.errors import Refusal
from common.ledger import collections, tables
from common.ledger import rows as ledger_rows
from common.ledger.database import Tx
from common.ledger.rows import columns_of, mapping_of, remembered_json
from common.model.columns import TABLE_MAPPING, Column, Columns, ColumnsFault, DataType, Role, read_columns
from common.model.imports import Listing
from common.model.mapping import Mapping, OnDuplicate
from common.model.rejects import RejectCode
from tests.stage import Stage, ndjson
from tests.stores.test_replace import await_a_wait
from workers.imports.load import load_chunk

KEY = (Column("k", role=Role.KEY),)
DAY = (Column("day", DataType.DATE, Role.TIMESTAMP),)
PLAIN = (Column("v", DataType.NUMERIC, Role.FEATURE),)


def held(tx: Tx, stage: Stage, mapping: Mapping = TABLE_MAPPING, name: str = "table") -> int:
    return collections.ensure(tx, stage.caller.project_id, name, remembered_json(mapping)).id


def agree(stage: Stage, declared: Columns = (), found: Columns = (), **held_as: Any) -> tuple[Columns, Mapping]:
    with stage.runtime.database.transaction() as tx:
        return tables.agree_columns(tx, held(tx, stage, **held_as), declared=declared, found=found)


def stored(stage: Stage, name: str = "table") -> tuple[Columns | None, Mapping]:
    (row,) = stage.query(
        "SELECT columns, mapping FROM collections WHERE project_id = %(id)s AND name = %(name)s",
        id=stage.caller.project_id,
        name=name,
    )
    return columns_of(row.columns), mapping_of(row.mapping)


# --- columns ----------------------------------------------------------------------------------------------------------


def test_the_first_rows_of_a_table_name_all_of_its_rows(stage: Stage) -> None:
    columns, mapping = agree(stage, DAY, PLAIN)

    assert (columns, mapping) == stored(stage) == ((*DAY, *PLAIN), mapping)
    assert (mapping.id_names, mapping.time_names, mapping.id_is_time) == ((), ("day",), True)
    with pytest.raises(ColumnsFault, match="It cannot become the key"):
        agree(stage, KEY)
    assert stored(stage) == (columns, mapping)


def test_a_table_of_which_nothing_is_known_may_still_get_a_key(stage: Stage) -> None:
    agree(stage)
    assert stored(stage) == (None, TABLE_MAPPING)
    assert agree(stage, KEY)[1].id_names == ("k",)


def test_columns_of_other_wires_collections_name_no_rows(stage: Stage) -> None:
    mapping = Mapping(id_names=("id",))
    assert agree(stage, (), PLAIN, mapping=mapping)[1] == mapping == stored(stage)[1]
    with pytest.raises(ColumnsFault):
        agree(stage, KEY, mapping=mapping)


@pytest.mark.parametrize("round_", range(5))
def test_of_two_who_name_the_rows_of_a_new_table_at_once_one_does(stage: Stage, round_: int) -> None:
    names = [read_columns({name: {"role": "key"}}) for name in "abcd"]
    workers = [stage.worker() for _ in names]

    def name_rows(at: int) -> Mapping | None:
        try:
            with workers[at].database.transaction() as tx:
                return tables.agree_columns(tx, held(tx, stage), declared=names[at], found=())[1]
        except ColumnsFault:
            return None
        finally:
            workers[at].database.close()

    with ThreadPoolExecutor(len(names)) as pool:
        told = [one for one in pool.map(name_rows, range(len(names))) if one]
    assert told == [stored(stage)[1]]


def test_who_waits_to_name_the_rows_of_a_table_sees_how_they_were_named(stage: Stage) -> None:
    agree(stage)
    first, second = stage.worker(), stage.worker()

    def name_rows() -> None:
        with second.database.transaction() as tx:
            tables.agree_columns(tx, held(tx, stage), declared=DAY, found=())

    with ThreadPoolExecutor(1) as pool:
        with first.database.transaction() as tx:
            tables.agree_columns(tx, held(tx, stage), declared=KEY, found=())
            asked = pool.submit(name_rows)
            await_a_wait(stage)
        with pytest.raises(ColumnsFault, match="It cannot become the timestamp"):
            asked.result()
    assert stored(stage)[1].id_names == ("k",)
    for worker in (first, second):
        worker.database.close()


def test_who_brings_nothing_new_waits_for_nobody(stage: Stage) -> None:
    agree(stage, KEY, PLAIN)
    other = stage.worker()
    with other.database.transaction() as tx:
        tables.agree_columns(tx, held(tx, stage), declared=(Column("w"),), found=())
        with stage.runtime.database.transaction() as beside:
            beside.run("SET LOCAL lock_timeout = '1s'")
            assert tables.agree_columns(beside, held(beside, stage), declared=KEY, found=())[0] == (*KEY, *PLAIN)
    other.database.close()
    assert [column.name for column in stored(stage)[0] or ()] == ["k", "v", "w"]


# --- rows -------------------------------------------------------------------------------------------------------------


def put(stage: Stage, *rows: Any, name: str = "table", declared: Any = None, key: str | None = None) -> Put:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return TableDesk(stage.runtime).put_rows(
        stage.caller, name, lines, declared=read_columns(declared), idempotency_key=key
    )


def read(stage: Stage, name: str = "table", *, page: int = 0, size: int = 100, **timeframe: Any) -> RowPage:
    return TableDesk(stage.runtime).read_rows(stage.caller, name, page=page, size=size, **timeframe)


def payloads(page: RowPage) -> list[Any]:
    return [json.loads(item.payload) for item in page.items]


def day(number: int) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=number)


KEYED, TIMED, NEITHER = {"k": {"role": "key"}}, {"day": {"role": "timestamp"}}, {"v": {"dataType": "string"}}
NUMBERS = st.integers(0, 12)
ROWS = st.lists(st.builds(lambda n, v: {"k": f"k{n}", "day": day(n).isoformat(), "v": v}, NUMBERS, NUMBERS), max_size=6)
STEPS = st.one_of(
    st.tuples(st.just("put"), ROWS),
    st.tuples(st.just("import"), ROWS),
    st.tuples(st.just("delete"), st.tuples(NUMBERS, NUMBERS)),
)


@given(kind=st.sampled_from(["key", "timestamp", "key and timestamp"]), steps=st.lists(STEPS, max_size=5), cut=NUMBERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_has_the_last_row_of_each_key_or_time_and_none_that_was_deleted(
    stage: Stage, kind: str, steps: list[tuple[str, Any]], cut: int
) -> None:
    name, named_by = uuid.uuid4().hex, "day" if kind == "timestamp" else "k"
    declared = {**(KEYED if "key" in kind else {}), **(TIMED if "timestamp" in kind else {"day": {"role": "feature"}})}
    put(stage, name=name, declared=declared)
    model: dict[str, Any] = {}
    for what, told in steps:
        if what == "delete":
            low, high = min(told), max(told)
            gone = [one for one, row in model.items() if day(low).isoformat() <= row["day"] <= day(high).isoformat()]
            if "timestamp" not in kind:
                with pytest.raises(Refusal, match="no timestamp"):
                    TableDesk(stage.runtime).delete_rows(stage.caller, name, since=day(low))
                continue
            counted = TableDesk(stage.runtime).delete_rows(stage.caller, name, since=day(low), until=day(high))
            assert counted == len(gone)
            for one in gone:
                del model[one]
            continue
        if what == "put":
            put(stage, *told, name=name)
        else:
            # As other doors do it, which leave out the mapping: the collection's counts.
            stage.run(ndjson(*told), collection=name, named=frozenset())
        model |= {row[named_by]: row for row in told}

    whole = read(stage, name)
    rows = sorted(model.values(), key=itemgetter("day"))
    assert sorted(payloads(whole), key=itemgetter("day", "k")) == sorted(rows, key=itemgetter("day", "k"))
    assert_reads_agree(stage, name, whole, by_time=kind == "timestamp", cut=day(cut))
    counts = counted_events(stage, name)
    assert (whole.table.rows, whole.table.size) == (counts.events, counts.bytes)


def assert_reads_agree(stage: Stage, name: str, whole: RowPage, *, by_time: bool, cut: datetime) -> None:
    """Check pages and timeframes against the whole, of which they are pieces."""
    assert whole.total == len(whole.items)
    assert [item.id for item in whole.items] == sorted(item.id for item in whole.items)
    if by_time:
        assert [item.time for item in whole.items] == sorted(item.time for item in whole.items)
    for size in (1, 4):
        pages = [read(stage, name, page=page, size=size) for page in (*range(len(whole.items) + 1), 2**70)]
        assert [item for page in pages for item in page.items] == whole.items[: len(pages) * size]
        assert {page.total for page in pages} == {whole.total}
    if not whole.table.is_time_series:
        return
    for since, until in ((cut, None), (None, cut), (cut, cut + timedelta(days=3)), (cut, cut - timedelta(days=1))):
        wanted = [item for item in whole.items if (since or item.time) <= item.time <= (until or item.time)]
        found = read(stage, name, since=since, until=until)
        assert (found.items, found.total) == (wanted, len(wanted))
        second = read(stage, name, since=since, until=until, page=1, size=2)
        assert (second.items, second.total) == (wanted[2:4], len(wanted))


def counted_events(stage: Stage, name: str) -> Any:
    (row,) = stage.query(
        "SELECT count(*) AS events, coalesce(sum(octet_length(payload::text) + 1), 0) AS bytes FROM events"
        " WHERE collection_id = (SELECT id FROM collections WHERE project_id = %(project)s AND name = %(name)s)",
        project=stage.caller.project_id,
        name=name,
    )
    return row


def test_a_timeframe_has_the_rows_that_came_with_other_ids_too(stage: Stage) -> None:
    """Through other doors: with an id of their own, before and behind all times in the key; and without a time."""
    put(stage, {"day": "2024-01-02", "v": 1}, {"day": "1/4/2024", "v": 2}, declared=TIMED)
    small, large = "00000000-0000-4000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"
    named = Mapping(id_names=("id",), time_names=("day",))
    other = [{"id": small, "day": "2024-01-03", "v": 3}, {"id": large, "day": "2024-01-01", "v": 4}]
    stage.run(ndjson(*other), collection="table", mapping=named, named=frozenset({"id_names", "time_names"}))
    stage.run(ndjson({"v": 5}), collection="table", named=frozenset())

    whole = read(stage)
    assert len(whole.items) == 5
    assert_reads_agree(stage, "table", whole, by_time=False, cut=day(1))
    assert {row["v"] for row in payloads(read(stage, since=day(0), until=day(2)))} == {1, 3, 4}
    # Whose line says no time has that of its import, here as everywhere.
    assert [row["v"] for row in payloads(read(stage, since=datetime.now(UTC) - timedelta(hours=1)))] == [5]
    assert TableDesk(stage.runtime).delete_rows(stage.caller, "table", since=day(0), until=day(2)) == 3
    assert {row["v"] for row in payloads(read(stage))} == {2, 5}
    counts = counted_events(stage, "table")
    table = TableDesk(stage.runtime).read_table(stage.caller, "table")
    assert (table.rows, table.size) == (counts.events, counts.bytes)


def test_a_timeframe_to_the_microsecond_has_both_its_ends(stage: Stage) -> None:
    times = ["0001-01-01", "1969-12-31T23:59:59.999999Z", "1970-01-01", "9999-12-31T23:59:59.999999Z"]
    put(stage, *({"day": time} for time in times), declared=TIMED)
    moments = [datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times]
    for first, since in enumerate(moments):
        for last, until in enumerate(moments):
            found = payloads(read(stage, since=since, until=until))
            assert [row["day"] for row in found] == times[first : last + 1]


def test_rows_without_key_and_time_are_each_another(stage: Stage) -> None:
    for _ in range(2):
        put(stage, {"v": "x"}, {"v": "x"}, declared=NEITHER)
    assert payloads(read(stage)) == [{"v": "x"}] * 4
    with pytest.raises(Refusal) as refused:
        read(stage, since=day(0))
    assert refused.value.code == "no_timestamp"


def test_of_a_row_that_cannot_be_taken_no_other_is_stored_and_no_table_made(stage: Stage) -> None:
    with pytest.raises(Refusal) as refused:
        put(stage, {"k": "a"}, b"{bad", {"k": None}, *([b"[]"] * 20), declared=KEYED)
    assert refused.value.code == "invalid_rows"
    faults = refused.value.details["faults"]
    assert list(faults) == [f"data[{place}]" for place in range(1, 11)]
    assert faults["data[2]"] == [RejectCode.MISSING_MEMBER.sentence]
    assert not stage.query("SELECT FROM collections WHERE project_id = %(id)s", id=stage.caller.project_id)

    put(stage, {"k": "a"}, declared=KEYED)
    with pytest.raises(Refusal) as refused:
        put(stage, {"k": "b"}, {"v": 1})
    assert (payloads(read(stage)), list(refused.value.details["faults"])) == ([{"k": "a"}], ["data[1]"])


def test_what_cannot_be_said_of_columns_is_refused_and_changes_nothing(stage: Stage) -> None:
    put(stage, {"k": "a", "v": 1}, declared=KEYED)
    before = stored(stage)
    with pytest.raises(Refusal) as refused:
        put(stage, {"k": "b", "v": 2, "w": 3}, declared={"v": {"role": "key"}})
    assert (refused.value.code, list(refused.value.details["faults"])) == ("invalid_columns", ["v"])
    assert (stored(stage), payloads(read(stage))) == (before, [{"k": "a", "v": 1}])


def test_nothing_is_put_into_a_collection_that_keeps(stage: Stage) -> None:
    stage.run(ndjson({"$unique_id": "a"}), collection="kept")
    with pytest.raises(Refusal) as refused:
        put(stage, {"k": "a"}, name="kept", declared=KEYED)
    assert refused.value.code == "mapping_conflict"
    assert stored(stage, "kept")[0] is None


def test_rows_are_put_once_by_a_key_that_stands_for_them_and_what_is_said_of_columns(stage: Stage) -> None:
    first, again = (put(stage, {"v": "x"}, declared=NEITHER, key="once") for _ in range(2))
    assert (first.replayed, again.replayed, again.table.rows) == (False, True, 1)
    for rows, declared in (([{"v": "y"}], NEITHER), ([{"v": "x"}], {"v": {"dataType": "text"}})):
        with pytest.raises(Refusal) as refused:
            put(stage, *rows, declared=declared, key="once")
        assert refused.value.code == "idempotency_key_reused"


@pytest.mark.parametrize("round_", range(4))
def test_of_two_puts_of_a_new_table_that_name_its_rows_otherwise_one_is_refused(stage: Stage, round_: int) -> None:
    workers = [stage.worker() for _ in range(4)]

    def put_as(at: int) -> str:
        row, declared = b'{"a":1,"b":2,"c":3,"d":4}', read_columns({"abcd"[at]: {"role": "key"}})
        try:
            TableDesk(workers[at]).put_rows(stage.caller, "table", [row], declared=declared)
        except Refusal as refused:
            return refused.code
        finally:
            workers[at].database.close()
        return "abcd"[at]

    with ThreadPoolExecutor(4) as pool:
        winner, *others = sorted(pool.map(put_as, range(4)))
    assert others == ["invalid_columns"] * 3
    assert (stored(stage)[1].id_names, len(read(stage).items)) == ((winner,), 1)


def test_names_of_other_projects_are_unknown(stage: Stage) -> None:
    put(stage, {"k": "a"}, declared=KEYED)
    desk, stranger = TableDesk(stage.runtime), Stage(stage.settings, stage.bucket).caller
    for ask in (
        lambda: desk.read_table(stranger, "table"),
        lambda: desk.read_rows(stranger, "table", page=0, size=1),
        lambda: desk.delete_rows(stranger, "table"),
        lambda: desk.read_table(stage.caller, "none"),
        lambda: desk.read_table(stage.caller, "nul\0"),
        lambda: desk.delete_rows(stage.caller, "nul\0"),
    ):
        with pytest.raises(Refusal) as refused:
            ask()
        assert refused.value.code == "not_found"
    assert (desk.count_tables(stranger), desk.list_tables(stranger, page=0, size=9)) == (0, NumberedPage([], 0))


@pytest.mark.parametrize(
    ("scope", "may"), [(PUSH, "list read put"), (QUERY, "list read rows"), (FILTERED_QUERY, ""), (ADMIN, "all")]
)
def test_who_may_do_what_with_tables(stage: Stage, scope: str, may: str) -> None:
    put(stage, {"k": "a"}, declared=KEYED)
    desk, caller = TableDesk(stage.runtime), replace(stage.caller, scopes=frozenset({scope}))
    asked: dict[str, Callable[[], object]] = {
        "list": lambda: desk.list_tables(caller, page=0, size=1),
        "read": lambda: desk.read_table(caller, "table"),
        "rows": lambda: desk.read_rows(caller, "table", page=0, size=1),
        "put": lambda: desk.put_rows(caller, "table", [], declared=()),
        "delete": lambda: desk.delete_rows(caller, "table"),
    }
    for what, ask in asked.items():
        if what in may.split() or may == "all":
            ask()
        else:
            with pytest.raises(Refusal, match="scope"):
                ask()


def test_tables_are_found_by_any_part_of_their_names(stage: Stage) -> None:
    names = ["a%b", "A_b", "aXb", "b\\", "Ünder"]
    for name in names:
        put(stage, {"k": name}, name=name, declared=KEYED)
    desk = TableDesk(stage.runtime)

    def found(containing: str | None) -> set[str]:
        page = desk.list_tables(stage.caller, containing=containing, page=0, size=9)
        assert page.total == len(page.items)
        return {table.name for table in page.items}

    for containing in (None, "", "%", "_", "\\", "A", "xB", "ünd", "nothing", "\0"):
        assert found(containing) == {name for name in names if (containing or "").lower() in name.lower()}
    pages = [desk.list_tables(stage.caller, page=page, size=2) for page in (0, 1, 2, 3, 2**70)]
    assert [len(page.items) for page in pages] == [2, 2, 1, 0, 0]
    assert {table.name for page in pages for table in page.items} == {*names}
    assert {page.total for page in pages} == {desk.count_tables(stage.caller)} == {5}


def test_a_table_tells_when_it_was_last_changed(stage: Stage) -> None:
    stage.start(b"", collection="table", mapping=TABLE_MAPPING)
    desk = TableDesk(stage.runtime)
    seen = [desk.read_table(stage.caller, "table").changed_at]
    put(stage, {"day": "2024-01-01"}, declared=TIMED)
    seen.append(desk.read_table(stage.caller, "table").changed_at)
    ended = stage.run(ndjson({"day": "2024-01-02"}), collection="table", named=frozenset())
    seen.append(desk.read_table(stage.caller, "table").changed_at)
    desk.delete_rows(stage.caller, "table", until=day(0))
    seen.append(desk.read_table(stage.caller, "table").changed_at)

    first, *others = [time for time in seen if time]
    assert (seen[0], seen[2]) == (None, ended.finished_at)
    assert [first, *others] == sorted({first, *others})


def test_columns_of_a_collection_of_other_wires_are_those_of_its_first_rows(stage: Stage) -> None:
    lines = [
        {"$unique_id": f"e{n}", "$time": day(n).isoformat(), "other": day(n).isoformat(), "n": n} for n in range(3)
    ]
    stage.run(ndjson(*lines), collection="events")
    page = read(stage, "events", since=day(1))

    assert (len(page.items), page.total, page.table.is_time_series) == (2, 2, True)
    roles = {column.name: column.role for column in page.table.columns}
    assert roles == {"$unique_id": Role.KEY, "$time": Role.TIMESTAMP, "other": Role.FEATURE, "n": Role.TARGET}
    assert TableDesk(stage.runtime).read_table(stage.caller, "events").columns == ()


def test_a_page_of_more_bytes_than_an_answer_may_have_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_PAGE_BYTES", 100)
    put(stage, *({"k": str(n), "v": "x" * 60} for n in range(2)), declared=KEYED)
    assert len(read(stage, size=1).items) == 1
    with pytest.raises(Refusal) as refused:
        read(stage)
    assert refused.value.code == "page_too_large"


def test_a_page_of_more_columns_than_an_answer_may_have_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_rows, "_MOST_OF_COLUMNS", 250)
    desk = TableDesk(stage.runtime)
    for name in ("a", "b"):
        put(stage, {"k": name, "v": ""}, declared=KEYED, name=name)
        stage.start(b"", collection=name, columns=read_columns({**KEYED, "n": None}), mapping=TABLE_MAPPING)
    for ask in (
        lambda size: desk.list_tables(stage.caller, page=0, size=size),
        lambda size: stage.desk.page_imports(stage.caller, Listing(), page=0, size=size),
    ):
        assert len(ask(1).items) == 1
        with pytest.raises(Refusal) as refused:
            ask(2)
        assert refused.value.code == "page_too_large"


def test_rows_that_are_put_into_another_wires_collection_leave_it_what_it_was(stage: Stage) -> None:
    stage.run(
        ndjson({"id": "a", "time": "2024-01-01"}),
        collection="events",
        mapping=Mapping(("id",), ("time",), OnDuplicate.REPLACE),
    )
    before = read(stage, "events").table
    put(stage, {"id": "b", "time": "2024-01-02", "n": 1}, name="events")
    after = read(stage, "events", since=day(1)).table
    assert before.is_time_series
    assert after.is_time_series
    roles = {column.name: column.role for column in after.columns}
    assert roles == {"id": Role.KEY, "time": Role.TIMESTAMP, "n": Role.FEATURE}


def test_what_takes_too_long_is_refused_and_not_asked_for_again(stage: Stage) -> None:
    put(stage, {"day": "2024-01-01"}, declared=TIMED)
    hurried = stage.worker()
    with hurried.database.transaction() as other:
        other.run("SET SESSION statement_timeout = '50ms'")
    desk = TableDesk(hurried)
    with stage.runtime.database.transaction() as tx:
        tx.run("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        for ask in (
            lambda: desk.read_rows(stage.caller, "table", page=0, size=1),
            lambda: desk.delete_rows(stage.caller, "table"),
        ):
            with pytest.raises(Refusal) as refused:
                ask()
            assert (refused.value.code, http_status(refused.value)) == ("too_slow", 413)
    hurried.database.close()
    assert len(read(stage).items) == 1


# --- side by side -----------------------------------------------------------------------------------------------------


def test_a_page_and_its_total_are_of_one_moment(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    put(stage, *({"day": day(n).isoformat()} for n in range(4)), declared=TIMED)
    other, count_rows = stage.worker(), tables.count_rows

    def count_and_be_overtaken(*asked: Any) -> int:
        counted = count_rows(*asked)
        TableDesk(other).delete_rows(stage.caller, "table")
        return counted

    monkeypatch.setattr(tables, "count_rows", count_and_be_overtaken)
    page = read(stage, since=day(0))
    assert (page.total, len(page.items), page.table.rows) == (4, 4, 4)
    monkeypatch.undo()
    assert (read(stage).total, read(stage).items) == (0, [])
    other.database.close()


@pytest.mark.parametrize("seed", range(3))
def test_puts_imports_and_deletions_side_by_side_leave_what_the_ledger_says(stage: Stage, seed: int) -> None:
    chance = random.Random(seed)
    put(stage, declared=TIMED)

    def draw(count: int) -> list[dict[str, Any]]:
        return [{"day": day(chance.randrange(40)).isoformat(), "v": "x" * chance.randrange(50)} for _ in range(count)]

    jobs: list[Any] = [
        chunk for _ in range(3) for chunk in stage.planned(ndjson(*draw(12)), collection="table", named=frozenset())
    ]
    jobs += [draw(10) for _ in range(6)] + [(low, low + 12) for low in chance.sample(range(30), 5)]
    chance.shuffle(jobs)

    def work(mine: list[Any]) -> None:
        worker = stage.worker()
        desk = TableDesk(worker)
        for job in mine:
            if isinstance(job, int):
                load_chunk(worker, job)
            elif isinstance(job, tuple):
                desk.delete_rows(stage.caller, "table", since=day(job[0]), until=day(job[1]))
            else:
                desk.put_rows(stage.caller, "table", [json.dumps(row).encode() for row in job], declared=())
        worker.database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [jobs[first::4] for first in range(4)]))
    for import_id in {stage.import_of(job) for job in jobs if isinstance(job, int)}:
        stage.load_all(import_id)

    counts, whole = counted_events(stage, "table"), read(stage)
    assert (whole.table.rows, whole.table.size) == (counts.events, counts.bytes)
    assert len({item.time for item in whole.items}) == len(whole.items) == counts.events


def test_a_deletion_waits_for_a_row_that_is_being_replaced_and_deletes_what_it_became(stage: Stage) -> None:
    put(stage, {"day": "2024-01-01", "v": "short"}, declared=TIMED)
    other, replacing = stage.worker(), stage.worker()
    with ThreadPoolExecutor(1) as pool:
        with replacing.database.transaction() as tx:
            tx.run(
                'UPDATE events SET payload = \'{"day":"2024-01-01"}\' WHERE collection_id ='
                " (SELECT id FROM collections WHERE project_id = %(id)s)",
                id=stage.caller.project_id,
            )
            asked = pool.submit(TableDesk(other).delete_rows, stage.caller, "table", since=day(0), until=day(0))
            await_a_wait(stage)
        assert asked.result() == 1
    for worker in (other, replacing):
        worker.database.close()
    assert read(stage).items == []
