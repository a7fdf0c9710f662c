"""What comes out of an export is what was asked for, of whatever the lines held: a few collections of many lines."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from backports import zstd

from common.errors import Refusal, Terminal, Transient
from common.ledger import exports
from common.ledger.database import Database, Tx
from common.ledger.exports import Snapshot
from common.model.exports import Attempt, Export, ExportState, ExportStatus, Fill, Totals
from common.model.formats import Compression, Format
from common.model.imports import Credentials
from common.model.mapping import Mapping
from common.model.query import EVERYTHING, Query, parse_query
from common.objects import Writer
from common.settings import MIB, Settings
from tests.conftest import BUCKET
from tests.journeys.stack import wait_until
from tests.stage import Stage, event, ndjson
from tests.told import tell_ledger
from workers.exports import write
from workers.exports.delivery import PART_BYTES, Delivery
from workers.exports.encoding import Encoded
from workers.exports.healing import clean_exports, end_expired_writers

NOW = datetime(2024, 5, 15, 12, tzinfo=UTC)
NAMED = Mapping(("id",), ("timestamp",))
FILL = Fill("id", "timestamp")

VALUES = [
    "25.00", "1e2", "-0", "1E-1", "123456789012345678901234567890", "0.10000000000000000001", "1e999999",
    '"\\u0000"', '"a\\u0000b"', '"\\u00e9"', '"é☃"', '"\\ud83d\\ude00"', '"\\/"', '"\\\\"', '"\\"\\r\\n"', '"a,b"',
    '"}"', '"\\u0001\\u0002"', '"\\\\N"', '"\\\\."', '"25"', '""', "null", "true", "false", "[]", '["\\u0000"]', "{}",
    '{"b":25}', '{"b":"x","b":1e2}', '{"b":{"c":null}}', "25", "1", "5", '"x"', '"\x7f\u2028"',
]  # fmt: skip
#: As they are spelt; the fifth is another spelling of the first.
NAMES = ['"n"', '"n"', '"m"', '"deep"', '"\\u006e"', '"a.b"', '"é"', '"q\\""', '"c\\u0000"', '"c\\rd,"', '""']
FILTERS: list[dict[str, Any]] = [
    {"n": 25},
    {"n": {"neq": "x"}},
    {"n": {"gte": 5, "lt": 10**40}},
    {"n": {"exists": True}, "m": {"exists": False}},
    {"deep.b": {"exists": True}},
    {"n": ["25", "x", "é☃"]},
    {"m": {"contains": "a"}},
    {"n": None},
]


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    """Chunks of the usual size: what comes in is not looked at here."""
    built = Stage(replace(settings, chunk_bytes=8 * MIB, max_line_bytes=MIB), BUCKET)
    built.flush_redis()
    yield built
    built.close()


def drawn_line(chance: random.Random, number: int) -> bytes:
    """Return an object of odd numbers, escapes and names, with blanks in all places and repeated members."""

    def blank() -> str:
        return chance.choice(["", "", "", " ", "\t", "\r", " \r\t "])

    members = [(chance.choice(NAMES), chance.choice(VALUES)) for _ in range(chance.randint(0, 4))]
    if chance.random() < 0.8:
        members.append(('"id"', chance.choice([f'"line-{number}"', str(number), "null", f'"\\u0000{number}"'])))
    if chance.random() < 0.8:
        at = NOW + timedelta(hours=chance.randint(-5, 5))
        members.append(('"timestamp"', chance.choice([f'"{at.isoformat()}"', f'"{at:%Y-%m-%dT%H:%M:%S}Z"', "null"])))
    chance.shuffle(members)
    inner = ",".join(f"{blank()}{name}{blank()}:{blank()}{value}{blank()}" for name, value in members)
    end = blank().replace("\r", "")  # one in front of the line feed is part of the line's end
    return f"{blank()}{{{inner or blank()}}}{end}".encode()


def drawn_lines(seed: str, many: int = 400) -> list[bytes]:
    chance = random.Random(seed)
    return [b"{}", b" { \r } ", *(drawn_line(chance, number) for number in range(many))]


def lines_of(stage: Stage, status: ExportStatus) -> list[bytes]:
    """Return the lines of all its objects, in order, each without its line feed."""
    assert status.state is ExportState.COMPLETED, status.error
    found = stage.found(status.spec.destination.prefix)
    bodies = [found[one.key.removeprefix(status.spec.destination.prefix)] for one in status.objects]
    assert all(body.endswith(b"\n") for body in bodies if body)
    return b"".join(bodies).split(b"\n")[:-1]


def stored(stage: Stage, collection: str = "events") -> list[Any]:
    return stage.query(
        "SELECT payload::text AS payload, time, odd FROM events WHERE collection_id ="
        " (SELECT id FROM collections WHERE project_id = %(project)s AND name = %(name)s)",
        project=stage.caller.project_id,
        name=collection,
    )


def meant(rows: list[Any], query: Query) -> Counter[bytes]:
    """Return the payloads that are asked for: judged by Python alone."""
    return Counter(
        row.payload.encode()
        for row in rows
        if (query.start is None or row.time >= query.start)
        and (query.end is None or row.time < query.end)
        and query.matches(row.payload.encode())
    )


@pytest.fixture
def counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """Return what the rows of exports will say between the count and the copy: events and bytes."""
    seen: list[tuple[int, int | None]] = []
    copy_events = exports.copy_events

    def look_and_copy(tx: Tx, job: Export, take: Callable[[bytes], None], **more: Any) -> None:
        if not more.get("odd_only"):
            status = stage.export_status(job.id)
            assert status.events_total is not None
            seen.append((status.events_total, status.bytes_total))
        copy_events(tx, job, take, **more)

    monkeypatch.setattr(exports, "copy_events", look_and_copy)
    return seen


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have blocks end everywhere."""
    monkeypatch.setattr(write, "_BLOCK", 500)


