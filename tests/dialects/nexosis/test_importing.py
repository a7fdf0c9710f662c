"""Nexosis' wire: imports from S3, as the document has them, and what becomes of them."""

from __future__ import annotations

import gzip
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from api.callers import PUSH, create_key
from api.nexosis import render
from common.model.chunks import Counts
from common.model.columns import TABLE_MAPPING, read_columns
from common.model.imports import Credentials, Failure, ImportState, ImportStatus, ObjectStatus, Pieces, PieceState
from common.model.imports import Progress as Done
from common.model.mapping import Mapping
from common.model.rejects import LineError, RejectCode
from common.model.sources import SourceRef
from common.model.uploads import spooled
from tests.dialects.nexosis import seed
from tests.dialects.nexosis.asking import Asking
from tests.stage import Stage, event, ndjson

REQUESTED = datetime(2017, 7, 7, 12, 47, 23, 682205, tzinfo=UTC)
STARTED, COMPLETED = REQUESTED + timedelta(microseconds=1133142), REQUESTED + timedelta(microseconds=3908886)


def link(path: str) -> str:
    return f"https://ml.nexosis.com{path}"


def a_status(**changes: Any) -> ImportStatus:
    """The document's import as it was just made, but for the changes."""
    given: dict[str, Any] = {
        "id": uuid.UUID(json.loads(seed.STARTED)["importId"]).hex,
        "number": 1,
        "collection": "Location-A",
        "state": ImportState.PENDING,
        "source": SourceRef("nexosis-sample-data", "LocationA.csv"),
        "mapping": TABLE_MAPPING,
        "created_at": REQUESTED,
        "started_at": None,
        "finished_at": None,
        "read_at": REQUESTED,
        "bytes_total": None,
        "chunks_total": 0,
        "chunks_running": 0,
        "progress": Done(),
        "error": None,
        "history": ((ImportState.PENDING, REQUESTED),),
        "columns": (),
    }
    return ImportStatus(**{**given, **changes})


def detail(**changes: Any) -> dict[str, Any]:
    return render.import_detail(a_status(**changes), changes.pop("errors", ()), link)


def messages(*, errors: Any = (), **changes: Any) -> list[tuple[str, str]]:
    told = render.import_detail(a_status(**changes), errors, link)["messages"]
    return [(message["severity"], message["message"]) for message in told]


def without_dates_and_links(document: dict[str, Any]) -> dict[str, Any]:
    history = [entry["status"] for entry in document["statusHistory"]]
    return {**document, "importId": 0, "requestedDate": 0, "statusHistory": history, "links": 0}


# --- the document's samples


def test_the_documents_request_is_answered_as_the_document_does(ask: Asking, stage: Stage) -> None:
    answer = ask("POST", "/imports/s3", seed.REQUEST.encode())
    document, expected = answer.get_json(), json.loads(seed.STARTED)

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert answer.headers["Nexosis-Import-Status"] == "Requested"
    assert list(document) == list(expected), "the order of the members"
    assert without_dates_and_links(document) == without_dates_and_links(expected)
    assert document["statusHistory"][0]["date"] == document["requestedDate"]
    assert document["links"] == [
        {"rel": "self", "href": "http://localhost/v1/imports/s3"},
        {"rel": "data", "href": "http://localhost/v1/data/Location-A"},
    ]
    assert datetime.fromisoformat(document["requestedDate"]).utcoffset() == timedelta(0)
    assert (len(document["requestedDate"]), document["requestedDate"][-6:]) == (32, "+00:00")
    assert str(uuid.UUID(document["importId"])) == document["importId"]
    assert stage.sent.plans == [uuid.UUID(document["importId"]).hex]
    assert stage.status(stage.sent.plans[0]).source.anonymous, "nobody sent keys, and the service's own are not lent"


