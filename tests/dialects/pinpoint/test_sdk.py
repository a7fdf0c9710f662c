"""Pinpoint's wire as boto3 speaks it, which has been told nothing but an address and a key pair."""

from __future__ import annotations

import http.client
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from api.callers import QUERY
from api.signers import create_key_pair
from tests.dialects.pinpoint import seed
from tests.dialects.pinpoint.asking import ROLE, Asking
from tests.dialects.pinpoint.conftest import Connect
from tests.stage import Stage

ENDPOINT = {"ChannelType": "EMAIL", "Address": "a@example.com", "User": {"UserId": "u"}}


def refusal(call: Any, **asked: Any) -> tuple[int, str, str]:
    """Return status, name and message of the error that a call raises."""
    with pytest.raises(ClientError) as refused:
        call(**asked)
    answer = refused.value.response
    assert len(answer["ResponseMetadata"]["RequestId"]) == 32
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def test_the_documents_commands_import_its_file(pinpoint: Any, ask: Asking) -> None:
    """The commands for the command line, which asks as boto3 does, and the loop of the sample in Java."""
    url = ask.put(f"{ask.app}/endpoint-definitions.json", seed.JSON)
    created = pinpoint.create_import_job(
        ApplicationId=ask.app,
        ImportJobRequest={"S3Url": url, "RoleArn": ROLE, "Format": "JSON", "RegisterEndpoints": True},
    )["ImportJobResponse"]
    assert created["JobStatus"] == "CREATED"
    ask.finish(created["Id"])

    found = pinpoint.get_import_job(ApplicationId=ask.app, JobId=created["Id"])["ImportJobResponse"]
    expected = json.loads(seed.COMPLETED_CLI)["ImportJobResponse"]
    assert set(found) == set(expected)
    differing = {name: found[name] for name in ("ApplicationId", "CompletionDate", "CreationDate", "Definition", "Id")}
    assert found == {**expected, **differing}
    assert set(found["Definition"]) == set(expected["Definition"])
    assert found.get("Failures") is None
    assert pinpoint.get_import_jobs(ApplicationId=ask.app)["ImportJobsResponse"] == {"Item": [found]}
    users = pinpoint.get_user_endpoints(ApplicationId=ask.app, UserId="example-user-id-2")["EndpointsResponse"]
    assert {one["Address"] for one in users["Item"]} == {"1a2b3c4d5e6f7g8h9i0j1a2b3c4d5e6f", "john.stiles@example.com"}


def test_pages_are_gone_through_by_their_tokens(pinpoint: Any, ask: Asking) -> None:
    jobs = [ask.stage.start(b"") for _ in range(3)]
    seen: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = pinpoint.get_import_jobs(ApplicationId=ask.app, PageSize="1", **more)["ImportJobsResponse"]
        seen += [job["Id"] for job in page["Item"]]
        if not page.get("NextToken"):
            break
        more = {"Token": page["NextToken"]}
    assert seen == jobs[::-1]


def test_endpoints_are_stored_read_and_deleted(pinpoint: Any, ask: Asking) -> None:
    app = {"ApplicationId": ask.app}
    pinpoint.update_endpoint(**app, EndpointId="e/1 x", EndpointRequest=ENDPOINT)
    items = [{**ENDPOINT, "Id": f"e{n}"} for n in range(100)]
    answer = pinpoint.update_endpoints_batch(**app, EndpointBatchRequest={"Item": items})

    assert answer["MessageBody"] == {
        "Message": "Accepted",
        "RequestID": answer["ResponseMetadata"]["RequestId"],
    }
    assert pinpoint.get_endpoint(**app, EndpointId="e/1 x")["EndpointResponse"]["Address"] == "a@example.com"
    assert len(pinpoint.get_user_endpoints(**app, UserId="u")["EndpointsResponse"]["Item"]) == 101
    assert pinpoint.delete_endpoint(**app, EndpointId="e/1 x")["EndpointResponse"]["Id"] == "e/1 x"
    with pytest.raises(pinpoint.exceptions.NotFoundException):
        pinpoint.get_endpoint(**app, EndpointId="e/1 x")


def test_segments_and_exports(pinpoint: Any, ask: Asking) -> None:
    app = {"ApplicationId": ask.app}
    segment_id = ask.run(seed.CSV, "CSV", DefineSegment=True)["Definition"]["SegmentId"]

    segment = pinpoint.get_segment(**app, SegmentId=segment_id)["SegmentResponse"]
    assert segment["ImportDefinition"]["ChannelCounts"] == {"SMS": 1, "APNS": 1, "EMAIL": 1}
    assert pinpoint.get_segments(**app)["SegmentsResponse"]["Item"] == [segment]
    jobs = pinpoint.get_segment_import_jobs(**app, SegmentId=segment_id)["ImportJobsResponse"]["Item"]
    assert [job["Definition"]["SegmentId"] for job in jobs] == [segment_id]
    wish = {"RoleArn": ROLE, "S3UrlPrefix": f"s3://{ask.stage.bucket}/x", "SegmentId": segment_id, "SegmentVersion": 1}
    job = pinpoint.create_export_job(**app, ExportJobRequest=wish)["ExportJobResponse"]
    assert pinpoint.get_export_job(**app, JobId=job["Id"])["ExportJobResponse"] == job
    assert pinpoint.get_export_jobs(**app)["ExportJobsResponse"]["Item"] == [job]