def queries() -> Iterator[Query]:
    window = {"start": "2024-05-15T09:00:00Z", "end": "2024-05-15T14:00:00Z"}
    yield EVERYTHING
    yield parse_query({"timeframe": window}, now=NOW)
    for asked in FILTERS:
        yield parse_query({"filter": asked}, now=NOW)
    yield parse_query({"filter": FILTERS[1], "timeframe": window}, now=NOW)


def test_an_export_has_the_events_that_its_query_means_and_no_others(
    stage: Stage, counted: list[tuple[int, int | None]], small_blocks: None
) -> None:
    lines = drawn_lines("meant")
    stage.run(b"\n".join(lines), mapping=NAMED)
    rows = stored(stage)
    assert Counter(row.payload.encode() for row in rows) == Counter(lines), "lines that were not taken as they are"
    assert {row.odd for row in rows} == {True, False}

    for query in queries():
        wanted = meant(rows, query)
        assert wanted, query
        status = stage.export(query=query)
        got = lines_of(stage, status)
        filled = lines_of(stage, stage.export(query=query, fill=FILL))

        assert Counter(got) == wanted, query
        assert len(filled) == len(got), query
        (events, size), (filled_events, filled_size) = counted[-2:]
        assert (events, filled_events) == (len(got), len(got)), query
        assert size == sum(len(line) + 1 for line in got), f"counted otherwise than written: {query}"
        assert filled_size == sum(len(line) + 1 for line in filled), f"with a fill: {query}"


@pytest.mark.parametrize("fill", [Fill(), FILL], ids=["no fill", "fill"])
def test_what_comes_out_goes_in_and_comes_out_the_same(stage: Stage, fill: Fill) -> None:
    stage.run(b"\n".join(drawn_lines(f"round trip {fill}")), mapping=NAMED)
    first = lines_of(stage, stage.export(fill=fill))

    again = stage.run(b"\n".join(first), collection="again", mapping=NAMED)
    second = lines_of(stage, stage.export(collection="again", fill=fill))

    assert again.progress.counts.imported == len(first)
    assert Counter(second) == Counter(first)


def test_a_small_export_gives_the_lines_of_the_large_one_in_the_order_of_their_times(stage: Stage) -> None:
    stage.run(b"\n".join(drawn_lines("small", 200)), mapping=NAMED)

    for query in queries():
        large = lines_of(stage, stage.export(query=query, fill=FILL))
        small = [*stage.export_desk.small_export(stage.caller, "events", query, fill=FILL)]

        assert Counter(small) == Counter(large), query
        times = [_time_of(line) for line in small]
        assert times == sorted(times)