def test_the_documents_answers_are_rendered_to_the_letter() -> None:
    """But for the seventh decimal of a date, which no clock of ours has."""
    for sample, found in (
        (seed.STARTED, detail()),
        (
            seed.COMPLETED,
            detail(
                state=ImportState.COMPLETED,
                history=(
                    (ImportState.PENDING, REQUESTED),
                    (ImportState.PLANNING, STARTED),
                    (ImportState.RUNNING, STARTED + timedelta(seconds=1)),
                    (ImportState.COMPLETED, COMPLETED),
                ),
            ),
        ),
    ):
        expected = json.loads(sample.replace("nexosis.com.com", "nexosis.com"))
        assert found["links"].pop(0)["rel"] == "self"
        for entry in expected["statusHistory"][1:]:
            entry["date"] = entry["date"][:-7] + entry["date"][-6:]
        assert found == expected
        assert list(found) == list(expected)


def test_the_documents_file_is_imported_and_its_status_is_the_documents(ask: Asking, stage: Stage) -> None:
    started = ask.start(seed.FILE, "Location-A")
    ended = ask.finish(started)

    assert without_dates_and_links(ended) == {
        **without_dates_and_links(json.loads(seed.COMPLETED)),
        "parameters": started["parameters"],
    }
    assert ended["importId"] == started["importId"]
    assert ended["requestedDate"] == started["requestedDate"] == ended["statusHistory"][0]["date"]
    dates = [entry["date"] for entry in ended["statusHistory"]]
    assert dates == sorted(dates)
    assert ended["links"] == [
        {"rel": "self", "href": f"http://localhost/v1/imports/{ended['importId']}"},
        {"rel": "data", "href": "http://localhost/v1/data/Location-A"},
    ]
    assert ask("GET", f"/imports/{ended['importId']}").headers["Nexosis-Import-Status"] == "Completed"
    assert [json.loads(row.payload) for row in stage.rows("Location-A")] == json.loads(seed.FILE)


@pytest.mark.parametrize("state", ImportState)
def test_every_state_has_a_word_of_nexosis(state: ImportState) -> None:
    words = {"pending": "requested", "completed": "completed", "completed_with_errors": "completed"}
    words |= {"failed": "failed", "cancelled": "cancelled"}
    found = detail(state=state, history=((ImportState.PENDING, REQUESTED), (state, STARTED)))
    assert found["status"] == words.get(state.value, "started") == found["statusHistory"][-1]["status"]
    assert render.import_header(a_status(state=state)) == {"Nexosis-Import-Status": found["status"].capitalize()}


def test_states_that_are_one_to_nexosis_stand_once_in_the_history() -> None:
    states = ["pending", "planning", "running", "paused", "running", "completed_with_errors"]
    history = tuple((ImportState(state), REQUESTED + timedelta(seconds=at)) for at, state in enumerate(states))
    found = detail(state=ImportState.COMPLETED_WITH_ERRORS, history=history)["statusHistory"]
    assert [(entry["status"], entry["date"][17:19]) for entry in found] == [
        ("requested", "23"),
        ("started", "24"),
        ("completed", "28"),
    ]


# --- requests