def test_an_account_makes_applications_and_acts_in_them(pinpoint: Any, ask: Asking, connect: Connect) -> None:
    made = pinpoint.create_app(CreateApplicationRequest={"Name": "Shop"})["ApplicationResponse"]

    assert (made["Name"], made["Arn"]) == ("Shop", f"arn:aws:mobiletargeting:us-east-1:000000000000:apps/{made['Id']}")
    assert pinpoint.get_app(ApplicationId=made["Id"])["ApplicationResponse"] == made
    pages = [pinpoint.get_apps(PageSize="1")["ApplicationsResponse"]]
    pages.append(pinpoint.get_apps(PageSize="1", Token=pages[0]["NextToken"])["ApplicationsResponse"])
    assert [one["Id"] for page in pages for one in page["Item"]] == [ask.app, made["Id"]]
    assert "NextToken" not in pages[1]

    pinpoint.update_endpoint(ApplicationId=made["Id"], EndpointId="e", EndpointRequest=ENDPOINT)
    found = pinpoint.get_endpoint(ApplicationId=made["Id"], EndpointId="e")["EndpointResponse"]
    assert found["ApplicationId"] == made["Id"]
    with pytest.raises(pinpoint.exceptions.NotFoundException):
        pinpoint.get_endpoint(ApplicationId=ask.app, EndpointId="e")
    other = Stage(ask.stage.settings, ask.stage.bucket)
    with other.runtime.database.transaction() as tx:
        stranger = connect(pair=create_key_pair(tx, other.runtime.sealer, other.caller.project_id, [QUERY]))
    for app in (made["Id"], ask.app):
        assert refusal(stranger.get_app, ApplicationId=app)[:2] == (404, "NotFoundException")
    other.close()


def test_every_error_is_the_class_that_clients_catch(pinpoint: Any, ask: Asking, connect: Connect) -> None:
    app = {"ApplicationId": ask.app}
    job = {"S3Url": "s3://bucket/a", "RoleArn": ROLE, "Format": "JSON"}
    errors = pinpoint.exceptions
    with pytest.raises(errors.BadRequestException):
        pinpoint.create_import_job(**app, ImportJobRequest={**job, "Format": "XML"})
    with pytest.raises(errors.NotFoundException):
        pinpoint.get_import_job(**app, JobId="0" * 32)
    with pytest.raises(errors.PayloadTooLargeException):
        pinpoint.update_endpoint(**app, EndpointId="a", EndpointRequest={**ENDPOINT, "Address": "x" * 3_000_000})
    with pytest.raises(errors.ForbiddenException):
        connect([QUERY]).create_import_job(**app, ImportJobRequest=job)
    for n in range(2):
        pinpoint.create_import_job(**app, ImportJobRequest={**job, "S3Url": f"s3://bucket/{n}"})
    with pytest.raises(errors.TooManyRequestsException):
        pinpoint.create_import_job(**app, ImportJobRequest=job)


