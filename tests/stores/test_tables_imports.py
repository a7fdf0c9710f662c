"""Imports of tables: rows are named by a key or by their moment, however they come, and in any order of commits."""

from __future__ import annotations

import gzip
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.collecting import CollectionDesk
from common.errors import Refusal
from common.ledger import imports
from common.ledger.database import Tx
from common.model.chunks import Counts
from common.model.columns import TABLE_MAPPING, DataType, Role, read_columns
from common.model.imports import ImportState, ImportStatus, Plan
from common.model.mapping import Mapping, OnDuplicate
from common.model.rules import Rules
from common.model.sources import SourceKind, SourceRef
from tests.stage import Hand, Stage
from workers.imports.first_rows import SAMPLE_BYTES
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import

Row = dict[str, Any]


def csv_of(rows: list[Row]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    return "".join(",".join(f'"{cell}"' if "," in cell else cell for cell in line) + "\r\n" for line in lines).encode()


def array_of(rows: list[Row]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def wrapped(rows: list[Row], columns: Row | None = None) -> bytes:
    return json.dumps({"columns": columns or {}, "data": rows}, indent=1).encode()


FORMS: dict[str, Callable[[list[Row]], bytes]] = {
    "rows.csv": csv_of,
    "rows.csv.gz": lambda rows: gzip.compress(csv_of(rows)),
    "rows.json": array_of,
    "rows.json.gz": lambda rows: gzip.compress(array_of(rows)),
    "wrapped.json": wrapped,
    "wrapped.json.gz": lambda rows: gzip.compress(wrapped(rows)),
}
forms = pytest.mark.parametrize("form", FORMS)
some_forms = pytest.mark.parametrize("form", ["rows.csv", "wrapped.json.gz"])
KEY = {"k": {"role": "key"}}
DAY = {"day": {"role": "timestamp"}}


def put(stage: Stage, body: bytes, name: str) -> SourceRef:
    ref = SourceRef(stage.bucket, f"{uuid.uuid4().hex}/{name}")
    stage.s3.put_object(Bucket=ref.bucket, Key=ref.key, Body=body)
    return ref


def begin(stage: Stage, body: bytes, name: str, declared: Row | None = None, *, collection: str = "table") -> str:
    """Ask for the import of a file, and return its id."""
    columns = read_columns(declared)
    return stage.start(put(stage, body, name), collection=collection, mapping=TABLE_MAPPING, columns=columns)


def take(stage: Stage, body: bytes, name: str, declared: Row | None = None, *, order: int = 1) -> ImportStatus:
    """Import a file, from its last chunk to its first where ``order`` is -1."""
    import_id = begin(stage, body, name, declared)
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id, open_only=True)[::order]:
        load_chunk(stage.runtime, chunk_id)
    stage.load_all(import_id)
    return stage.status(import_id)


def stored(stage: Stage, collection: str = "table") -> list[Row]:
    return [json.loads(row.payload) for row in stage.rows(collection)]


def agreed(stage: Stage, collection: str = "table") -> Any:
    (row,) = stage.query(
        "SELECT columns, mapping FROM collections WHERE project_id = %(project)s AND name = %(name)s",
        project=stage.caller.project_id,
        name=collection,
    )
    return row


def filled(**row: Any) -> Row:
    """Return a row of which two or three fill a chunk."""
    return {**row, "note": "x" * 80}


# --- what names a row ------------------------------------------------------------------------------------------------


@forms
def test_a_row_of_an_existing_key_takes_the_place_of_the_stored_one(stage: Stage, form: str) -> None:
    first = take(stage, FORMS[form]([filled(k=n, n="old") for n in range(8)]), form, KEY)
    rows = [filled(k=n % 9, n=f"new {n}") for n in range(5, 20)]
    second = take(stage, FORMS[form](rows), form, KEY, order=-1)

    assert first.progress.counts == Counts(lines=8, imported=8)
    assert second.progress.counts == Counts(lines=15, imported=1, replaced=8, duplicates=6)
    assert {str(row["k"]): row["n"] for row in stored(stage)} == {str(row["k"]): row["n"] for row in rows}
    assert len(stored(stage)) == 9


@some_forms
def test_a_row_of_an_existing_moment_takes_its_place_however_it_is_spelled(stage: Stage, form: str) -> None:
    spellings = [
        "2017-01-01",
        "1/1/2017",
        "2017-01-01T00:00:00.000Z",
        "01-01-2017 12:00 AM",
        "2017-01-01T01:00:00+01:00",
    ]
    take(stage, FORMS[form]([filled(day="2017-01-01", n=0), filled(day="2017-01-02", n=1)]), form, DAY)
    for n, spelling in enumerate(spellings, 2):
        status = take(stage, FORMS[form]([filled(day=spelling, n=n), filled(day=f"{n}/1/2018", n=n)]), form)
        assert status.progress.counts == Counts(lines=2, imported=1, replaced=1)

    assert sorted(str(row["n"]) for row in stored(stage)) == ["1", "2", "3", "4", "5", "6", "6"]
    numbers = [status.number]
    times = stage.query(
        "SELECT time::text AS time FROM events WHERE import_number = ANY(%(n)s) ORDER BY time", n=numbers
    )
    assert [row.time for row in times] == ["2017-01-01 00:00:00+00", "2018-06-01 00:00:00+00"]


@some_forms
def test_rows_that_nothing_names_are_each_another(stage: Stage, form: str) -> None:
    rows = [filled(a=str(n % 2), b="x") for n in range(6)]
    for _ in range(2):
        assert take(stage, FORMS[form](rows), form).progress.counts == Counts(lines=6, imported=6)

    assert len(stored(stage)) == 12
    assert agreed(stage).mapping["id"] == agreed(stage).mapping["time"] == []


@some_forms
def test_the_one_date_that_differs_in_each_row_names_them_without_anybody_saying_so(stage: Stage, form: str) -> None:
    rows = [filled(day=f"2017-01-{n:02}", units=n * 2.5) for n in range(1, 9)]
    take(stage, FORMS[form](rows), form)
    again = take(stage, FORMS[form](rows[:3]), form)

    assert again.progress.counts == Counts(lines=3, replaced=3)
    columns = {column["name"]: (column["type"], column["role"]) for column in agreed(stage).columns}
    assert columns == {
        "day": (DataType.DATE, Role.TIMESTAMP),
        "units": (DataType.NUMERIC, Role.TARGET),
        "note": (DataType.STRING, Role.FEATURE),
    }
    assert again.mapping.time_names == ("day",)
    assert again.mapping.id_is_time
    assert again.mapping.rules == Rules(required=(("day",),), digits_are_text=True)


def test_a_key_is_the_same_in_csv_and_in_json_with_and_without_quotes(stage: Stage) -> None:
    for name, body in (("a.csv", b"k,n\n7,1\n"), ("b.json", b'[{"k":7,"n":2}]'), ("c.json", b'[{"k":"7","n":3}]')):
        take(stage, body, name, KEY)

    assert stored(stage) == [{"k": "7", "n": 3}]


def test_dots_in_names_are_part_of_them_and_a_name_may_be_empty(stage: Stage) -> None:
    take(stage, b",a.b,a\n0,x,y\n1,z,y\n", "frame.csv", {"a.b": {"role": "key"}})

    assert stored(stage) == [{"": "0", "a.b": "x", "a": "y"}, {"": "1", "a.b": "z", "a": "y"}]
    assert [column["name"] for column in agreed(stage).columns] == ["a.b", "", "a"]


@some_forms
def test_a_row_that_lacks_what_names_it_is_rejected(stage: Stage, form: str) -> None:
    rows = [
        filled(k="1", day="2017-01-01"),
        filled(k="2", day=""),
        filled(k="3", day="soon"),
        filled(k="", day="1/1/2017"),
    ]
    status = take(stage, FORMS[form](rows), form, {**KEY, **DAY})
    errors = stage.desk.list_errors(stage.caller, status.id).items
    csv = "csv" in form

    assert status.state is ImportState.COMPLETED_WITH_ERRORS
    assert [error.code for error in errors] == (
        ["missing_member", "invalid_time", "missing_member"] if csv else ["invalid_time", "invalid_time", "empty_id"]
    )
    assert len(stored(stage)) == 1


def test_a_member_that_is_absent_or_null_is_missing(stage: Stage) -> None:
    status = take(stage, b'[{"day":"2017-01-01"},{"day":null},{"n":1}]', "rows.json", DAY)
    errors = stage.desk.list_errors(stage.caller, status.id).items

    assert [error.code for error in errors] == ["missing_member"] * 2


# --- once each, in any order -----------------------------------------------------------------------------------------

TABLE_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["", "a", "b", "c"]),
            "day": st.sampled_from(["2017-01-01", "1/1/2017", "1/2/2017", "2017-01-02T00:00:00Z", "soon"]),
            "n": st.sampled_from(["", "x", 'x"y', "x,y"]),
        }
    ),
    max_size=14,
)


