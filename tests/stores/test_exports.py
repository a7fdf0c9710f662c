"""Exports: what comes out, and what is in the bucket when it does not."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import psycopg2.errors
import pytest
from backports import zstd

from api.exporting import ExportDesk
from api.rendering import http_status
from common.errors import Refusal
from common.ledger import database, exports
from common.ledger.database import Database, Tx
from common.ledger.migrate import migrate
from common.model.exports import MOVES, Destination, ExportState, Fill, Leftover
from common.model.formats import Compression, Format
from common.model.imports import Failure
from common.model.mapping import Mapping
from common.model.query import Query, parse_query
from common.objects import Writer
from common.settings import MIB, Settings
from deploy.local.servers import Servers
from tests.conftest import BUCKET
from tests.journeys.stack import wait_until
from tests.stage import Stage, event, ndjson
from workers.exports import healing, write
from workers.exports.delivery import Delivery
from workers.exports.encoding import Encoded
from workers.exports.healing import clean_exports, expire_export_secrets, send_exports_again
from workers.exports.write import write_export


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    """Chunks of the usual size: what comes in is not looked at here."""
    built = Stage(replace(settings, chunk_bytes=8 * MIB, max_line_bytes=MIB), BUCKET)
    built.flush_redis()
    yield built
    built.close()


def test_events_come_out_as_they_went_in(stage: Stage) -> None:
    lines = [
        b'{"$unique_id":"a","price":25.00,"n":1e2,"big":123456789012345678901234567890}',
        b'{"$unique_id":"b","text":"tab\\tquote\\"back\\\\slash\\u00e9","b":1,"a":2,"b":3}',
        b'{ "$unique_id" : "c" , \t "nul": "\\u0000" }\r',
        '{"$unique_id":"d","Ã¼":"snow ☃","lines":"a\\nb\\r\\n"}'.encode(),
    ]
    stage.run(b"\n".join(lines) + b"\n")

    status = stage.export()

    (written,) = stage.found(status.spec.destination.prefix).items()
    assert written[0] == f"{status.id}.ndjson"
    assert sorted(written[1].splitlines()) == sorted(line.rstrip(b"\r") for line in lines)
    assert status.state is ExportState.COMPLETED
    assert (status.events_total, status.events_done) == (4, 4)
    assert status.bytes_total == status.bytes_done == len(written[1])
    assert status.objects[0].sha256 == hashlib.sha256(written[1]).hexdigest()


def test_an_export_of_nothing_is_an_empty_object(stage: Stage) -> None:
    stage.run(b"\n\n")

    status = stage.export()

    assert stage.found(status.spec.destination.prefix) == {f"{status.id}.ndjson": b""}
    assert (status.percent, status.bytes_total) == (100.0, 0)


def test_parts_are_cut_between_lines_and_the_manifest_tells_of_them_all(stage: Stage) -> None:
    lines = ndjson(*(event(str(number), size=5_000) for number in range(600))).splitlines()
    stage.run(b"\n".join(lines) + b"\n")

    status = stage.export(part_bytes=MIB)

    found = stage.found(status.spec.destination.prefix)
    manifest = json.loads(found.pop(f"{status.id}.manifest.json"))
    assert len(found) == 3
    assert sorted(line for body in found.values() for line in body.splitlines()) == sorted(lines)
    assert [
        (one["key"].removeprefix(status.spec.destination.prefix), one["events"], one["bytes"], one["sha256"])
        for one in manifest["objects"]
    ] == [
        (name, body.count(b"\n"), len(body), hashlib.sha256(body).hexdigest()) for name, body in sorted(found.items())
    ]
    assert manifest["events"] == status.events_total == 600


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
@pytest.mark.parametrize("part_bytes", [None, MIB])
def test_each_object_is_compressed_by_itself(stage: Stage, compression: Compression, part_bytes: int | None) -> None:
    lines = ndjson(*({"$unique_id": str(number), "noise": random.randbytes(2_500).hex()} for number in range(1000)))
    stage.run(lines)
    undo = {Compression.GZIP: gzip.decompress, Compression.ZSTD: zstd.decompress}[compression]

    status = stage.export(compression=compression, part_bytes=part_bytes)

    found = stage.found(status.spec.destination.prefix)
    bodies = [undo(body) for name, body in sorted(found.items()) if "manifest" not in name]
    assert len(bodies) == (1 if part_bytes is None else 3)
    assert sorted(b"".join(bodies).splitlines()) == sorted(lines.splitlines())
    assert status.bytes_total == sum(one.size for one in status.objects)


def test_the_fill_gives_an_id_and_a_time_to_events_that_had_none(stage: Stage) -> None:
    lines = [
        b"{}",
        b" { } ",
        b'{"a":"{"}',
        b'{"a":{}}\t',
        b'{"id":null,"timestamp":"2024-01-01T00:00:00Z"}',
        b'{"id":"mine","timestamp":null}',
        b'{"id":1,"timestamp":"2024-01-01","odd":"\\u0000"}',
        b'{"odd":"\\u0000"}',
        b'{"id":"x","id":null}',
    ]
    stage.run(b"\n".join(lines), mapping=Mapping(("id",), ("timestamp",)))

    status = stage.export(fill=Fill("id", "timestamp"))

    (body,) = stage.found(status.spec.destination.prefix).values()
    assert status.bytes_total == len(body)
    events = [json.loads(line) for line in body.splitlines()]
    assert all(event["id"] and event["timestamp"] for event in events)
    assert b'{"id":1,"timestamp":"2024-01-01","odd":"\\u0000"}\n' in body
    assert {event["id"] for event in events} >= {"mine", 1}
    # From now on that is what names it: taken in again and again, it is there once, and needs no fill any more.
    for _ in range(2):
        again = stage.run(body, collection="again", mapping=Mapping(("id",), ("timestamp",)))
    assert again.progress.counts.duplicates == len(lines)
    status = stage.export(collection="again", fill=Fill("id", "timestamp"))
    (same,) = stage.found(status.spec.destination.prefix).values()
    assert sorted(same.splitlines()) == sorted(body.splitlines())


def test_a_table_has_a_column_for_each_member_and_a_record_for_each_event(stage: Stage) -> None:
    lines = [
        b'{"$unique_id":"a","price":25.00,"text":"a,\\"b\\"\\nc"}',
        b'{"$unique_id":"b","deep":{"er":{"x":true}},"none":null}',
    ]
    stage.run(b"\n".join(lines))

    status = stage.export(format=Format.CSV)
    (body,) = stage.found(status.spec.destination.prefix).values()
    assert body.splitlines()[0] == b"$unique_id,deep,none,price,text"
    assert sorted(csv.DictReader(StringIO(body.decode())), key=lambda row: row["$unique_id"]) == [
        {"$unique_id": "a", "deep": "", "none": "", "price": "25.00", "text": 'a,"b"\nc'},
        {"$unique_id": "b", "deep": '{"er":{"x":true}}', "none": "", "price": "", "text": ""},
    ]

    status = stage.export(format=Format.CSV, columns=("deep.er.x", "price.none"))
    (body,) = stage.found(status.spec.destination.prefix).values()
    assert sorted(body.splitlines()) == [b",", b"deep.er.x,price.none", b"true,"]


def test_a_project_never_has_more_active_exports_than_its_limit(stage: Stage) -> None:
    stage.run(b"")

    def ask(_: int) -> str | None:
        try:
            return stage.ask_export()
        except Refusal:
            return None

    with ThreadPoolExecutor(8) as pool:
        started = [export_id for export_id in pool.map(ask, range(24)) if export_id]

    assert len(started) == stage.settings.export_limit


def test_the_table_makes_the_moves_of_the_model_and_no_others(stage: Stage) -> None:
    stage.run(b"")
    for old in ExportState:
        for new in set(ExportState) - {old}:
            assert _moves(stage, old, new) == (new in MOVES[old]), f"{old} > {new}"


def _moves(stage: Stage, old: ExportState, new: ExportState) -> bool:
    """Return whether the database takes a row from one state to the other; leaves it ended."""
    export_id = stage.ask_export()
    sets = (
        "UPDATE exports SET state = %(state)s, finished_at = CASE WHEN %(ended)s THEN now() END,"
        " error_code = %(code)s WHERE id = %(id)s"
    )
    try:
        with stage.runtime.database.transaction() as tx:
            for state in (old, new):
                tx.run("ALTER TABLE exports DISABLE TRIGGER export_moves")
                if state is new:
                    tx.run("ALTER TABLE exports ENABLE TRIGGER export_moves")
                code = "x" if state is ExportState.FAILED else None
                tx.run(sets, state=state, ended=state.ended, code=code, id=export_id)
            raise _Undo
    except _Undo:
        return True
    except psycopg2.errors.RaiseException:
        return False
    finally:
        stage.export_desk.cancel_export(stage.caller, export_id)


class _Undo(Exception):
    pass


def test_credentials_are_gone_as_soon_as_an_export_has_ended(stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    completed = stage.export()
    failed = stage.export(destination=Destination("no-such-bucket", ""))
    cancelled = stage.ask_export()
    stage.export_desk.cancel_export(stage.caller, cancelled)

    assert [completed.state, failed.state] == [ExportState.COMPLETED, ExportState.FAILED]
    assert failed.error == Failure("destination_not_found", "There is no such bucket in S3.")
    for export_id in (completed.id, failed.id, cancelled):
        assert not stage.query("SELECT FROM export_secrets WHERE export_id = %(id)s", id=export_id)


def test_an_export_whose_credentials_have_reached_their_days_fails_and_they_are_deleted(stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    export_id = stage.ask_export()
    with stage.runtime.database.transaction() as tx:
        tx.run("UPDATE export_secrets SET expires_at = now() WHERE export_id = %(id)s", id=export_id)

    expire_export_secrets(stage.runtime)

    status = stage.export_status(export_id)
    assert status.error
    assert (status.state, status.error.code) == (ExportState.FAILED, "credentials_expired")
    assert not stage.query("SELECT FROM export_secrets WHERE export_id = %(id)s", id=export_id)


def test_what_the_queue_has_lost_is_sent_again_and_nothing_twice(stage: Stage) -> None:
    stage.run(b"")
    asked = [stage.ask_export() for _ in range(3)]
    with stage.runtime.database.transaction() as tx:
        # What other tests have left.
        tx.run(
            "UPDATE exports SET state = 'cancelled', finished_at = now()"
            " WHERE finished_at IS NULL AND NOT id = ANY(%(ids)s::uuid[])",
            ids=asked,
        )
        tx.run("UPDATE exports SET sent_at = now() - interval '1 hour' WHERE id = ANY(%(ids)s::uuid[])", ids=asked)
    stage.sent.exports.clear()

    stage.sent.exports_waiting = 1
    send_exports_again(stage.runtime)
    assert len(stage.sent.exports) == 2
    stage.sent.exports_waiting = 0
    send_exports_again(stage.runtime)
    send_exports_again(stage.runtime)

    assert sorted(stage.sent.exports) == sorted(asked)


class _Killed(BaseException):
    pass


def _dies_before_its_row_says_so(stage: Stage, export_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an export up to where all of its objects are made."""

    def die(*_: object) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(write, "_complete", die)
        with pytest.raises(_Killed):
            write.write_export(stage.runtime, export_id)