#: Requests as clients write them: all of them for the same import.
SPELLINGS: dict[str, dict[str, Any]] = {
    "JavaScript": {"DataSetName": "t", "Bucket": "b-b", "Path": "p", "Region": "us-east-1", "Columns": {}},
    "nulls": {"dataSetName": "t", "bucket": "b-b", "path": "p", "region": None, "columns": None, "contentType": None},
    "no more than it takes": {"dataSetName": "t", "bucket": "b-b", "path": "p"},
    "shouting": {"DATASETNAME": "t", "BUCKET": "b-b", "PATH": "p", "REGION": ""},
    "an enumeration as a number": {"dataSetName": "t", "bucket": "b-b", "path": "p", "contentType": 1},
    "something of a later version": {"dataSetName": "t", "bucket": "b-b", "path": "p", "callbackUrl": "http://a/"},
    "two spellings, of which the last counts": {"bucket": "other", "dataSetName": "t", "Bucket": "b-b", "path": "p"},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_members_are_known_in_letters_of_any_case(ask: Asking, name: str) -> None:
    document = ask.told("POST", "/imports/s3", SPELLINGS[name])
    assert document["dataSetName"] == "t"
    assert document["parameters"] == {"bucket": "b-b", "path": "p", "region": "us-east-1"}
    assert document["columns"] == {}


@pytest.mark.parametrize("path", ["/Imports/S3", "/IMPORTS/s3", "/imports/S3"])
def test_paths_are_known_in_letters_of_any_case(ask: Asking, path: str) -> None:
    document = ask.told("POST", path, json.loads(seed.REQUEST))
    assert ask.told("GET", f"/Imports/{document['importId'].upper()}")["importId"] == document["importId"]


@pytest.mark.parametrize("name", ["accessKeyId", "accesKeyId", "AccessKeyId", "ACCESKEYID"])
def test_keys_are_taken_in_every_spelling_and_never_told_again(ask: Asking, stage: Stage, name: str) -> None:
    keys = {name: "CANARY-AK", "secretAccessKey": "CANARY-SK"}
    answer = ask("POST", "/imports/s3", {"dataSetName": "t", "bucket": stage.bucket, "path": "p", **keys})
    import_id = uuid.UUID(answer.get_json()["importId"]).hex

    assert answer.status_code == 200
    assert "CANARY" not in answer.text + ask("GET", f"/imports/{import_id}").text + ask("GET", "/imports").text
    assert not stage.status(import_id).source.anonymous
    with stage.runtime.database.transaction() as tx:
        (row,) = tx.all("SELECT sealed FROM import_secrets WHERE import_id = %(id)s", id=import_id)
    assert stage.runtime.sealer.open(import_id, bytes(row.sealed)) == Credentials("CANARY-AK", "CANARY-SK")


def test_an_import_says_its_format_or_leaves_it_to_the_content(ask: Asking, stage: Stage) -> None:
    for said, format in (("CSV", "csv"), ("json", "json"), ("xml", "auto"), (0, "auto"), (None, "auto"), ({}, "auto")):
        document = ask.start("p", contentType=said)
        assert stage.status(uuid.UUID(document["importId"]).hex).format == format
        stage.desk.cancel_import(stage.caller, document["importId"])


def test_columns_are_told_again_as_they_were_declared(ask: Asking) -> None:
    """Without defaults; in the words' own letters, and without what says nothing."""
    said = {
        "timeStamp": {"DataType": "DATE", "role": "TimeStamp", "imputation": "", "aggregation": None},
        "sales": {"dataType": "numericmeasure", "role": "target", "aggregation": "median"},
        "note": {},
        "none": None,
    }
    assert ask.start("p", columns=said)["columns"] == {
        "timeStamp": {"dataType": "date", "role": "timestamp"},
        "sales": {"dataType": "numericMeasure", "role": "target", "aggregation": "median"},
        "note": {},
        "none": {},
    }


#: Members that are wrong, and of which the fault is told.
WRONG: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, {"dataSetName", "bucket", "path"}),
    "nulls": ({"dataSetName": None, "bucket": None, "path": None}, {"dataSetName", "bucket", "path"}),
    "empty": ({"dataSetName": "", "bucket": "b-b", "path": ""}, {"dataSetName", "path"}),
    "numbers": ({"dataSetName": 1, "bucket": [], "path": {"a": 1}}, {"dataSetName", "bucket", "path"}),
    "no name of a bucket": ({"dataSetName": "t", "bucket": "a/b", "path": "p"}, {"bucket"}),
    "an address for a bucket": ({"dataSetName": "t", "bucket": "169.254.169.254", "path": "p"}, {"bucket"}),
    "a host for a bucket": ({"dataSetName": "t", "bucket": "x@evil.example", "path": "p"}, {"bucket"}),
    "a folder": ({"dataSetName": "t", "bucket": "b-b", "path": "p/"}, {"path"}),
    "a path that leaves": ({"dataSetName": "t", "bucket": "b-b", "path": "../p"}, {"path"}),
    "a line break": ({"dataSetName": "t", "bucket": "b-b", "path": "a\nb"}, {"path"}),
    "a long path": ({"dataSetName": "t", "bucket": "b-b", "path": "é" * 513}, {"path"}),
    "a slash in the name": ({"dataSetName": "a/b", "bucket": "b-b", "path": "p"}, {"dataSetName"}),
    "a long name": ({"dataSetName": "n" * 256, "bucket": "b-b", "path": "p"}, {"dataSetName"}),
    "no region": ({"dataSetName": "t", "bucket": "b-b", "path": "p", "region": "evil.example/"}, {"region"}),
    "more than a region": ({"dataSetName": "t", "bucket": "b-b", "path": "p", "region": "us-east-1.evil"}, {"region"}),
    "half a pair": ({"dataSetName": "t", "bucket": "b-b", "path": "p", "accessKeyId": "a"}, {"secretAccessKey"}),
    "the other half": ({"dataSetName": "t", "bucket": "b-b", "path": "p", "secretAccessKey": "s"}, {"accessKeyId"}),
    "a key with a line break": (
        {"dataSetName": "t", "bucket": "b-b", "path": "p", "accessKeyId": "a\r\nb", "secretAccessKey": "s"},
        {"accessKeyId"},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_all_that_is_wrong_with_a_request_is_told_at_once(ask: Asking, stage: Stage, name: str) -> None:
    body, expected = WRONG[name]
    faults = ask.faults("POST", "/imports/s3", body)
    assert set(faults) == expected
    assert all(isinstance(text, str) and text for texts in faults.values() for text in texts)
    if not any(body.values()):
        assert faults["bucket"] == ["The bucket field is required."], "the service's own words"
    assert stage.sent.plans == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"a"', b"null", b"\xff", b"[" * 10_000, b'{"bucket": NaN}'])
def test_what_is_no_object_is_refused(ask: Asking, body: bytes) -> None:
    status, kind, *_ = ask.refused("POST", "/imports/s3", body)
    assert (status, kind) == (400, "RequestValidation")


def test_metadata_that_cannot_be_is_refused_column_by_column(ask: Asking) -> None:
    columns = {"a": {"dataType": "string", "role": "target"}, "b": {"dataType": "money"}, "c": {"role": "key"}, "d": 1}
    status, kind, message, details = ask.refused("POST", "/imports/s3", ask.wish("p", columns=columns))
    assert (status, kind) == (400, "InvalidColumnMetadata")
    assert message == "One or more columns were supplied with invalid metadata"
    assert details["a"] == ["Target columns must have data type Numeric"]
    assert set(details) == {"a", "b", "d"}


@pytest.mark.parametrize("kind", ["url", "azure", "Url", "AZURE"])
def test_other_sources_are_not_here_and_the_answer_says_what_is(ask: Asking, kind: str) -> None:
    status, name, message, _ = ask.refused("POST", f"/imports/{kind}", {"dataSetName": "t", "url": "http://a/"})
    assert (status, name) == (501, "NoSuchImportSource")
    assert "/v1/imports/s3" in message
    assert "PUT /v1/data/" in message
    stranger = Asking(ask.client, ask.stage, "nobody")
    assert stranger("POST", f"/imports/{kind}").status_code == 401, "not before the caller is known"


def test_a_repeated_request_with_a_key_is_one_import(ask: Asking, stage: Stage) -> None:
    wish = ask.wish(seed.FILE)
    first = ask("POST", "/imports/s3", wish, Idempotency_Key="once")
    ask.finish(first.get_json())
    second = ask("POST", "/Imports/S3", {name.upper(): value for name, value in wish.items()}, Idempotency_Key="once")
    other = ask("POST", "/imports/s3", {**wish, "path": "other"}, Idempotency_Key="once")

    assert (second.data, second.headers["Nexosis-Import-Status"]) == (first.data, "Requested")
    assert second.headers["Idempotent-Replayed"] == "true"
    assert (other.status_code, other.get_json()["errorType"]) == (422, "IdempotencyKeyReused")
    assert len(stage.sent.plans) == 1


def test_one_import_too_many_is_429_and_says_which_are_active(ask: Asking, stage: Stage) -> None:
    stage.query("UPDATE projects SET import_limit = 2 WHERE id = %(id)s RETURNING id", id=stage.caller.project_id)
    started = [ask.start("p")["importId"] for _ in range(2)]
    answer = ask("POST", "/imports/s3", ask.wish("p"))
    document = answer.get_json()
    assert (answer.status_code, document["errorType"]) == (429, "TooManyActiveImports")
    assert int(answer.headers["Retry-After"]) > 0
    assert (document["errorDetails"]["limit"], set(document["errorDetails"]["activeImports"])) == (2, {*started})


# --- what becomes of an import


def test_an_object_that_is_not_there_is_a_failed_import_and_no_refusal(ask: Asking) -> None:
    ended = ask.run("nowhere")
    assert (ended["status"], ended["statusHistory"][-1]["status"]) == ("failed", "failed")
    assert {message["severity"] for message in ended["messages"]} == {"error"}
    first, second = (message["message"] for message in ended["messages"])
    assert first == seed.MISSING
    assert second != first
    assert ask("GET", f"/imports/{ended['importId']}").headers["Nexosis-Import-Status"] == "Failed"


def test_an_object_of_another_kind_is_a_failed_import(ask: Asking) -> None:
    ended = ask.run(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    assert (ended["status"], ended["messages"][0]) == ("failed", {"severity": "error", "message": seed.SHAPELESS})


@pytest.mark.parametrize(
    ("code", "first"),
    [
        ("source_access_denied", seed.FORBIDDEN),
        ("source_not_found", seed.MISSING),
        ("wrong_shape", seed.SHAPELESS),
        ("too_many_rejects", "Unable to import because we encountered an error"),
    ],
)
def test_a_failure_is_told_in_the_services_words_and_then_in_ours(code: str, first: str) -> None:
    error = Failure(code, "What to do.")
    found = messages(state=ImportState.FAILED, error=error, history=((ImportState.FAILED, STARTED),))
    assert found == [("error", first), ("error", "What to do.")]


def test_what_is_wrong_with_columns_is_said_once() -> None:
    assert messages(error=Failure("invalid_columns", seed.KEY_CHANGED)) == [("error", seed.KEY_CHANGED)]


def test_rejected_rows_are_warnings_the_first_ten_one_by_one() -> None:
    errors = [LineError((0, at), "key", at, 0, 1, RejectCode.RAGGED_ROW) for at in range(1, 31)]
    *first, last = messages(errors=errors, progress=Done(Counts(lines=40, imported=10, rejected=30)))
    assert {severity for severity, _ in (*first, last)} == {"warning"}
    assert [text.split(":")[0] for _, text in first] == [f"Row {at}" for at in range(2, 12)], "the first row is 1"
    assert all(text.endswith(RejectCode.RAGGED_ROW.sentence) for _, text in first)
    assert "30" in last[1]
    assert "first 10" in last[1]


def test_rows_that_took_others_place_are_told() -> None:
    counts = Counts(lines=9, imported=2, replaced=4, duplicates=3)
    assert [(severity, text[-2:]) for severity, text in messages(progress=Done(counts))] == [
        ("informational", "4."),
        ("informational", "3."),
    ]
    kept = messages(progress=Done(counts), mapping=Mapping())[1][1]
    assert "was there before" in kept


def test_of_several_objects_each_that_failed_is_told() -> None:
    bad = ObjectStatus("logs/a.csv", 1, None, PieceState.FAILED, Failure("wrong_shape", "It is none."))
    found = messages(error=Failure("wrong_shape", "One failed."), pieces=Pieces(total=2, failed=1, objects=(bad,)))
    assert found[-1] == ("error", "logs/a.csv: It is none.")


def test_an_import_without_incident_has_no_messages() -> None:
    counts = Counts(lines=12, imported=10, blank=2)
    assert messages(state=ImportState.COMPLETED, progress=Done(counts)) == []


def test_an_import_of_another_wire_is_told_too(ask: Asking, stage: Stage) -> None:
    import_id = stage.start(ndjson(event("a")), collection="a name, with/out".replace("/", " "))
    found = ask.detail(import_id)
    assert (found["type"], found["columns"]) == ("s3", {})
    assert found["links"][1]["href"].endswith(f"/v1/data/{quote('a name, with out')}")


def test_where_a_body_is_spooled_is_nobodys_business() -> None:
    found = detail(source=spooled("own-bucket", a_status().id))
    assert found["parameters"] == {"bucket": None, "path": None, "region": None}
    assert "own-bucket" not in json.dumps(found)


def test_metadata_of_columns_is_never_null() -> None:
    for declared in (None, (), read_columns({})):
        assert detail(columns=declared)["columns"] == {}


@pytest.mark.parametrize("given", ["1", "s3", "x" * 36, "015d1d17-2a45-4f61-aa97-f21cc4fd656", "%20", "ü"])
def test_what_is_no_guid_is_refused_in_the_services_words(ask: Asking, given: str) -> None:
    shown = " " if given == "%20" else given
    faults = ask.faults("GET", f"/imports/{given}")
    assert faults == {"importId": [f"The value '{shown}' is not valid for Guid."]}


def test_an_unknown_import_is_404_and_so_is_another_projects(ask: Asking, stage: Stage) -> None:
    other = Stage(stage.settings, stage.bucket)
    for unknown in (str(uuid.uuid4()), str(uuid.UUID(other.start(b"")))):
        assert ask.refused("GET", f"/imports/{unknown}") == (
            404,
            "NotFound",
            f"Item of type import with identifier {unknown} was not found",
            {"itemType": "import", "itemId": unknown},
        )
    other.close()


# --- the key, headers, and what is not here


def test_a_stranger_is_told_the_services_words_and_no_more(ask: Asking) -> None:
    for key in ("", "nobody", "pk_000000000000_" + "a" * 43):
        answer = Asking(ask.client, ask.stage, key)("GET", "/imports")
        assert (answer.status_code, answer.get_json()) == (401, seed.STRANGER)
        assert answer.headers["Content-Type"] == "application/json"
        assert not [name for name in answer.headers.keys() if name.startswith("Nexosis-")]  # noqa: SIM118
    answer = ask.client.get("/v1/imports", headers={"Authorization": f"Bearer {ask.key}"})
    assert answer.status_code == 401, "the key of this wire has a header of its own"


def test_a_key_that_may_not_is_403(ask: Asking, stage: Stage) -> None:
    with stage.runtime.database.transaction() as tx:
        key = create_key(tx, stage.caller.project_id, [PUSH])
    answer = Asking(ask.client, stage, key)("DELETE", "/data/table")
    assert answer.status_code == 403
    assert list(answer.get_json()) == ["statusCode", "message"]


COUNTED = ("DataSetCount", "PredictionCount", "SessionCount")


def test_quotas_stand_on_every_answer_to_a_known_caller(ask: Asking) -> None:
    started = ask("POST", "/imports/s3", ask.wish("p"))
    answers = [
        started,
        ask("GET", "/imports"),
        ask("GET", "/imports/1"),
        ask("POST", "/imports/url"),
        ask("PUT", "/data/a", b"{"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 501, 400]
    for answer in answers:
        quotas = {
            name: answer.headers[f"Nexosis-Account-{name}-{kind}"]
            for name in COUNTED
            for kind in ("Current", "Allotted")
        }
        assert all(value.isdecimal() and int(value) < 2**31 for value in quotas.values()), "clients read integers"
        assert int(answer.headers["Nexosis-Account-DataSetSize-Allotted"]) == 2**31 - 1
        assert answer.headers["Nexosis-Account-Balance"] == answer.headers["Nexosis-Request-Cost"] == "0.00 USD"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/imports/s3/more", 404),
        ("GET", "/data/a/stats", 404),
        ("POST", "/imports", 405),
        ("PATCH", "/data/a", 405),
        ("GET", "/Imports/a/b", 404),
    ],
)
def test_what_is_not_here_is_refused_in_the_form_of_this_wire(ask: Asking, method: str, path: str, status: int) -> None:
    found, kind, message, details = ask.refused(method, path)
    assert (found, kind) == (status, {404: "NotFound", 405: "MethodNotAllowed"}[status])
    assert message
    assert details == {}
    if status == 405:
        assert ask(method, path).headers["Allow"]


def test_a_compressed_file_is_imported(ask: Asking, stage: Stage) -> None:
    for name, body in (
        ("a", gzip.compress(seed.FILE)),
        ("b", gzip.compress(b"col1,col2\nvalue11,value21\nvalue12,value22\n")),
    ):
        assert ask.run(body, name)["status"] == "completed"
        assert [json.loads(row.payload) for row in stage.rows(name)] == json.loads(seed.FILE)