def named_by(row: Row, naming: str) -> Any:
    """Return what names a row; None where it is rejected."""
    day = {"2017-01-01": 1, "1/1/2017": 1, "1/2/2017": 2, "2017-01-02T00:00:00Z": 2}.get(row["day"])
    if naming == "key":
        return row["k"] or None
    return day


@given(
    data=st.data(),
    bodies=st.lists(TABLE_ROWS, min_size=1, max_size=2),
    chunk_bytes=st.integers(40, 200),
    naming=st.sampled_from(["key", "timestamp"]),
    zipped=st.booleans(),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_commits_ends_in_the_last_row_of_each_name(
    stage: Stage, data: st.DataObject, bodies: list[list[Row]], chunk_bytes: int, naming: str, zipped: bool
) -> None:
    stage.runtime.settings = stage.worker(chunk_bytes=chunk_bytes, import_limit=10**6).settings
    collection = uuid.uuid4().hex
    declared = {"k" if naming == "key" else "day": {"role": naming}}
    ids = []
    for rows in bodies:
        body = ("k,day,n\n" + "".join(f'{row["k"]},{row["day"]},"{cell(row)}"\n' for row in rows)).encode()
        form = "rows.csv.gz" if zipped else "rows.csv"
        ids.append(begin(stage, gzip.compress(body) if zipped else body, form, declared, collection=collection))
        plan_import(stage.runtime, ids[-1])
    while tasks := [chunk_id for one in ids for chunk_id in stage.chunk_ids(one, open_only=True)]:
        chunk_id = data.draw(st.sampled_from(tasks))
        for fault in data.draw(st.lists(st.sampled_from(["flush", "again", "killed"]), max_size=2)):
            if fault == "flush":
                stage.flush_redis()
            elif fault == "again":
                load_chunk(stage.runtime, chunk_id)
            elif stage.query(
                "SELECT 1 FROM chunks WHERE id = %(id)s AND kind = 'load' AND state <> 'done'", id=chunk_id
            ):
                Hand.takes(stage.runtime, chunk_id)
                stage.expire_lease(chunk_id)
        load_chunk(stage.runtime, chunk_id)

    last: dict[Any, Row] = {}
    for rows, import_id in zip(bodies, ids, strict=True):
        taken = {named_by(row, naming): row for row in rows if named_by(row, naming)}
        last |= taken
        found = stage.status(import_id).progress.counts
        assert found.lines == len(rows) == found.imported + found.replaced + found.duplicates + found.rejected
        assert found.rejected == sum(not named_by(row, naming) for row in rows)
    assert texts(stored(stage, collection)) == texts(last.values())


def texts(rows: Iterable[Row]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def cell(row: Row) -> str:
    return str(row["n"]).replace('"', '""')


# --- what is agreed --------------------------------------------------------------------------------------------------


def test_the_request_is_over_the_file_and_the_file_over_its_rows(stage: Stage) -> None:
    body = wrapped(
        [{"a": "1", "b": "2017-01-01", "c": "x"}],
        {"a": {"dataType": "string", "role": "key"}, "c": {"dataType": "text"}, "z": {"role": "none"}},
    )
    status = take(stage, body, "rows.json", {"c": {"role": "key", "dataType": "string"}})

    columns = {column["name"]: (column["type"], column["role"]) for column in agreed(stage).columns}
    assert columns == {
        "c": ("string", "key"),
        "a": ("string", "feature"),
        "z": (None, "none"),
        "b": ("date", "feature"),
    }
    assert status.mapping.id_names == ("c",)
    assert [column.name for column in status.columns or ()] == ["c"]


@pytest.mark.parametrize(
    ("body", "declared", "why"),
    [
        (wrapped([{"a": 1}], {"a": {"role": "keys"}}), {}, "Column 'a' was supplied with invalid metadata. Its role"),
        (b'{"columns": [], "data": [{"a": 1}]}', {}, "an object by the names"),
        (array_of([{"a": 1}]), {"a": {"role": "key"}}, "cannot become the key"),
        (wrapped([{"a": 1}], {"a": {"role": "key"}}), {}, "cannot become the key"),
    ],
)
def test_columns_that_cannot_be_fail_the_import_and_change_nothing(
    stage: Stage, body: bytes, declared: Row, why: str
) -> None:
    take(stage, b"a,b\nx,y\n", "rows.csv")
    before = agreed(stage)
    status = take(stage, body, "rows.json", declared)

    assert status.error is not None
    assert (status.state, status.error.code) == (ImportState.FAILED, "invalid_columns")
    assert why in status.error.message
    assert agreed(stage) == before
    assert len(stored(stage)) == 1


def test_a_column_that_names_rows_and_is_there_twice_is_refused_before_anything_is_loaded(stage: Stage) -> None:
    status = take(stage, b"k,n,k\n1,2,3\n", "rows.csv", KEY)

    assert status.error is not None
    assert (status.state, status.error.code) == (ImportState.FAILED, "invalid_header")
    assert "column 3 ('k') is there twice" in status.error.message
    assert agreed(stage).columns is None
    (piece,) = status.pieces.objects
    assert piece.error == status.error


@pytest.mark.parametrize(("body", "name"), [(b"", "e.csv"), (b" \n", "e.json"), (b"[]", "e.json"), (b"k,b\n", "e.csv")])
def test_an_empty_file_agrees_on_what_was_declared_and_no_more(stage: Stage, body: bytes, name: str) -> None:
    status = take(stage, body, name)
    assert status.state is ImportState.COMPLETED
    assert agreed(stage).columns is None

    take(stage, body, name, KEY)
    assert [column["name"] for column in agreed(stage).columns] == ["k"]
    assert take(stage, b"k,n\n1,2\n1,3\n", "rows.csv").progress.counts == Counts(lines=2, imported=1, duplicates=1)


@pytest.mark.parametrize(
    ("body", "name"), [(b"k,v\n1,2\n", "r.csv"), (b"k,v\n", "r.csv"), (b'[{"k":"1","v":"2"}]', "r.json")]
)
def test_a_slip_in_the_name_of_a_key_fails_the_import_and_names_nothing(stage: Stage, body: bytes, name: str) -> None:
    status = take(stage, body, name, {"kk": {"role": "key"}})
    assert status.error
    assert (status.state, status.error.code) == (ImportState.FAILED, "invalid_columns")
    assert "the file has no such column. Is 'k' meant?" in status.error.message
    assert agreed(stage).columns is None

    assert take(stage, body, name, KEY).state is ImportState.COMPLETED


def test_a_later_file_without_what_names_the_rows_is_no_file_of_the_table(stage: Stage) -> None:
    take(stage, b"k,n\n1,2\n", "rows.csv", KEY)
    status = take(stage, b"K,n\n1,3\n", "rows.csv")
    assert status.error
    assert "Is 'K' meant?" in status.error.message


def test_rows_behind_a_sample_without_any_are_not_stored_without_a_name(stage: Stage) -> None:
    long = b'{"day":"2017-01-01","x":"%s"}' % (b"x" * (SAMPLE_BYTES + 1))
    body = b'[%s,{"day":"2017-01-02"}]' % long
    status = take(stage, body, "rows.json")
    assert status.error
    assert (status.state, status.error.code) == (ImportState.FAILED, "no_first_rows")
    assert take(stage, body, "rows.json", {"day": {"role": "timestamp"}}).progress.counts.imported == 1


def test_a_file_that_declares_a_column_that_cannot_be_told_fails(stage: Stage) -> None:
    body = b'{"columns":{"\\ud800":{"dataType":"string"}},"data":[{"a":"1"}]}'
    status = take(stage, body, "rows.json")
    assert status.error
    assert (status.state, status.error.code) == (ImportState.FAILED, "invalid_columns")
    assert agreed(stage).columns is None


def test_a_table_is_imported_from_one_object(stage: Stage) -> None:
    prefix = uuid.uuid4().hex
    for name in "ab":
        stage.s3.put_object(Bucket=stage.bucket, Key=f"{prefix}/{name}.csv", Body=b"a,b\n1,2\n")
    source = SourceRef(stage.bucket, prefix, kind=SourceKind.PREFIX)
    import_id = stage.start(source, mapping=TABLE_MAPPING, columns=(), collection="table")
    plan_import(stage.runtime, import_id)

    error = stage.status(import_id).error
    assert error is not None
    assert error.code == "source_not_one_object"


def test_more_than_the_sample_is_not_looked_at(stage: Stage) -> None:
    """What the rows behind it hold is stored as it is, and a date among them is none for lack of a better one."""
    rows = [{"a": f"{n}", "b": "x" * 1500} for n in range(800)] + [{"a": "no number", "b": ""}]
    import_id = begin(stage, csv_of(rows), "rows.csv")
    plan_import(stage.runtime, import_id)

    assert [column["type"] for column in agreed(stage).columns] == ["numeric", "string"]


# --- at the same time ------------------------------------------------------------------------------------------------


class Held:
    """A plan that has agreed, and whose commit waits for the test."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stage, self._agreed, self._go_on = stage, threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(3)
        self._others: list[Future[Any]] = []
        start = imports.start_import
        self._held = ""

        def wait(tx: Tx, plan: Plan, **totals: int) -> bool:
            if plan.job.id == self._held:
                self._agreed.set()
                assert self._go_on.wait(timeout=20)
            return start(tx, plan, **totals)

        monkeypatch.setattr(imports, "start_import", wait)

    def hold(self, import_id: str) -> None:
        self._held = import_id
        self._others.append(self._pool.submit(plan_import, self._stage.worker(), import_id))
        assert self._agreed.wait(timeout=10)

    def begin(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin something that has to wait for the commit, and return once it does."""
        future = self._pool.submit(work, *args)
        self._others.append(future)
        deadline = time.monotonic() + 10
        while not self._stage.query(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            assert time.monotonic() < deadline, "nobody waits"
        return future

    def let_go(self) -> None:
        self._go_on.set()
        for other in self._others:
            other.exception(timeout=20)
        self._pool.shutdown()


@pytest.fixture
def held(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held(stage, monkeypatch)
    yield made
    made.let_go()


@pytest.mark.parametrize(
    ("declared", "outcome"),
    [(KEY, None), ({}, None), (DAY, "invalid_columns"), ({"n": {"role": "key"}}, "invalid_columns")],
)
def test_of_two_imports_of_a_new_table_the_first_commit_decides(
    stage: Stage, held: Held, declared: Row, outcome: str | None
) -> None:
    body = csv_of([{"k": 1, "day": "2017-01-01", "n": "x"}])
    first, second = begin(stage, body, "a.csv", KEY), begin(stage, body, "b.csv", declared)
    held.hold(first)
    held.begin(plan_import, stage.worker(), second)
    held.let_go()

    statuses = [stage.status(one) for one in (first, second)]
    assert statuses[0].state is ImportState.RUNNING
    assert statuses[0].mapping.id_names == ("k",)
    if outcome is None:
        assert statuses[1].mapping == statuses[0].mapping
        for one in (second, first):
            stage.load_all(one)
        assert len(stored(stage)) == 1
    else:
        assert statuses[1].error is not None
        assert statuses[1].error.code == outcome


def test_nobody_else_waits_for_a_plan_and_a_deletion_that_does_finds_its_import(stage: Stage, held: Held) -> None:
    earlier = begin(stage, b"k,n\n1,2\n", "a.csv", KEY)
    plan_import(stage.runtime, earlier)
    late = begin(stage, b"k,n,day\n1,3,1/1/2017\n", "b.csv")
    held.hold(late)

    stage.load_all(earlier)
    assert stage.status(earlier).state is ImportState.COMPLETED
    another = begin(stage, b"k,n\n", "c.csv")
    assert stage.desk.cancel_import(stage.caller, another).state is ImportState.CANCELLED
    deletion = held.begin(CollectionDesk(stage.worker()).delete_collection, stage.caller, "table")
    held.let_go()

    assert isinstance(error := deletion.exception(), Refusal)
    assert error.code == "collection_in_use"
    stage.load_all(late)
    assert stored(stage) == [{"k": "1", "n": "3", "day": "1/1/2017"}]


def test_a_plan_that_is_made_twice_agrees_on_the_same(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    import_id = begin(stage, csv_of([{"day": "2017-01-01", "n": 1}]), "rows.csv")
    with monkeypatch.context() as lost:
        lost.setattr(imports, "start_import", lambda *_, **__: False)
        plan_import(stage.runtime, import_id)
    assert agreed(stage).columns is None

    stage.query("UPDATE imports SET lease_expires_at = now() WHERE id = %(id)s RETURNING 1", id=import_id)
    plan_import(stage.runtime, import_id)
    plan_import(stage.runtime, import_id)
    stage.load_all(import_id)

    assert stage.status(import_id).progress.counts == Counts(lines=1, imported=1)
    assert agreed(stage).mapping["time"] == ["day"]


def test_rows_that_come_into_a_collection_of_another_wire_are_named_as_its_events_are(stage: Stage) -> None:
    mapping = Mapping(id_names=("id",), time_names=("at",), on_duplicate=OnDuplicate.REPLACE)
    stage.run(b'{"id":"a","at":"2017-01-01","n":1}\n{"id":"b","n":2}\n', collection="table", mapping=mapping)
    status = take(stage, b"id,at,n\nb,1/1/2017,3\n,1/1/2017,4\n", "rows.csv")

    assert status.progress.counts == Counts(lines=2, imported=1, replaced=1)
    assert agreed(stage).mapping["id"] == ["id"]
    assert {column["role"] for column in agreed(stage).columns} <= {"feature", "target"}
    refused = take(stage, b"id,at,n\nb,1/1/2017,3\n", "rows.csv", {"n": {"role": "key"}})
    assert refused.error is not None
    assert refused.error.code == "invalid_columns"


def test_a_table_is_none_where_events_are_kept(stage: Stage) -> None:
    stage.run(b'{"$unique_id":"a"}\n', collection="table")
    with pytest.raises(Refusal) as caught:
        begin(stage, b"a,b\n1,2\n", "rows.csv")

    assert caught.value.code == "mapping_conflict"
