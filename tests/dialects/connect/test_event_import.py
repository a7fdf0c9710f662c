"""Connect's wire, held to the seed document."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.callers import QUERY, create_key
from api.connect import parse, render
from api.web import MAX_BODY
from common.ledger import imports
from common.model.chunks import Counts
from common.model.formats import Compression, Format
from common.model.imports import ImportState, ImportStatus, Progress
from common.model.mapping import Mapping
from common.model.rejects import LineError, RejectCode
from common.model.sources import SourceRef
from tests.dialects.connect import seed
from tests.stage import Stage, event, ndjson
from workers.imports import load
from workers.imports.plan import plan_import


def headers(stage: Stage, key: str) -> dict[str, str]:
    return {"X-Project-Id": stage.caller.project_id, "X-API-Key": key, "Content-Type": "application/json"}


def test_the_seeds_reply_is_rendered_to_the_letter() -> None:
    status = ImportStatus(
        id="0" * 32,
        number=1,
        collection="purchases",
        state=ImportState.RUNNING,
        source=SourceRef("mybucket", "purchases.json"),
        mapping=Mapping(),
        created_at=datetime(2015, 4, 1, 0, 32, 45, tzinfo=UTC),
        started_at=datetime(2015, 4, 1, 0, 33, 3, tzinfo=UTC),
        finished_at=None,
        read_at=datetime(2015, 4, 1, 0, 38, 43, tzinfo=UTC),
        bytes_total=10_000,
        chunks_total=10,
        chunks_running=2,
        progress=Progress(Counts(5130987, 5130985, rejected=2), 4243, 4, imported_lately=150_960),
        error=None,
        history=(),
    )
    errors = [LineError((0, 0), "purchases.json", index, 0, 1, RejectCode.INVALID_JSON) for index in (9951, 45930)]

    found = render.import_status(status, errors)

    assert found == json.loads(seed.REPLY)
    assert list(found) == list(json.loads(seed.REPLY)), "the order of the fields"


def test_the_seeds_request_starts_an_import_and_the_location_tells_of_it(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    answer = client.post("/event-import", data=seed.REQUEST, headers=headers(stage, key))
    assert (answer.status_code, answer.data) == (201, b"")

    found = client.get(answer.headers["Location"], headers=headers(stage, key))
    assert found.status_code == 200
    document = found.get_json()
    assert list(document) == list(json.loads(seed.REPLY))
    assert (document["collection"], document["status"], document["percentComplete"]) == ("purchases", "pending", 0)
    assert (document["started"], document["finished"], document["error"]) == (None, None, None)
    assert "ACCESS_KEY" not in found.text


def test_a_path_names_one_object_of_uncompressed_lines_whatever_it_looks_like(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    asked = {**json.loads(seed.REQUEST), "s3Path": "s3://mybucket/a*b?.csv.gz"}
    answer = client.post("/event-import", data=json.dumps(asked), headers=headers(stage, key))
    with stage.runtime.database.transaction() as tx:
        job = imports.read_import(tx, answer.headers["Location"].rsplit("/", 1)[1])

    assert job.source == SourceRef("mybucket", "a*b?.csv.gz")
    assert (job.format, job.compression) == (Format.NDJSON, Compression.NONE)


def test_a_body_is_read_as_json_whatever_type_it_claims(client: FlaskClient, stage: Stage, key: str) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"):
        sent = {**headers(stage, key), "Content-Type": kind}
        assert client.post("/event-import", data=seed.REQUEST, headers=sent).status_code == 201


def test_the_seeds_file_is_imported_to_the_byte(client: FlaskClient, stage: Stage, key: str) -> None:
    ref = stage.put(seed.FILE)
    asked = {**json.loads(seed.REQUEST), "s3Path": ref.url}
    answer = client.post("/event-import", data=json.dumps(asked), headers=headers(stage, key))
    import_id = answer.headers["Location"].rsplit("/", 1)[1]
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id):
        load.load_chunk(stage.runtime, chunk_id)

    document = client.get(answer.headers["Location"], headers=headers(stage, key)).get_json()
    assert (document["status"], document["importedEvents"], document["percentComplete"]) == ("complete", 2, 100)
    assert document["finished"]
    assert [row.payload for row in stage.rows("purchases")] == seed.FILE.splitlines()


def test_an_events_id_is_its_id_or_else_its_unique_id(client: FlaskClient, stage: Stage, key: str) -> None:
    body = ndjson(
        {"id": "a", "$unique_id": "x", "n": 1},
        {"id": "b", "$unique_id": "x", "n": 2},
        {"$unique_id": "a", "n": 3},
        {"id": None, "$unique_id": "b", "n": 4},
        {"timestamp": "2015-07-28T00:00:30.295Z", "$time": "not a time", "n": 5},
        {"timestamp": None, "$time": 1427848365, "n": 6},
        {"timestamp": "nope", "n": 7},
    )
    ref = stage.put(body)
    asked = {**json.loads(seed.REQUEST), "s3Path": ref.url}
    answer = client.post("/event-import", data=json.dumps(asked), headers=headers(stage, key))
    import_id = answer.headers["Location"].rsplit("/", 1)[1]
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id):
        load.load_chunk(stage.runtime, chunk_id)

    document = client.get(answer.headers["Location"], headers=headers(stage, key)).get_json()
    assert (document["importedEvents"], document["duplicateEvents"]) == (4, 2)
    assert [error["index"] for error in document["eventErrors"]] == [6]
    assert [json.loads(row.payload)["n"] for row in stage.rows("purchases")] == [1, 2, 5, 6]
    times = stage.query(
        "SELECT time FROM events JOIN imports ON number = import_number WHERE id = %(id)s ORDER BY byte_offset",
        id=import_id,
    )
    assert times[2].time == datetime(2015, 7, 28, 0, 0, 30, 295000, tzinfo=UTC)
    assert times[3].time == datetime(2015, 4, 1, 0, 32, 45, tzinfo=UTC)


def test_an_event_that_may_not_be_pushed_is_an_error_of_an_import_and_the_others_are_taken(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    stage.runtime.settings = replace(stage.settings, max_line_bytes=1024 * 1024)
    large = {"id": "large", "text": "x" * 64 * 1024}
    body = ndjson({"id": "a"}, {"tp_a": 1}, {"_id": 1}, {"a": {"b.c": 1}}, {"a": [{"n" * 256: 1}]}, large, {"id": "z"})
    asked = {**json.loads(seed.REQUEST), "s3Path": stage.put(body).url}
    answer = client.post("/event-import", data=json.dumps(asked), headers=headers(stage, key))
    import_id = answer.headers["Location"].rsplit("/", 1)[1]
    plan_import(stage.runtime, import_id)
    stage.load_all(import_id)

    document = client.get(answer.headers["Location"], headers=headers(stage, key)).get_json()
    assert (document["status"], document["importedEvents"]) == ("complete", 2)
    assert document["eventErrors"] == [
        {"index": 1, "error": "Property names starting with tp_ are reserved and cannot be set."},
        {"index": 2, "error": "The property name _id is reserved and cannot be set."},
        {"index": 3, "error": "Property names cannot contain a period (.)."},
        {"index": 4, "error": "Property names cannot be longer than 255 characters."},
        {"index": 5, "error": "Maximum event size of 64kb exceeded."},
    ]


def test_an_import_by_another_wire_into_the_collection_has_no_such_rules(stage: Stage) -> None:
    stage.run(ndjson({"id": "a", "tp_a": 1}), mapping=parse.MAPPING)
    status = stage.run(ndjson({"id": "b", "tp_a": {"b.c": 1}}), named=frozenset())

    assert (status.progress.counts.imported, status.progress.counts.rejected) == (1, 0)


def test_the_first_thousand_errors_are_listed_and_all_are_counted(client: FlaskClient, stage: Stage, key: str) -> None:
    status = stage.run(b"\n".join([b"{bad"] * 1005))
    document = client.get(f"/event-import/{status.id}", headers=headers(stage, key)).get_json()

    assert [error["index"] for error in document["eventErrors"]] == list(range(1000))
    assert status.progress.counts.rejected == 1005


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"collection": None}, "collection"),
        ({"collection": ""}, "collection"),
        ({"collection": 7}, "collection"),
        ({"collection": "a/b"}, "collection"),
        ({"collection": "a\0b"}, "collection"),
        ({"collection": "x" * 256}, "collection"),
        ({"s3Path": "mybucket/purchases.json"}, "s3Path"),
        ({"s3Path": "s3://mybucket"}, "s3Path"),
        ({"s3Path": "s3://mybucket/folder/"}, "s3Path"),
        ({"s3Path": "http://169.254.169.254/latest"}, "s3Path"),
        ({"s3Path": ["s3://mybucket/a"]}, "s3Path"),
        ({"s3AccessKeyId": ""}, "s3AccessKeyId"),
        ({"s3SecretAccessKey": {}}, "s3SecretAccessKey"),
        ({"s3AccessKeyId": "a\r\nX-Evil: 1"}, "s3AccessKeyId"),
        ({"s3SecretAccessKey": "secret\n"}, "s3SecretAccessKey"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_field_at_fault_is_named(
    client: FlaskClient, stage: Stage, key: str, change: dict[str, Any], field: str
) -> None:
    asked = {**json.loads(seed.REQUEST), **change}
    answer = client.post("/event-import", data=json.dumps(asked), headers=headers(stage, key))

    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == [field]
    assert all(error["description"] for error in answer.get_json()["errors"])


@pytest.mark.parametrize("left_out", ["collection", "s3Path", "s3AccessKeyId", "s3SecretAccessKey"])
def test_a_field_left_out_is_named(client: FlaskClient, stage: Stage, key: str, left_out: str) -> None:
    asked = {name: value for name, value in json.loads(seed.REQUEST).items() if name != left_out}
    answer = client.post("/event-import", data=json.dumps(asked), headers=headers(stage, key))

    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == [left_out]


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"x"', b'{"a":NaN}', b"\xff", b"[" * 5000])
def test_a_body_that_is_no_json_object_is_refused(client: FlaskClient, stage: Stage, key: str, body: bytes) -> None:
    answer = client.post("/event-import", data=body, headers=headers(stage, key))

    assert answer.status_code in (400, 422)
    assert {"errorMessage", "errors"} & set(answer.get_json())


def test_a_body_over_the_limit_is_refused(client: FlaskClient, stage: Stage, key: str) -> None:
    answer = client.post("/event-import", data=b" " * (MAX_BODY + 1), headers=headers(stage, key))

    assert answer.status_code == 413
    assert answer.get_json()["errorMessage"]


def test_unknown_paths_and_methods_answer_in_connects_form(client: FlaskClient) -> None:
    wrong_method, wrong_path = client.delete("/event-import"), client.get("/event-import/a/b")

    assert (wrong_method.status_code, wrong_path.status_code) == (405, 404)
    assert wrong_method.headers["Allow"]
    assert set(wrong_method.get_json()) == set(wrong_path.get_json()) == {"errorMessage"}


def test_strangers_get_401_and_learn_nothing(client: FlaskClient, stage: Stage, key: str) -> None:
    good = headers(stage, key)
    other = Stage(stage.settings, stage.bucket)
    for wrong in (
        {},
        {"X-API-Key": key},
        {**good, "X-API-Key": "nonsense"},
        {**good, "X-API-Key": key[:-1] + ("a" if key[-1] != "a" else "b")},
        {**good, "X-Project-Id": other.caller.project_id},
        {**good, "X-Project-Id": "not an id"},
    ):
        for answer in (
            client.post("/event-import", data=b"{", headers=wrong),
            client.get("/event-import/x", headers=wrong),
        ):
            assert answer.status_code == 401
            assert set(answer.get_json()) == {"errorMessage"}
    other.close()


def test_an_unknown_id_and_another_projects_answer_alike(client: FlaskClient, stage: Stage, key: str) -> None:
    other = Stage(stage.settings, stage.bucket)
    theirs = client.get(f"/event-import/{other.start(b'')}", headers=headers(stage, key))
    unknown = client.get(f"/event-import/{'0' * 32}", headers=headers(stage, key))
    nonsense = client.get("/event-import/nonsense", headers=headers(stage, key))

    assert theirs.status_code == unknown.status_code == nonsense.status_code == 404
    assert set(theirs.get_json()) == set(unknown.get_json()) == {"errorMessage"}
    other.close()


def test_a_key_that_may_only_query_starts_nothing(client: FlaskClient, stage: Stage) -> None:
    with stage.runtime.database.transaction() as tx:
        query_key = create_key(tx, stage.caller.project_id, [QUERY])
    answer = client.post("/event-import", data=seed.REQUEST, headers=headers(stage, query_key))

    assert answer.status_code == 403


def test_without_a_slot_the_answer_tells_when_to_come_again(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.query("UPDATE projects SET import_limit = 1 WHERE id = %(id)s RETURNING id", id=stage.caller.project_id)
    active = stage.start(ndjson(event("a")))
    answer = client.post("/event-import", data=seed.REQUEST, headers=headers(stage, key))

    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.get_json()["activeImports"] == [active]
    assert answer.get_json()["limit"] == 1


def test_a_cancelled_import_is_failed_here_and_says_why(client: FlaskClient, stage: Stage, key: str) -> None:
    import_id = stage.start(ndjson(event("a")))
    stage.desk.cancel_import(stage.caller, import_id)
    document = client.get(f"/event-import/{import_id}", headers=headers(stage, key)).get_json()

    assert (document["status"], document["error"]) == ("failed", "The import was cancelled.")


def test_a_request_repeated_with_its_key_tells_of_the_same_import(client: FlaskClient, stage: Stage, key: str) -> None:
    """No part of the seed; a caller that sends no such header never meets it."""
    once = {**headers(stage, key), "Idempotency-Key": "once"}
    first, again = (client.post("/event-import", data=seed.REQUEST, headers=once) for _ in range(2))

    assert (again.status_code, again.headers["Location"]) == (201, first.headers["Location"])
    assert len(stage.desk.list_imports(stage.caller).items) == 1
