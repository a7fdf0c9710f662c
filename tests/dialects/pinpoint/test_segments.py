"""Pinpoint's wire: segments, and export jobs."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.dialects.pinpoint import seed
from tests.dialects.pinpoint.asking import ROLE, Asking

MORE = b'{"Id":"a","ChannelType":"SMS","Address":"1"}\n{"Id":"b","ChannelType":"SMS","Address":"2"}\n'


def segment_of(job: dict[str, Any]) -> str:
    segment_id: str = job["Definition"]["SegmentId"]
    return segment_id


def test_a_job_makes_a_segment_of_its_endpoints(ask: Asking) -> None:
    job = ask.run(seed.JSON, DefineSegment=True, SegmentName="all of them")

    segment = ask.told("GET", f"/segments/{segment_of(job)}")
    definition = {name: job["Definition"][name] for name in ("ExternalId", "Format", "RoleArn", "S3Url")}
    assert segment == {
        "ApplicationId": ask.app,
        "Arn": f"arn:aws:mobiletargeting:us-east-1:000000000000:apps/{ask.app}/segments/{segment_of(job)}",
        "CreationDate": segment["CreationDate"],
        "Id": segment_of(job),
        "ImportDefinition": {**definition, "ChannelCounts": {"SMS": 1, "APNS": 1, "EMAIL": 1}, "Size": 3},
        "LastModifiedDate": segment["CreationDate"],
        "Name": "all of them",
        "SegmentType": "IMPORT",
        "Version": 1,
    }
    assert ask.told("GET", f"/segments/{segment_of(job)}/jobs/import") == {"Item": [job]}


def test_a_segment_is_updated_by_a_job_that_names_it(ask: Asking) -> None:
    first = ask.run(seed.JSON, DefineSegment=True, SegmentName="mine")
    second = ask.run(MORE, SegmentId=segment_of(first))

    assert segment_of(second) == segment_of(first)
    segment = ask.told("GET", f"/segments/{segment_of(first)}")
    assert (segment["Version"], segment["Name"], segment["ImportDefinition"]["Size"]) == (2, "mine", 2)
    path = f"/segments/{segment_of(first)}/jobs/import"
    page = ask.told("GET", f"{path}?page-size=1")
    rest = ask.told("GET", f"{path}?page-size=1&token={page['NextToken']}")
    assert (page["Item"], rest) == ([second], {"Item": [first]})


def test_a_segment_is_told_before_its_job_has_ended(ask: Asking) -> None:
    job = ask.start("s3://bucket/a", DefineSegment=True)

    definition = ask.told("GET", f"/segments/{segment_of(job)}")["ImportDefinition"]
    assert (definition["Size"], definition["ChannelCounts"]) == (0, {})


def test_segments_are_listed_page_by_page(ask: Asking) -> None:
    ids = [segment_of(ask.run(MORE, DefineSegment=True)) for _ in range(3)][::-1]

    assert [one["Id"] for one in ask.told("GET", "/segments")["Item"]] == ids
    page = ask.told("GET", "/segments?page-size=2")
    rest = ask.told("GET", f"/segments?token={page['NextToken']}")
    assert [one["Id"] for one in page["Item"] + rest["Item"]] == ids
    assert "NextToken" not in rest


@pytest.mark.parametrize("segment_id", ["0" * 32, "nonsense", "%00"])
def test_a_segment_that_there_is_not_is_not_found(ask: Asking, segment_id: str) -> None:
    for path in (f"/segments/{segment_id}", f"/segments/{segment_id}/jobs/import"):
        assert ask.refused("GET", path)[:2] == (404, "NotFoundException")
    good = {"S3Url": "s3://bucket/a", "S3UrlPrefix": "s3://bucket/a", "RoleArn": ROLE, "Format": "JSON"}
    for kind in ("import", "export"):
        body = {**good, "SegmentId": segment_id.replace("%00", "x")}
        assert ask.refused("POST", f"/jobs/{kind}", body)[:2] == (404, "NotFoundException")
    assert ask.told("GET", "/jobs/import") == {"Item": []}


def lines_of(ask: Asking, prefix: str) -> list[Any]:
    (found,) = ask.stage.found(f"{prefix}/").values()
    return sorted((json.loads(line) for line in gzip.decompress(found).splitlines()), key=str)


def test_all_endpoints_are_exported(ask: Asking) -> None:
    ask.run(seed.JSON)
    prefix = f"out/{ask.app}"
    job = ask.export(prefix)

    assert job == {
        "ApplicationId": ask.app,
        "Id": job["Id"],
        "JobStatus": "COMPLETED",
        "CompletedPieces": 1,
        "FailedPieces": 0,
        "TotalPieces": 1,
        "CreationDate": job["CreationDate"],
        "CompletionDate": job["CompletionDate"],
        "Type": "EXPORT",
        "TotalFailures": 0,
        "TotalProcessed": 3,
        "Definition": {"S3UrlPrefix": f"s3://{ask.stage.bucket}/{prefix}/", "RoleArn": ROLE},
    }
    assert list(ask.stage.found(f"{prefix}/")) == [f"{job['Id']}.json.gz"]
    addresses = [line["Address"] for line in lines_of(ask, prefix)]
    assert sorted(addresses) == sorted(json.loads(line)["Address"] for line in seed.JSON.splitlines())
    assert ask.told("GET", "/jobs/export") == {"Item": [job]}


def test_the_endpoints_of_a_segment_and_of_its_version_are_exported(ask: Asking) -> None:
    segment_id = segment_of(ask.run(seed.JSON, DefineSegment=True))
    ask.run(MORE, SegmentId=segment_id)

    job = ask.export(f"latest/{ask.app}", SegmentId=segment_id)
    first = ask.export(f"first/{ask.app}", SegmentId=segment_id, SegmentVersion=1)

    assert (job["TotalProcessed"], first["TotalProcessed"]) == (2, 3)
    assert [line["Id"] for line in lines_of(ask, f"latest/{ask.app}")] == ["a", "b"]
    assert first["Definition"]["SegmentVersion"] == 1
    assert "SegmentVersion" not in job["Definition"]
    unknown = {"S3UrlPrefix": "s3://bucket/a", "RoleArn": ROLE, "SegmentId": segment_id, "SegmentVersion": 3}
    assert ask.refused("POST", "/jobs/export", unknown)[:2] == (404, "NotFoundException")


def test_an_export_that_nobody_has_written_yet_is_new(ask: Asking) -> None:
    ask.told("PUT", "/endpoints/a", {"ChannelType": "SMS", "Address": "1"}, status=202)
    asked = {"S3UrlPrefix": "s3://bucket/there", "RoleArn": ROLE}
    job = ask.told("POST", "/jobs/export", asked, status=202)

    assert set(job) == {"ApplicationId", "Id", "JobStatus", "CreationDate", "Type", "Definition"}
    assert job["JobStatus"] == "CREATED"
    again, once_more = (ask("POST", "/jobs/export", asked, Idempotency_Key="once") for _ in range(2))
    assert again.get_json() == once_more.get_json() != job


def test_a_cancelled_export_has_failed_and_says_why(ask: Asking) -> None:
    ask.told("PUT", "/endpoints/a", {"ChannelType": "SMS", "Address": "1"}, status=202)
    job = ask.told("POST", "/jobs/export", {"S3UrlPrefix": "s3://bucket/there", "RoleArn": ROLE}, status=202)
    ask.stage.export_desk.cancel_export(ask.stage.caller, job["Id"])

    found = ask.told("GET", f"/jobs/export/{job['Id']}")
    assert (found["JobStatus"], found["FailedPieces"], found["Failures"]) == (
        "FAILED",
        1,
        ["The export was cancelled."],
    )


def test_exports_of_other_wires_are_told_too(ask: Asking) -> None:
    ask.stage.run(b'{"a":1}\n')
    export_id = ask.stage.ask_export()

    assert ask.told("GET", f"/jobs/export/{export_id}")["Definition"]["RoleArn"] == ""


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "body"),
        ({}, "S3UrlPrefix"),
        ({"S3UrlPrefix": "s3://bucket/a"}, "RoleArn"),
        ({"S3UrlPrefix": "bucket/a", "RoleArn": ROLE}, "S3UrlPrefix"),
        ({"S3UrlPrefix": "s3://bucket/a", "RoleArn": "role"}, "RoleArn"),
        ({"S3UrlPrefix": "s3://bucket/a", "RoleArn": ROLE, "SegmentVersion": 1}, "SegmentVersion"),
        (
            {"S3UrlPrefix": "s3://bucket/a", "RoleArn": ROLE, "SegmentId": "x", "SegmentVersion": 2**40},
            "SegmentVersion",
        ),
        ({"S3UrlPrefix": "s3://bucket/a", "RoleArn": ROLE, "SegmentId": "x", "SegmentVersion": "1"}, "SegmentVersion"),
    ],
)
def test_a_request_for_an_export_that_is_not_valid_is_refused(ask: Asking, body: Any, named: str) -> None:
    status, error, message = ask.refused("POST", "/jobs/export", body)

    assert (status, error) == (400, "BadRequestException")
    assert named in message