def _time_of(line: bytes) -> datetime:
    at = datetime.fromisoformat(json.loads(line)["timestamp"])
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def test_a_small_export_has_as_many_events_as_it_may_and_no_more(stage: Stage) -> None:
    stage.run(ndjson(*({"$unique_id": str(number), "n": number, "odd": "\0" * (number % 2)} for number in range(6))))
    of_six = parse_query({"filter": {"n": {"gte": 0}}}, now=NOW)

    for query in (EVERYTHING, of_six):
        given = stage.export_desk.small_export(stage.caller, "events", query, fill=FILL, most=6)
        assert len([*given]) == 6
        with pytest.raises(Refusal) as refused:
            stage.export_desk.small_export(stage.caller, "events", query, fill=FILL, most=5)
        assert refused.value.code == "too_many_events"


@pytest.mark.parametrize("odd", [b"", b"\\u0000"], ids=["even", "odd"])
def test_an_export_may_have_as_many_events_as_it_says(stage: Stage, odd: bytes) -> None:
    stage.run(b"".join(b'{"n":"%d%b"}\n' % (number, odd) for number in range(5)))

    assert stage.export(most_events=5).state is ExportState.COMPLETED
    refused = stage.export(most_events=4, query=parse_query({"filter": {"n": {"exists": True}}}, now=NOW))

    assert refused.error
    assert (refused.state, refused.error.code) == (ExportState.FAILED, "too_many_events")
    assert stage.found(refused.spec.destination.prefix) == {}


#: A cell as the module's own words have it, by another decoder: numbers stay as they are spelt.
_DECODER = json.JSONDecoder(parse_float=lambda text: _Spelt(text), parse_int=lambda text: _Spelt(text))


class _Spelt(str):
    __slots__ = ()


def _cell(value: Any) -> str | None:
    """Return what a cell holds; None of what is an object or an array, whose blanks this decoder does not keep."""
    if value is None or isinstance(value, dict | list):
        return None if isinstance(value, dict | list) else ""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("part_bytes", [None, MIB], ids=["one object", "parts"])
@pytest.mark.parametrize("fill", [Fill(), FILL], ids=["no fill", "fill"])
def test_a_table_read_back_has_every_member_of_every_event(
    stage: Stage, part_bytes: int | None, fill: Fill, small_blocks: None
) -> None:
    stage.run(b"\n".join(drawn_lines("table", 200)), mapping=NAMED)
    query = parse_query({"filter": {"n": {"neq": "x"}}}, now=NOW)
    events = [_DECODER.decode(line.decode()) for line in lines_of(stage, stage.export(query=query, fill=fill))]
    names = sorted({name for one in events for name in one})

    status = stage.export(query=query, fill=fill, format=Format.CSV, part_bytes=part_bytes)

    found = stage.found(status.spec.destination.prefix)
    assert status.objects, status.error
    (body,) = [found[one.key.removeprefix(status.spec.destination.prefix)] for one in status.objects]
    head, *records = csv.reader(StringIO(body.decode(), newline=""), strict=True)
    assert head == names
    assert status.events_total == len(records) == len(events)

    def told(cells: list[str | None]) -> str:
        return repr(cells)

    containers = {name for one in events for name, value in one.items() if isinstance(value, dict | list)}
    plain = [at for at, name in enumerate(names) if name not in containers]
    assert Counter(told([record[at] for at in plain]) for record in records) == Counter(
        told([_cell(one.get(names[at])) for at in plain]) for one in events
    )
    for name in containers:
        at = names.index(name)
        cells = Counter(_canonical(record[at]) for record in records)
        assert cells == Counter(_shape(one.get(name)) for one in events), name


def _canonical(cell: str) -> str:
    """Return a cell in one form, whatever blanks an object or an array in it has."""
    return json.dumps(_DECODER.decode(cell)) if re.match(r"[\[{]", cell) else cell