def test_a_signature_that_is_not_right_or_not_of_now_opens_nothing(
    ask: Asking, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ask.stage.runtime.database.transaction() as tx:
        pair = create_key_pair(tx, ask.stage.runtime.sealer, ask.app, [QUERY])
    for wrong in ((pair[0], pair[1] + "x"), ("PSAK" + "A" * 16, pair[1]), ("AKIAIOSFODNN7EXAMPLE", "x")):
        assert refusal(connect(pair=wrong).get_apps)[:2] == (403, "InvalidSignatureException")
    for minutes in (-16, 16):
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        with monkeypatch.context() as patched:
            patched.setattr(botocore.auth, "get_current_datetime", lambda at=at: at)
            status, error, message = refusal(connect(pair=pair).get_apps)
        assert (status, error) == (403, "InvalidSignatureException")
        assert "minutes" in message


# --- requests that are sent again


def signed(server: str, pair: tuple[str, str], method: str, path: str, body: Any = None, **more: str) -> dict[str, Any]:
    """Return a request that botocore has signed."""
    content = b"" if body is None else json.dumps(body).encode()
    headers = {"Host": urlsplit(server).netloc, "Content-Type": "application/json", **more}
    made = AWSRequest(method, f"{server}{path}", headers=headers, data=content)
    SigV4Auth(Credentials(*pair), "mobiletargeting", "us-east-1").add_auth(made)
    return {"method": method, "url": path, "body": content, "headers": dict(made.headers.items())}


def send(server: str, asked: dict[str, Any], **more: str) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    try:
        connection.request(**{**asked, "headers": {**asked["headers"], **more}})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("x-amzn-ErrorType") or "", json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture
def pair(stage: Stage) -> tuple[str, str]:
    with stage.runtime.database.transaction() as tx:
        return create_key_pair(tx, stage.runtime.sealer, stage.caller.project_id, ["push", "query"])


def test_a_job_that_is_asked_for_again_with_its_signature_is_one(
    server: str, ask: Asking, pair: tuple[str, str]
) -> None:
    body = {"S3Url": "s3://bucket/a", "RoleArn": ROLE, "Format": "JSON"}
    asked = signed(server, pair, "POST", f"/v1/apps/{ask.app}/jobs/import", body)
    first = send(server, asked)
    ask.stage.desk.cancel_import(ask.stage.caller, first[2]["Id"])

    assert first[0] == 201
    assert send(server, asked) == first
    assert len(ask.told("GET", "/jobs/import")["Item"]) == 1
    # Nobody on the way may say that it is another request, nor what it asks for.
    assert send(server, asked, **{"Idempotency-Key": "another"})[:2] == (403, "IncompleteSignatureException")
    assert send(server, {**asked, "body": asked["body"] + b" "})[:2] == (403, "InvalidSignatureException")
    assert len(ask.told("GET", "/jobs/import")["Item"]) == 1


def test_a_key_of_the_callers_own_makes_one_job_of_several_signatures(
    server: str, ask: Asking, pair: tuple[str, str]
) -> None:
    body = {"S3Url": "s3://bucket/a", "RoleArn": ROLE, "Format": "JSON"}
    path, once = f"/v1/apps/{ask.app}/jobs/import", {"Idempotency-Key": uuid.uuid4().hex}
    first = send(server, signed(server, pair, "POST", path, body, **once))
    again = send(server, signed(server, pair, "POST", path, body, **once, **{"X-Amz-Note": "signed anew"}))

    assert first == again


def test_a_key_is_the_same_with_other_spaces_since_its_signature_holds_for_these_too(
    server: str, ask: Asking, pair: tuple[str, str]
) -> None:
    body = {"S3Url": "s3://bucket/a", "RoleArn": ROLE, "Format": "JSON"}
    asked = signed(server, pair, "POST", f"/v1/apps/{ask.app}/jobs/import", body, **{"Idempotency-Key": "my key"})
    first = send(server, asked)

    assert first[0] == 201
    assert send(server, asked, **{"Idempotency-Key": "my   key"}) == first


def test_an_endpoint_that_is_put_or_deleted_again_with_its_signature_stays_as_it_is(
    server: str, ask: Asking, pair: tuple[str, str]
) -> None:
    path = f"/v1/apps/{ask.app}/endpoints/e"
    put = signed(server, pair, "PUT", path, ENDPOINT)
    delete = signed(server, pair, "DELETE", path)
    assert send(server, delete)[0] == 404
    assert send(server, put)[0] == 202
    ask.told("PUT", "/endpoints/e", {**ENDPOINT, "Address": "later"}, status=202)

    assert send(server, put)[0] == 202
    assert send(server, delete)[0] == 404
    assert ask.endpoint("e")["Address"] == "later"

    delete = signed(server, pair, "DELETE", path, **{"X-Amz-Note": "another"})
    gone = send(server, delete)
    ask.told("PUT", "/endpoints/e", ENDPOINT, status=202)
    assert send(server, delete) == gone
    assert gone[2]["Address"] == "later"
    assert ask.endpoint("e")["Address"] == ENDPOINT["Address"]

    delete = signed(server, pair, "DELETE", f"{path}?a=1&b")
    gone = send(server, delete)
    ask.told("PUT", "/endpoints/e", ENDPOINT, status=202)
    assert send(server, {**delete, "url": f"{path}?b=&a=1"}) == gone, "the same signature"
    assert ask.endpoint("e")["Address"] == ENDPOINT["Address"]


def test_an_application_that_is_made_again_with_its_signature_is_one(
    server: str, ask: Asking, pair: tuple[str, str]
) -> None:
    asked = signed(server, pair, "POST", "/v1/apps", {"Name": "Shop"})

    assert send(server, asked) == send(server, asked)
    assert len(ask.client.get("/v1/apps", headers={"Authorization": f"Bearer {ask.key}"}).get_json()["Item"]) == 2


@pytest.mark.parametrize("path", ["x/../e", "./e", "x/./../e", "/e", "e/.", "e/.."])
def test_a_path_that_is_signed_as_another_ones_is_not_taken(
    server: str, ask: Asking, pair: tuple[str, str], path: str
) -> None:
    asked = signed(server, pair, "PUT", f"/v1/apps/{ask.app}/endpoints/{path}", ENDPOINT)

    assert send(server, asked)[:2] == (404, "NotFoundException")
    assert ask.stored() == []


def test_what_shows_no_key_at_all_is_told_so(server: str, ask: Asking) -> None:
    for method, path in (("GET", f"/v1/apps/{ask.app}/jobs/import"), ("POST", "/v1/apps")):
        asked: dict[str, Any] = {"method": method, "url": path, "body": b"", "headers": {}}
        assert send(server, asked)[:2] == (403, "MissingAuthenticationTokenException")
        wrong = {"Authorization": "Bearer nonsense"}
        assert send(server, asked, **wrong)[:2] == (403, "ForbiddenException")