def test_what_an_attempt_left_is_taken_back_without_what_the_next_one_put_in_its_place(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(ndjson(event("a")))
    export_id = stage.ask_export()
    _dies_before_its_row_says_so(stage, export_id, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "break_off", lambda *_: False)  # as S3 may answer while parts are on their way
        write.write_export(stage.runtime, export_id)

    status = stage.export_status(export_id)
    clean_exports(stage.runtime)

    assert status.state is ExportState.COMPLETED
    assert [*stage.found(status.spec.destination.prefix)] == [f"{export_id}.ndjson"]
    assert not stage.query("SELECT FROM export_secrets WHERE export_id = %(id)s", id=export_id)


def test_an_end_that_meets_an_object_being_noted_keeps_what_takes_it_back(stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    export_id = stage.ask_export()
    with stage.runtime.database.transaction() as tx:
        attempt = exports.claim_export(tx, export_id, lease_seconds=30)
    assert attempt
    other = stage.worker()

    def cancel() -> None:
        ExportDesk(other).cancel_export(stage.caller, export_id)
        other.database.close()

    with ThreadPoolExecutor(1) as pool:
        with stage.runtime.database.transaction() as tx:
            assert exports.note_object(tx, attempt, 1, "key")
            cancelled = pool.submit(cancel)
            waits = "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            wait_until(lambda: tx.all(waits), what="somebody waits for the row")
        cancelled.result()

    assert stage.query("SELECT FROM exports WHERE id = %(id)s AND clean_at IS NOT NULL", id=export_id)
    assert stage.query("SELECT FROM export_secrets WHERE export_id = %(id)s", id=export_id)


def test_the_lease_is_held_while_s3_makes_the_object(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(ndjson(event("a")))
    export_id = stage.ask_export()
    seen = []
    complete = Writer.complete

    def slowly(*args: Any, **more: Any) -> None:
        asked = stage.query("SELECT lease_expires_at AS ends FROM exports WHERE id = %(id)s", id=export_id)
        later = "SELECT FROM exports WHERE id = %(id)s AND lease_expires_at > %(ends)s + interval '1 second'"
        wait_until(lambda: stage.query(later, id=export_id, ends=asked[0].ends), what="the lease is longer")
        seen.append(True)
        complete(*args, **more)

    monkeypatch.setattr(Writer, "complete", slowly)
    write.write_export(stage.worker(lease_seconds=0.5), export_id)

    assert seen
    assert stage.export_status(export_id).state is ExportState.COMPLETED


def test_a_round_of_the_sweep_takes_back_for_a_while_and_the_next_one_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(ndjson(*(event(str(number), size=5_000) for number in range(600))))
    export_id = stage.ask_export(part_bytes=MIB)
    _dies_before_its_row_says_so(stage, export_id, monkeypatch)
    stage.export_desk.cancel_export(stage.caller, export_id)
    prefix = stage.export_status(export_id).spec.destination.prefix
    monkeypatch.setattr(healing, "_CLEANING_SECONDS", 0.01)

    left = [len(stage.found(prefix))]
    while left[-1]:
        clean_exports(stage.runtime)
        left.append(len(stage.found(prefix)))
        assert len(left) < 20, "it does not get on"

    assert len(left) > 2


def test_a_column_that_nobody_named_is_a_member_whatever_its_name_holds(stage: Stage) -> None:
    stage.run(b'{"$unique_id":"a","a.b":1,"a":{"b":2}}')

    status = stage.export(format=Format.CSV)

    (body,) = stage.found(status.spec.destination.prefix).values()
    (row,) = csv.DictReader(StringIO(body.decode(), newline=""))
    assert row == {"$unique_id": "a", "a": '{"b":2}', "a.b": "1"}


def test_a_carriage_return_in_a_cell_ends_no_record(stage: Stage) -> None:
    stage.run(b'{"$unique_id":"a","text":"x\\ry"}')

    status = stage.export(format=Format.CSV)

    (body,) = stage.found(status.spec.destination.prefix).values()
    assert [*csv.DictReader(StringIO(body.decode(), newline=""))] == [{"$unique_id": "a", "text": "x\ry"}]


def test_a_snapshot_bears_that_its_last_lines_wait_for_s3(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(ndjson(event("a")))
    monkeypatch.setattr(database, "_SESSION", database._SESSION.replace("session_timeout=60s", "session_timeout=200ms"))
    hand_on = Delivery.write

    def slowly(self: Delivery, lines: Encoded) -> None:
        time.sleep(0.6)  # three times what ends an idle session here
        hand_on(self, lines)

    monkeypatch.setattr(Delivery, "write", slowly)

    assert stage.export().state is ExportState.COMPLETED


def test_who_was_stopped_before_it_took_back_deletes_nothing_of_who_came_after(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(ndjson(event("a")))
    export_id = stage.ask_export()
    _dies_before_its_row_says_so(stage, export_id, monkeypatch)
    other, list_leftovers = stage.worker(), exports.list_leftovers

    def list_and_stop(tx: Tx, job_id: str) -> list[Leftover]:
        found = list_leftovers(tx, job_id)
        monkeypatch.undo()
        with other.database.transaction() as aside:
            aside.run("UPDATE exports SET lease_expires_at = now() WHERE id = %(id)s", id=export_id)
            aside.run("UPDATE exports SET holder_pid = NULL WHERE id = %(id)s", id=export_id)
        write.write_export(other, export_id)
        other.database.close()
        assert found
        return found

    monkeypatch.setattr(exports, "list_leftovers", list_and_stop)
    write.write_export(stage.runtime, export_id)

    status = stage.export_status(export_id)
    assert status.state is ExportState.COMPLETED
    assert [*stage.found(status.spec.destination.prefix)] == [f"{export_id}.ndjson"]


def test_a_small_export_of_what_takes_too_long_is_refused_and_not_asked_for_again(stage: Stage) -> None:
    stage.run(ndjson(event("a")))

    hurried = stage.worker()
    with hurried.database.transaction() as other:
        other.run("SET SESSION statement_timeout = '50ms'")
    desk, fill = ExportDesk(hurried), Fill("id", "timestamp")
    with stage.runtime.database.transaction() as tx:
        tx.run("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Refusal) as refused:
            desk.small_export(stage.caller, "events", Query(), fill=fill)
    hurried.database.close()

    assert (refused.value.code, http_status(refused.value)) == ("too_slow", 413)


def test_an_answer_judges_no_endless_number_of_odd_events(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(ndjson(*({"$unique_id": str(n), "odd": "\0", "n": n} for n in range(6))))
    asked = parse_query({"filter": {"n": {"gte": 2}}}, now=datetime(2024, 1, 1, tzinfo=UTC))
    desk, fill = stage.export_desk, Fill("id", "timestamp")
    assert len(list(desk.small_export(stage.caller, "events", asked, fill=fill))) == 4

    monkeypatch.setattr(exports, "_MOST_ODD", 5)

    with pytest.raises(Refusal) as refused:
        desk.small_export(stage.caller, "events", asked, fill=fill)
    assert refused.value.code == "too_many_events"


def test_an_event_without_an_id_gets_one_that_no_other_database_gives(stage: Stage, servers: Servers) -> None:
    """Derived ids are much the same everywhere: their first import has the number 1."""
    stage.run(ndjson({"a": 1}, {"$unique_id": "named"}))
    url = servers.create_database("another")
    migrate(Database(url))
    other = Stage(replace(stage.settings, database_url=url), stage.bucket)

    def shown(asked: Stage, event_id: str) -> str:
        (row,) = asked.query("SELECT shown_id(%(id)s, (SELECT hash_key FROM identity_key)) AS id", id=event_id)
        return str(row.id)

    derived, hashed = "00000000-0001-0000-0000-000000000000", "6fa459ea-ee8a-3ca4-c94e-db77e160355e"
    assert shown(stage, hashed) == hashed
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", shown(stage, derived))
    assert shown(stage, derived) == shown(stage, derived) != shown(other, derived)
    body, again = (stage.found(stage.export(fill=Fill("i", "t")).spec.destination.prefix) for _ in range(2))
    assert [*body.values()] == [*again.values()]
    other.close()


def test_an_object_that_comes_to_be_behind_the_back_of_a_cancel_is_deleted_by_its_writer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A completing request is on its way while the export is cancelled and cleaned up after."""
    stage.run(ndjson(event("a")))
    complete = Writer.complete

    def late(self: Writer, *given: Any, **more: Any) -> None:
        sweeping = stage.worker()
        ExportDesk(sweeping).cancel_export(stage.caller, export_id)
        with sweeping.database.transaction() as tx:
            tx.run("DELETE FROM export_objects WHERE export_id = %(id)s", id=export_id)
            exports.note_clean(tx, export_id)
        sweeping.database.close()
        complete(self, *given, **more)

    monkeypatch.setattr(Writer, "complete", late)
    export_id = stage.ask_export()
    write_export(stage.runtime, export_id)

    status = stage.export_status(export_id)
    assert status.state is ExportState.CANCELLED
    assert stage.found(status.spec.destination.prefix) == {}
