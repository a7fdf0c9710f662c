"""Pinpoint's wire: import jobs, held to the seed document."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.pinpoint import render
from common.ledger import imports
from common.model.chunks import Counts
from common.model.imports import Failure, ImportState, ImportStatus, Pieces, Progress
from common.model.mapping import Mapping
from common.model.rejects import LineError, RejectCode
from common.model.sources import SourceRef
from tests.dialects.pinpoint import seed
from tests.dialects.pinpoint.asking import ROLE, Asking
from tests.stage import event, ndjson

STATUS = ImportStatus(
    id="70a51b2cf442447492d2c8e50336a9e8",
    number=1,
    collection="endpoints",
    state=ImportState.COMPLETED,
    source=SourceRef("bucket-name", "prefix/key.json", role="iam-import-role-arn"),
    mapping=Mapping(),
    created_at=datetime(2018, 6, 5, 22, 4, 49, 213_000, UTC),
    started_at=datetime(2018, 6, 5, 22, 4, 50, tzinfo=UTC),
    finished_at=datetime(2018, 6, 5, 22, 4, 58, 34_000, UTC),
    read_at=datetime(2018, 6, 6, tzinfo=UTC),
    bytes_total=500,
    chunks_total=1,
    chunks_running=0,
    progress=Progress(Counts(3, 3), 500, 1),
    error=None,
    history=(),
    pieces=Pieces(1, 1, 0),
    external_id="external-id",
    asked={
        "S3Url": "s3://bucket-name/prefix/key.json",
        "RoleArn": "iam-import-role-arn",
        "Format": "JSON",
        "RegisterEndpoints": True,
        "DefineSegment": False,
    },
)


def test_the_documents_completed_job_is_rendered_to_the_letter() -> None:
    found = render.import_job(STATUS, (), "application_id")

    assert found == json.loads(seed.COMPLETED)
    assert list(found) == list(json.loads(seed.COMPLETED)), "the order of the fields"
    assert list(found["Definition"]) == list(json.loads(seed.COMPLETED)["Definition"])


def test_the_documents_new_job_is_rendered_to_the_letter_and_names_its_application() -> None:
    created = replace(
        STATUS.as_admitted(),
        id="a995ce5d70fa44adb563b7d0e3f6c6f5",
        created_at=datetime(2018, 6, 5, 21, 49, 15, 288_000, UTC),
        asked={**STATUS.asked, "S3Url": "s3://bucket-name/prefix/key"},
    )

    found = render.import_job(created, (), "application_id")

    assert found.pop("ApplicationId") == "application_id"
    assert found == json.loads(seed.CREATED)
    assert list(found) == list(json.loads(seed.CREATED))


@pytest.mark.parametrize("state", ImportState)
def test_every_state_is_a_word_that_clients_know_and_tells_what_is_known(state: ImportState) -> None:
    known = {
        ImportState.PENDING: "CREATED",
        ImportState.PLANNING: "INITIALIZING",
        ImportState.RUNNING: "PROCESSING",
        ImportState.PAUSED: "PENDING_JOB",
        ImportState.COMPLETED: "COMPLETED",
        ImportState.COMPLETED_WITH_ERRORS: "COMPLETED",
        ImportState.FAILED: "FAILED",
        ImportState.CANCELLED: "FAILED",
    }
    found = render.import_job(replace(STATUS, state=state), (), "app")

    assert found["JobStatus"] == known[state]
    assert ("TotalProcessed" in found) == (state not in (ImportState.PENDING, ImportState.PLANNING))
    assert ("Failures" in found) == (state is ImportState.CANCELLED)


def test_failures_are_the_first_hundred_and_begin_with_the_reason_of_the_job() -> None:
    errors = [LineError((0, at), "a.json", at, 0, 1, RejectCode.INVALID_JSON) for at in range(200)]
    failed = replace(STATUS, state=ImportState.FAILED, error=Failure("x", "It broke."))

    failures = render.import_job(failed, errors, "app")["Failures"]

    assert len(failures) == 100
    assert failures[:2] == ["It broke.", "a.json, line 1: The JSON specified was not valid."]


@pytest.mark.parametrize(("body", "kind"), [(seed.JSON, "JSON"), (seed.CSV, "CSV")])
def test_the_documents_files_are_imported(ask: Asking, body: bytes, kind: str) -> None:
    job = ask.run(body, kind)

    expected = json.loads(seed.COMPLETED)
    definition = {**expected["Definition"], "S3Url": job["Definition"]["S3Url"], "RoleArn": ROLE, "Format": kind}
    assert job == {
        **expected,
        "ApplicationId": ask.app,
        "Id": job["Id"],
        "CreationDate": job["CreationDate"],
        "CompletionDate": job["CompletionDate"],
        "Definition": {**definition, "ExternalId": ask.app},
    }
    (first, *_) = sorted(ask.stored(), reverse=True, key=lambda line: b"SMS" in line)
    user = json.loads(first)["User"]["UserId"]
    found = ask.told("GET", f"/users/{user}")["Item"]
    assert [(one["Address"], one["Location"], one["Demographic"]) for one in found] == [
        ("2065550182", {"Country": "CAN"}, {"Make": "LG", "Platform": "Android"})
    ]
    assert len(ask.told("GET", "/users/example-user-id-2")["Item"]) == 2


@pytest.mark.parametrize(("body", "kind"), [(seed.JSON, "JSON"), (seed.CSV, "CSV")])
def test_they_are_read_compressed_too(ask: Asking, body: bytes, kind: str) -> None:
    job = ask.run(gzip.compress(body), kind)

    assert (job["JobStatus"], job["TotalProcessed"], job["TotalFailures"]) == ("COMPLETED", 3, 0)


def test_a_new_job_is_as_it_was_admitted_and_its_request_is_told_again(ask: Asking) -> None:
    asked = {
        "S3Url": "s3://some-bucket/pre*fix/?key",
        "RoleArn": ROLE,
        "Format": "CSV",
        "RegisterEndpoints": True,
        "SegmentName": "mine",
        "DefineSegment": True,
        "ExternalId": "theirs",
        "Unknown": 1,
    }
    job = ask.told("POST", "/jobs/import", asked, status=201)

    assert (job["JobStatus"], "TotalPieces" in job, "CompletionDate" in job) == ("CREATED", False, False)
    assert len(job["Id"]) == 32
    definition = {**job["Definition"]}
    assert len(definition.pop("SegmentId")) == 32
    assert definition == {name: value for name, value in asked.items() if name != "Unknown"}
    assert ask.job(job["Id"]) == job
    with ask.stage.runtime.database.transaction() as tx:
        source = imports.read_import(tx, job["Id"]).source
    assert (source.bucket, source.key, source.role) == ("some-bucket", "pre*fix/?key", ROLE)


def test_what_is_not_sent_is_false_and_the_external_id_is_what_the_role_has_to_ask_for(ask: Asking) -> None:
    asked = {"S3Url": "s3://bucket/a", "RoleArn": ROLE, "Format": "JSON", "SegmentId": None, "DefineSegment": None}
    definition = ask.told("POST", "/jobs/import", asked, status=201)["Definition"]

    assert definition == {
        "S3Url": "s3://bucket/a",
        "RoleArn": ROLE,
        "ExternalId": ask.app,
        "Format": "JSON",
        "RegisterEndpoints": False,
        "DefineSegment": False,
    }


GOOD = {"S3Url": "s3://bucket/a", "RoleArn": ROLE, "Format": "JSON"}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b'{"S3Url": "\\ud800"}', "body"),
        (b"[" * 5000, "body"),
        ([], "body"),
        (None, "body"),
        ({}, "S3Url"),
        ({**GOOD, "Format": "json"}, "Format"),
        ({**GOOD, "Format": ["JSON"]}, "Format"),
        ({**GOOD, "Format": None}, "Format"),
        ({**GOOD, "RoleArn": "iam-import-role-arn"}, "RoleArn"),
        ({**GOOD, "RoleArn": 1}, "RoleArn"),
        ({**GOOD, "RoleArn": ""}, "RoleArn"),
        ({**GOOD, "S3Url": "http://169.254.169.254/"}, "S3Url"),
        ({**GOOD, "S3Url": "s3://bucket/../a"}, "S3Url"),
        ({**GOOD, "S3Url": "s3://b/a"}, "S3Url"),
        ({**GOOD, "S3Url": "s3://bucket/" + "x" * 3000}, "S3Url"),
        ({**GOOD, "RegisterEndpoints": "true"}, "RegisterEndpoints"),
        ({**GOOD, "DefineSegment": {}}, "DefineSegment"),
        ({**GOOD, "SegmentName": "a\0b", "DefineSegment": True}, "SegmentName"),
        ({**GOOD, "SegmentName": "x" * 300}, "SegmentName"),
        ({**GOOD, "SegmentId": 7}, "SegmentId"),
        ({**GOOD, "ExternalId": [1]}, "ExternalId"),
    ],
)
def test_a_request_that_is_not_valid_is_refused_with_the_name_of_what_is_wrong(
    ask: Asking, body: Any, named: str
) -> None:
    body = b"null" if body is None else body
    status, error, message = ask.refused("POST", "/jobs/import", body)

    assert (status, error) == (400, "BadRequestException")
    assert named in message
    assert len(message) < 1000


def test_a_request_names_all_of_its_faults(ask: Asking) -> None:
    _, _, message = ask.refused("POST", "/jobs/import", {"Format": "x", "SegmentId": 1})

    assert {name for name in ("S3Url", "RoleArn", "Format", "SegmentId") if f"{name}:" in message} == {
        "S3Url", "RoleArn", "Format", "SegmentId",
    }  # fmt: skip


def test_the_third_job_at_a_time_is_refused_and_other_wires_have_places_left(ask: Asking) -> None:
    jobs = [ask.start("s3://bucket/a")["Id"] for _ in range(2)]
    status, error, message = ask.refused("POST", "/jobs/import", GOOD)

    assert (status, error) == (429, "TooManyRequestsException")
    assert "2 of 2" in message
    ask.stage.start(b"")
    ask.stage.desk.cancel_import(ask.stage.caller, jobs[0])
    assert ask.start("s3://bucket/a")["JobStatus"] == "CREATED"


def test_the_limits_are_settings(ask: Asking) -> None:
    app = create_app(replace(ask.stage.settings, endpoint_import_limit=1, endpoint_import_bytes=len(seed.JSON) - 1))
    app.extensions["penstock"].dispatch = ask.stage.sent
    narrow = replace(ask, client=app.test_client())

    job = narrow.run(seed.JSON)
    assert (job["JobStatus"], job["TotalPieces"], job["TotalProcessed"]) == ("FAILED", 0, 0)
    assert "bytes" in job["Failures"][0]
    assert narrow.stored() == []
    narrow.start("s3://bucket/a")
    assert narrow.refused("POST", "/jobs/import", GOOD)[0] == 429
    app.extensions["penstock"].database.close()


def test_lines_without_an_address_or_a_channel_are_failures_and_count_as_processed(ask: Asking) -> None:
    lines = [
        {"Id": "a", "ChannelType": "SMS", "Address": "1"},
        {"Id": "b", "ChannelType": "SMS"},
        {"Id": "c", "ChannelType": None, "Address": "1"},
        b"",
        b"no",
        {"Id": "a", "ChannelType": "EMAIL", "Address": "2"},
    ]
    job = ask.run(ndjson(*lines))

    assert (job["JobStatus"], job["TotalProcessed"], job["TotalFailures"]) == ("COMPLETED", 5, 3)
    assert [failure.split(", line ")[1].split(":")[0] for failure in job["Failures"]] == ["2", "3", "5"]
    assert ask.endpoint("a")["Address"] == "2", "the last one is kept"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (seed.JSON, "JSON"),
        (seed.CSV, "CSV"),
        (b"Id,ChannelType,Address\n,SMS,1\n,SMS,2\n,SMS,3\n", "CSV"),
        (b'{"Id":null,"ChannelType":"SMS","Address":"1"}\n' * 3, "JSON"),
    ],
)
def test_endpoints_without_an_id_get_one_by_which_they_are_found(ask: Asking, body: bytes, kind: str) -> None:
    ask.run(body, kind)

    lines = [json.loads(line) for line in ask.stored()]
    ids = [str(UUID(line["Id"])) for line in lines]
    assert len(set(ids)) == 3
    assert [ask.endpoint(name)["Address"] for name in ids] == [line["Address"] for line in lines]
    # They are endpoints like any other from then on.
    ask.told("PUT", f"/endpoints/{ids[0]}", {"ChannelType": "SMS", "Address": "new"}, status=202)
    assert (len(ask.stored()), ask.endpoint(ids[0])["Address"]) == (3, "new")


@pytest.mark.parametrize("number", [b"7", b"-12", b"9" * 400])
@pytest.mark.parametrize("beside", [b"", b'{"Id":"8","ChannelType":"SMS","Address":"1"}\n'])
def test_an_id_that_is_a_number_is_that_of_its_digits(ask: Asking, number: bytes, beside: bytes) -> None:
    ask.run(b'{"Id":%b,"ChannelType":"SMS","Address":"first"}\n%b' % (number, beside))
    assert ask.endpoint(number.decode())["Address"] == "first"

    ask.run(b"Id,ChannelType,Address\n%b,SMS,second\n" % number, "CSV")
    assert ask.endpoint(number.decode())["Address"] == "second"
    ask.run(b'{"Id":%b,"ChannelType":"SMS","Address":"third"}\n' % number)
    assert ask.told("DELETE", f"/endpoints/{number.decode()}", status=202)["Address"] == "third"
    assert len(ask.stored()) == bool(beside)


def test_an_endpoint_of_more_than_fifteen_kib_is_a_failure(ask: Asking) -> None:
    fitting = json.dumps({"Id": "a", "ChannelType": "SMS", "Address": "1", "x": ""}).encode()
    padding = b"x" * (15 * 1024 - len(fitting))
    job = ask.run(b"".join(fitting[:-2] + padding + more + b'"}\n' for more in (b"", b"x")))

    assert (job["TotalProcessed"], job["TotalFailures"]) == (2, 1)
    assert len(ask.stored()) == 1


def test_an_endpoint_is_replaced_whole_by_a_later_job(ask: Asking) -> None:
    ask.run(b'{"Id":"a","ChannelType":"SMS","Address":"1","Attributes":{"x":["1"]}}\n')
    job = ask.run(b"Id,ChannelType,Address\na,EMAIL,2\n", "CSV")

    assert (job["TotalProcessed"], job["TotalFailures"]) == (1, 0)
    found = ask.endpoint("a")
    assert (found["ChannelType"], found["Address"], found["Attributes"]) == ("EMAIL", "2", {})


def test_of_many_objects_those_of_the_format_are_imported_and_each_is_a_piece(ask: Asking) -> None:
    base = f"mixed/{ask.app}/"
    ask.put(f"{base}a.json", seed.JSON)
    ask.put(f"{base}b/c.csv", seed.CSV)
    ask.put(f"{base}b/d.json", b'{"Id":"d","ChannelType":"SMS","Address":"1"}\n')

    job = ask.finish(ask.start(f"s3://{ask.stage.bucket}/{base}")["Id"])

    assert (job["JobStatus"], job["TotalPieces"], job["CompletedPieces"], job["TotalProcessed"]) == (
        "COMPLETED", 2, 2, 4,
    )  # fmt: skip


def test_an_address_names_the_object_of_its_key_and_not_others_that_begin_with_it(ask: Asking) -> None:
    url = ask.put(f"{ask.app}/endpoints", seed.JSON)
    ask.put(f"{ask.app}/endpoints-of-yesterday", b'{"Id":"a","ChannelType":"SMS","Address":"1"}\n')

    job = ask.finish(ask.start(url)["Id"])
    both = ask.finish(ask.start(url.removesuffix("s"))["Id"])

    assert [(one["TotalPieces"], one["TotalProcessed"]) for one in (job, both)] == [(1, 3), (2, 4)]


def test_a_job_with_a_failed_piece_fails_and_says_which_one(ask: Asking) -> None:
    base = f"failing/{ask.app}/"
    ask.put(f"{base}a", b'{"Id":"a","ChannelType":"SMS","Address":"1"}\n')
    ask.put(f"{base}b", seed.CSV)

    job = ask.finish(ask.start(f"s3://{ask.stage.bucket}/{base}")["Id"])

    assert (job["JobStatus"], job["CompletedPieces"], job["FailedPieces"]) == ("FAILED", 1, 1)
    assert any(f"{base}b" in failure for failure in job["Failures"])


def test_a_quoted_line_break_is_a_failure(ask: Asking) -> None:
    job = ask.run(b'Id,ChannelType,Address\na,SMS,"1,2"\nb,SMS,"1\n2"\n', "CSV")

    assert ask.endpoint("a")["Address"] == "1,2"
    assert job["TotalFailures"] >= 1


def test_jobs_of_other_wires_are_told_in_this_ones_words(ask: Asking) -> None:
    source = ask.stage.put(ndjson(event("a")))
    other = ask.stage.start(source)

    job = ask.job(other)

    assert (job["JobStatus"], job["Type"]) == ("CREATED", "IMPORT")
    assert job["Definition"] == {
        "S3Url": source.url,
        "RoleArn": "",
        "Format": "JSON",
        "RegisterEndpoints": True,
        "DefineSegment": False,
    }
    assert ask.finish(other)["TotalProcessed"] == 1


def test_where_a_body_of_another_wire_was_spooled_is_not_told(ask: Asking) -> None:
    started = ask.client.post(
        "/api/imports?collection=c", data=b"{}\nno\n", headers={"Authorization": f"Bearer {ask.key}"}
    ).get_json()
    job = ask.finish(started["id"])

    assert job["Failures"] == ["line 2: The JSON specified was not valid."]
    assert job["Definition"]["S3Url"] == ""


def test_jobs_are_listed_newest_first_and_page_by_page(ask: Asking) -> None:
    jobs = [ask.stage.start(b"") for _ in range(3)] + [ask.start("s3://bucket/a")["Id"] for _ in range(2)]
    newest = jobs[::-1]

    assert [job["Id"] for job in ask.told("GET", "/jobs/import")["Item"]] == newest
    seen, path = [], "/jobs/import?page-size=2"
    pages = 0
    while True:
        document = ask.told("GET", path)
        seen += [job["Id"] for job in document["Item"]]
        pages += 1
        if "NextToken" not in document:
            break
        assert isinstance(document["NextToken"], str)
        path = f"/jobs/import?page-size=2&token={document['NextToken']}"
    assert (seen, pages) == (newest, 3)
    assert ask.told("GET", "/jobs/import?page-size=5") == ask.told("GET", "/jobs/import?token=&page-size=1000000")


@pytest.mark.parametrize(
    "query",
    [
        *("page-size=0", "page-size=-1", "page-size=x", "page-size=1.5", "page-size=%D9%A1", "page-size=" + "9" * 99),
        *("token=x", "token=0", "token=-1", "token=" + "9" * 30, "token=1%00"),
        *("page-size=1&page-size=2", "token=1&token=2"),
    ],
)
def test_a_page_that_nobody_can_ask_for_is_refused(ask: Asking, query: str) -> None:
    for path in ("/jobs/import", "/jobs/export", "/segments"):
        assert ask.refused("GET", f"{path}?{query}")[:2] == (400, "BadRequestException")


@pytest.mark.parametrize("job_id", ["0" * 32, "nonsense", "%00", "%F0%9F%98%80", "x" * 2000])
def test_a_job_that_there_is_not_is_not_found(ask: Asking, job_id: str) -> None:
    for kind in ("import", "export"):
        assert ask.refused("GET", f"/jobs/{kind}/{job_id}")[:2] == (404, "NotFoundException")


def test_an_idempotency_key_makes_one_job(ask: Asking) -> None:
    first, second = (ask("POST", "/jobs/import", GOOD, Idempotency_Key="once") for _ in range(2))

    assert first.get_json() == second.get_json()
    assert second.headers["Idempotent-Replayed"] == "true"
    other = ask.refused("POST", "/jobs/import", {**GOOD, "Format": "CSV"}, Idempotency_Key="once")
    assert other[:2] == (400, "BadRequestException")


def test_a_job_that_is_asked_for_again_is_the_same_when_its_limits_were_moved_meanwhile(ask: Asking) -> None:
    first = ask("POST", "/jobs/import", GOOD, Idempotency_Key="once").get_json()
    app = create_app(replace(ask.stage.settings, endpoint_import_limit=1, endpoint_import_bytes=1))
    moved = replace(ask, client=app.test_client())

    assert moved("POST", "/jobs/import", GOOD, Idempotency_Key="once").get_json() == first
    app.extensions["penstock"].database.close()


def test_unknown_paths_and_methods_answer_in_this_wires_form(client: FlaskClient, ask: Asking) -> None:
    for method, path, status, error in (
        ("GET", "/jobs", 404, "NotFoundException"),
        ("GET", "/campaigns", 404, "NotFoundException"),
        ("GET", "//jobs/import", 404, "NotFoundException"),
        ("PATCH", "/jobs/import", 405, "MethodNotAllowedException"),
        ("DELETE", "/jobs/import", 405, "MethodNotAllowedException"),
    ):
        assert ask.refused(method, path)[:2] == (status, error), path
    assert ask("DELETE", "/jobs/import").headers["Allow"]


def test_a_body_over_the_limit_is_refused(ask: Asking) -> None:
    assert ask.refused("POST", "/jobs/import", b" " * 3_000_000)[:2] == (413, "PayloadTooLargeException")


def test_a_mistake_of_ours_answers_in_this_wires_form(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CANARY")

    monkeypatch.setattr(render, "import_job", fail)
    status, error, message = ask.refused("POST", "/jobs/import", GOOD)

    assert (status, error) == (500, "InternalServerErrorException")
    assert "CANARY" not in message


def test_a_service_that_is_away_says_so(ask: Asking) -> None:
    app = create_app(replace(ask.stage.settings, database_url="postgresql://127.0.0.1:1/nobody"))
    answer = replace(ask, client=app.test_client())("GET", "/jobs/import")

    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (503, "ServiceUnavailableException")
    assert answer.headers["Retry-After"]