def _shape(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else _cell(value) or ""


def test_every_part_of_a_table_begins_with_the_columns(stage: Stage) -> None:
    stage.run(ndjson(*(event(str(number), size=5_000) for number in range(600))))

    status = stage.export(format=Format.CSV, part_bytes=MIB)

    found = stage.found(status.spec.destination.prefix)
    bodies = [found[one.key.removeprefix(status.spec.destination.prefix)].decode() for one in status.objects]
    tables = [[*csv.DictReader(StringIO(body, newline=""))] for body in bodies]
    assert len(tables) > 2
    assert sorted(int(row["$unique_id"]) for table in tables for row in table) == [*range(600)]
    assert [one.events for one in status.objects] == [*map(len, tables)]


@pytest.mark.parametrize(
    ("compression", "many"), [(Compression.NONE, 100), (Compression.GZIP, 5), (Compression.ZSTD, 5)]
)
def test_what_is_told_of_an_object_is_of_its_bytes_as_they_are_stored(
    stage: Stage, compression: Compression, many: int
) -> None:
    noise = random.Random(1)
    lines = ndjson(*(event(str(number), noise.randbytes(50_000).hex()) for number in range(many)))
    stage.run(lines)

    status = stage.export(compression=compression)

    (body,) = stage.found(status.spec.destination.prefix).values()
    (told,) = status.objects
    assert (told.events, told.size, told.sha256) == (many, len(body), hashlib.sha256(body).hexdigest())
    assert status.bytes_total == status.bytes_done == len(body)
    assert compression is not Compression.NONE or len(body) > PART_BYTES, "it is no upload of several parts"
    undone = {Compression.GZIP: gzip.decompress, Compression.ZSTD: zstd.decompress}.get(compression, bytes)(body)
    assert sorted(undone.splitlines()) == sorted(lines.splitlines())


def test_two_projects_with_collections_of_one_name_never_see_each_others_events(stage: Stage) -> None:
    other = Stage(stage.settings, BUCKET)
    own = {b'{"id":"x","of":"1"}', b'{"odd":"\\u0000","of":"1"}'}
    strange = {line.replace(b"1", b"2") for line in own}
    stage.run(b"\n".join(own), mapping=NAMED)
    other.run(b"\n".join(strange), mapping=NAMED)

    for query in (EVERYTHING, parse_query({"filter": {"of": {"exists": True}}}, now=NOW)):
        assert {*lines_of(stage, stage.export(query=query))} == own
        assert {*lines_of(other, other.export(query=query))} == strange
        small = stage.export_desk.small_export(stage.caller, "events", query, fill=FILL)
        assert {json.loads(line)["of"] for line in small} == {"1"}
    other.close()


class _Killed(BaseException):
    pass


def _dies_before_its_row_says_so(stage: Stage, export_id: str) -> None:
    """Write an export up to where all of its objects are made."""

    def die(*_: object) -> None:
        raise _Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(write, "_complete", die)
        with pytest.raises(_Killed):
            write.write_export(stage.runtime, export_id)


def _forget_events(stage: Stage, left: int) -> None:
    with stage.runtime.database.transaction() as tx:
        tx.run(
            "DELETE FROM events AS e USING collections AS c WHERE c.id = e.collection_id"
            " AND c.project_id = %(project)s AND e.byte_offset >= (SELECT byte_offset FROM events"
            " WHERE collection_id = c.id ORDER BY byte_offset OFFSET %(left)s LIMIT 1)",
            project=stage.caller.project_id,
            left=left,
        )
        tell_ledger(tx, "events")


def test_an_attempt_of_fewer_parts_leaves_nothing_of_the_one_before_it(stage: Stage) -> None:
    stage.run(ndjson(*(event(str(number), size=5_000) for number in range(600))))
    export_id = stage.ask_export(part_bytes=MIB)
    _dies_before_its_row_says_so(stage, export_id)
    prefix = stage.export_status(export_id).spec.destination.prefix
    before = stage.found(prefix)
    assert len(before) == 4

    _forget_events(stage, 250)
    write.write_export(stage.runtime, export_id)

    status, found = stage.export_status(export_id), stage.found(prefix)
    assert len(lines_of(stage, status)) == 250
    assert sorted(found) == [f"{export_id}.manifest.json", *(f"{export_id}/part-{n:05}.ndjson" for n in (1, 2))]
    told = json.loads(found[f"{export_id}.manifest.json"])
    assert told["events"] == 250
    assert [one["key"] for one in told["objects"]] == [one.key for one in status.objects]
    assert stage.uploads_begun(prefix) == []


def test_no_manifest_stands_while_a_later_attempt_makes_its_parts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(ndjson(*(event(str(number), size=5_000) for number in range(600))))
    export_id = stage.ask_export(part_bytes=MIB)
    _dies_before_its_row_says_so(stage, export_id)
    prefix = stage.export_status(export_id).spec.destination.prefix
    seen: list[list[str]] = []
    complete = Writer.complete

    def look_and_complete(*given: Any, **more: Any) -> None:
        seen.append(sorted(stage.found(prefix)))
        complete(*given, **more)

    monkeypatch.setattr(Writer, "complete", look_and_complete)
    write.write_export(stage.runtime, export_id)

    names = [f"{export_id}/part-{number:05}.ndjson" for number in (1, 2, 3)]
    assert seen == [names[:number] for number in range(4)]


def test_an_attempt_whose_credentials_were_deleted_fails_and_says_so(
    stage: Stage,
) -> None:
    stage.run(ndjson(event("a")))
    export_id = stage.ask_export()
    delete = "DELETE FROM export_secrets WHERE export_id = %(id)s"
    with stage.runtime.database.transaction() as tx:
        tx.run(delete, id=export_id)

    write.write_export(stage.runtime, export_id)

    status = stage.export_status(export_id)
    assert status.error
    assert (status.state, status.error.code) == (ExportState.FAILED, "credentials_expired")
    assert stage.found(status.spec.destination.prefix) == {}


def test_credentials_deleted_under_an_attempt_leave_it_those_that_it_has(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(ndjson(event("a")))
    export_id = stage.ask_export()
    begin = Writer.begin

    def delete_and_begin(*given: Any, **more: Any) -> str:
        with stage.runtime.database.transaction() as tx:
            assert tx.run("DELETE FROM export_secrets WHERE export_id = %(id)s", id=export_id) == 1
        return begin(*given, **more)

    monkeypatch.setattr(Writer, "begin", delete_and_begin)
    write.write_export(stage.runtime, export_id)

    status = stage.export_status(export_id)
    assert status.state is ExportState.COMPLETED
    assert len(lines_of(stage, status)) == 1


def test_each_export_writes_with_its_own_callers_credentials(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(ndjson(event("a")))
    keys = [Credentials(f"key-{number}", "secret") for number in range(3)]
    asked = [stage.ask_export(credentials=one) for one in keys]
    used: list[str] = []
    begin = Writer.begin

    def note_and_begin(writer: Writer, *given: Any, **more: Any) -> str:
        used.append(writer._objects.client._request_signer._credentials.access_key)
        return begin(writer, *given, **more)

    monkeypatch.setattr(Writer, "begin", note_and_begin)
    for export_id in reversed(asked):
        write.write_export(stage.runtime, export_id)

    assert used == ["key-2", "key-1", "key-0"]


def _claim(stage: Stage, export_id: str) -> Attempt:
    """Claim an export, from whoever has it, by a worker that is gone at once."""
    worker = stage.worker()
    with stage.runtime.database.transaction() as tx:
        tx.run("UPDATE exports SET lease_expires_at = now() WHERE state = 'running' AND id = %(id)s", id=export_id)
    with worker.database.transaction() as tx:
        attempt = exports.claim_export(tx, export_id, lease_seconds=30)
    worker.database.close()
    assert attempt
    return attempt


def _told(stage: Stage, export_id: str) -> list[Any]:
    return stage.query(
        "SELECT to_jsonb(x) AS export,"
        " (SELECT jsonb_agg(o) FROM export_objects AS o WHERE o.export_id = x.id) AS objects"
        " FROM exports AS x WHERE x.id = %(id)s",
        id=export_id,
    )


#: What an attempt may write into the rows, and is told whether it could.
NOTES: dict[str, Callable[[Tx, Attempt], bool]] = {
    "snapshot": lambda tx, attempt: exports.note_snapshot(tx, attempt, Snapshot(1, NOW, NOW)),
    "totals": lambda tx, attempt: exports.note_totals(tx, attempt, Totals(7, 7)),
    "object": lambda tx, attempt: exports.note_object(tx, attempt, 2, "other"),
    "sealing": lambda tx, attempt: exports.note_sealing(tx, attempt, 1),
    "progress": lambda tx, attempt: exports.renew_export(
        tx, attempt, lease_seconds=90, events_done=0, bytes_done=0, moved=True
    ),
    "end": lambda tx, attempt: exports.complete_export(tx, attempt, events=7, size=7),
    "failure": lambda tx, attempt: exports.fail_export(tx, attempt.job.id, Terminal("x", "y"), attempt=attempt),
}


@pytest.mark.parametrize("lost", ["overtaken", "cancelled"])
@pytest.mark.parametrize("note", NOTES)
def test_who_has_lost_an_export_notes_nothing_of_it(stage: Stage, note: str, lost: str) -> None:
    stage.run(b"{}")
    export_id = stage.ask_export()
    attempt = _claim(stage, export_id)
    with stage.runtime.database.transaction() as tx:
        assert exports.note_object(tx, attempt, 1, "key")
    if lost == "overtaken":
        later = _claim(stage, export_id)
        assert later.lease_token != attempt.lease_token
    else:
        stage.export_desk.cancel_export(stage.caller, export_id)
    before = _told(stage, export_id)

    with stage.runtime.database.transaction() as tx:
        noted = NOTES[note](tx, attempt)

    assert not noted
    assert _told(stage, export_id) == before


@pytest.mark.parametrize("note", NOTES)
def test_who_holds_an_export_notes_all_of_it(stage: Stage, note: str) -> None:
    stage.run(b"{}")
    attempt = _claim(stage, stage.ask_export())
    with stage.runtime.database.transaction() as tx:
        assert exports.note_object(tx, attempt, 1, "key")
        assert NOTES[note](tx, attempt)


def test_of_an_earlier_attempt_all_must_go_but_what_the_last_one_put_in_its_place(stage: Stage) -> None:
    stage.run(b"{}")
    export_id = stage.ask_export()
    first = _claim(stage, export_id)
    with stage.runtime.database.transaction() as tx:
        for number in (1, 2, 3):
            assert exports.note_object(tx, first, number, f"key-{number}")
        assert exports.note_sealing(tx, first, 1)
        assert exports.note_sealing(tx, first, 2)
    last = _claim(stage, export_id)
    with stage.runtime.database.transaction() as tx:
        assert exports.note_object(tx, last, 1, "key-1")
        assert exports.note_sealing(tx, last, 1)
        assert exports.complete_export(tx, last, events=0, size=0)
        left = exports.list_leftovers(tx, export_id)

    assert {(one.lease_token, one.key, one.stands) for one in left} == {
        (first.lease_token, "key-1", False),
        (first.lease_token, "key-2", True),
        (first.lease_token, "key-3", False),
    }


@pytest.fixture
def reader(stage: Stage) -> Iterator[Database]:
    opened = Database(stage.settings.database_url, application_name="reader")
    yield opened
    opened.close()


def _renewed(stage: Stage, attempt: Attempt) -> bool:
    """Look as the watch does when nothing has moved; return whether the lease is longer for it."""
    with stage.runtime.database.transaction() as tx:
        before = tx.one("SELECT lease_expires_at AS ends FROM exports WHERE id = %(id)s", id=attempt.job.id)
        assert exports.renew_export(tx, attempt, lease_seconds=600, events_done=0, bytes_done=0, moved=False)
        after = tx.one("SELECT lease_expires_at AS ends FROM exports WHERE id = %(id)s", id=attempt.job.id)
    return bool(after.ends > before.ends)


def _await_reader(stage: Stage, snapshot: Snapshot, waits_for: str) -> None:
    found = "SELECT FROM pg_stat_activity WHERE pid = %(pid)s AND state = 'active' AND wait_event = %(event)s"
    wait_until(lambda: stage.query(found, pid=snapshot.pid, event=waits_for), what="the backend is at that")


def test_a_lease_is_not_renewed_for_a_statement_that_waits_for_its_writer(stage: Stage, reader: Database) -> None:
    """Whoever hangs keeps no lease, though Postgres is in the middle of its statement."""
    stage.run(b"{}")
    attempt = _claim(stage, stage.ask_export())
    with stage.runtime.database.transaction() as tx:  # more than the buffers of a connection hold: 40 MB
        tx.run(
            "INSERT INTO events SELECT 0, 0, now(), gen_random_uuid(), %(id)s, 0, false,"
            " json_build_object('filler', repeat('x', 1000000)) FROM generate_series(1, 40)",
            id=attempt.job.collection_id,
        )
    looked: list[bool] = []
    with reader.transaction() as tx:
        snapshot = exports.begin_snapshot(tx)
        with stage.runtime.database.transaction() as aside:
            assert exports.note_snapshot(aside, attempt, snapshot)

        def hang(_: bytes) -> None:
            if not looked:
                _await_reader(stage, snapshot, "ClientWrite")
                looked.append(_renewed(stage, attempt))

        exports.copy_events(tx, attempt.job, hang)

    assert looked == [False]


def test_a_lease_is_renewed_while_postgres_is_at_work_on_the_statement(stage: Stage, reader: Database) -> None:
    stage.run(b"{}")
    attempt = _claim(stage, stage.ask_export(fill=Fill("id", "timestamp")))
    with ThreadPoolExecutor(1) as pool, reader.transaction() as tx:
        snapshot = exports.begin_snapshot(tx)
        with stage.runtime.database.transaction() as noting:
            assert exports.note_snapshot(noting, attempt, snapshot)
        assert not _renewed(stage, attempt), "it is at nothing yet"
        with stage.runtime.database.aside() as locking:
            locking.run("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            counted = pool.submit(exports.count_events, tx, attempt.job)
            _await_reader(stage, snapshot, "relation")
            assert _renewed(stage, attempt)
        assert counted.result()[0].events == 1


def test_who_hangs_loses_its_lease_though_its_watch_looks_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(b"{}")
    export_id = stage.ask_export()
    ended = "SELECT FROM exports WHERE id = %(id)s AND lease_expires_at < now() AND snapshot_at IS NOT NULL"
    seen: list[bool] = []
    hand_on = Delivery.write

    def hang(self: Delivery, lines: Encoded) -> None:
        wait_until(lambda: stage.query(ended, id=export_id), what="the statement has ended")
        seen.append(True)
        hand_on(self, lines)

    monkeypatch.setattr(Delivery, "write", hang)
    worker = stage.worker(lease_seconds=0.5)
    write.write_export(worker, export_id)
    worker.database.close()

    assert seen
    # Nobody took it meanwhile.
    assert stage.export_status(export_id).state is ExportState.COMPLETED


def test_a_cancel_ends_the_statement_of_the_writer(stage: Stage) -> None:
    stage.run(b"{}")
    export_id = stage.ask_export()
    worker = stage.worker()

    def write_it() -> None:
        write.write_export(worker, export_id)
        worker.database.close()

    waits = (
        "SELECT FROM pg_stat_activity AS a JOIN exports AS x ON x.holder_pid = a.pid"
        " WHERE x.id = %(id)s AND x.snapshot_at IS NOT NULL AND a.wait_event = 'relation'"
    )
    with ThreadPoolExecutor(1) as pool, stage.runtime.database.aside() as locking:
        locking.run("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        writing = pool.submit(write_it)
        wait_until(lambda: stage.query(waits, id=export_id), what="the writer waits")
        stage.export_desk.cancel_export(stage.caller, export_id)
        writing.result(20)

    assert stage.export_status(export_id).state is ExportState.CANCELLED


def test_an_upload_that_nobody_could_list_is_broken_off_by_who_began_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes back what there is between S3's answer and the note of it, and may not list uploads."""
    stage.run(b"{}")
    export_id = stage.ask_export()
    prefix = stage.export_status(export_id).spec.destination.prefix
    begin, other = Writer.begin, stage.worker()

    def begin_and_be_taken_back(*given: Any, **more: Any) -> str:
        upload_id = begin(*given, **more)
        assert stage.uploads_begun(prefix)
        stage.export_desk.cancel_export(stage.caller, export_id)
        wait_until(is_taken_back, what="the object is forgotten")
        return upload_id

    def is_taken_back() -> bool:
        clean_exports(other)  # again: a round ends at the first that fails, and others have left some
        return not stage.query("SELECT FROM export_objects WHERE export_id = %(id)s", id=export_id)

    monkeypatch.setattr(Writer, "list_begun", lambda *_: [])
    monkeypatch.setattr(Writer, "begin", begin_and_be_taken_back)
    write.write_export(stage.runtime, export_id)
    other.database.close()

    assert stage.uploads_begun(prefix) == []
    assert stage.found(prefix) == {}


def _attempts(stage: Stage, export_id: str) -> int:
    (row,) = stage.query("SELECT attempts FROM exports WHERE id = %(id)s", id=export_id)
    return int(row.attempts)


def test_an_export_that_never_ends_well_fails_after_its_attempts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise Transient("S3 cannot be reached at the moment.")

    stage.run(b"{}")
    export_id = stage.ask_export()
    monkeypatch.setattr(write, "delay_after", lambda _: 0.0)
    monkeypatch.setattr(Writer, "begin", fail)
    worker = stage.worker(chunk_attempts=2)
    for attempts in (1, 2):
        write.write_export(worker, export_id)
        assert (stage.export_status(export_id).state, _attempts(stage, export_id)) == (ExportState.RUNNING, attempts)

    write.write_export(worker, export_id)
    worker.database.close()

    status = stage.export_status(export_id)
    assert status.error
    assert (status.state, status.error.code) == (ExportState.FAILED, "export_failed")
    assert "2 attempts" in status.error.message


@pytest.mark.parametrize(("befalls", "counted_attempts"), [(SystemExit, 0), (ValueError, 1)])
def test_to_be_told_to_stop_is_no_attempt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, befalls: type[BaseException], counted_attempts: int
) -> None:
    def end(*_: Any, **__: Any) -> str:
        raise befalls

    stage.run(b"{}")
    export_id = stage.ask_export()
    with monkeypatch.context() as patched:
        patched.setattr(write, "delay_after", lambda _: 0.0)
        patched.setattr(Writer, "begin", end)
        with pytest.raises(befalls):
            write.write_export(stage.runtime, export_id)

    assert _attempts(stage, export_id) == counted_attempts
    write.write_export(stage.runtime, export_id)
    assert stage.export_status(export_id).state is ExportState.COMPLETED


def test_the_sweep_ends_the_backend_of_who_lost_its_lease_and_of_nobody_else(stage: Stage) -> None:
    stage.run(b"{}")
    asked = [stage.ask_export() for _ in range(2)]
    holders = [Database(stage.settings.database_url, application_name="holder") for _ in asked]
    lives = "SELECT FROM pg_stat_activity WHERE pid = %(pid)s"
    pids = []
    for export_id, holder in zip(asked, holders, strict=True):
        with holder.transaction() as tx:
            assert exports.claim_export(tx, export_id, lease_seconds=30)
            pids.append(tx.one("SELECT pg_backend_pid() AS pid").pid)
    with stage.runtime.database.transaction() as tx:
        tx.run("UPDATE exports SET lease_expires_at = now() - interval '1 s' WHERE id = %(id)s", id=asked[0])

    end_expired_writers(stage.runtime)

    wait_until(lambda: not stage.query(lives, pid=pids[0]), what="the backend is gone")
    assert stage.query(lives, pid=pids[1])
    for holder in holders:
        holder.close()


def test_nobody_claims_what_another_writes(stage: Stage) -> None:
    stage.run(b"{}")
    export_id = stage.ask_export()
    holder = stage.worker()
    with holder.database.transaction() as tx:
        assert exports.claim_export(tx, export_id, lease_seconds=30)

    with stage.runtime.database.transaction() as tx:
        assert exports.claim_export(tx, export_id, lease_seconds=30) is None
    write.write_export(stage.runtime, export_id)
    assert _attempts(stage, export_id) == 1

    # As soon as its backend is gone the lease is nothing.
    holder.database.close()
    gone = "SELECT FROM exports WHERE id = %(id)s AND NOT holder_lives(holder_pid, holder_started)"
    wait_until(lambda: stage.query(gone, id=export_id), what="the lease is gone")
    write.write_export(stage.runtime, export_id)
    assert stage.export_status(export_id).state is ExportState.COMPLETED
