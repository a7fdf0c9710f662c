"""Connect's exports, held to the seed document: up to 10,000 events at once, and up to a million to S3."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.callers import PUSH, QUERY, create_key
from api.connect import parse, render
from api.exporting import MOST_AT_ONCE
from common.model.exports import Destination, ExportState, ExportStatus
from common.model.imports import Failure
from tests.dialects.connect import seed
from tests.dialects.connect.test_event_import import headers
from tests.stage import Stage
from workers.exports.write import write_export

KEYS = {"s3AccessKeyId": "caller-key", "s3SecretAccessKey": "caller-secret"}
NOT_VALID = {"errors": [{"field": "query", "description": "The query JSON supplied is not valid."}]}


@pytest.fixture
def sent(stage: Stage, key: str) -> dict[str, str]:
    return headers(stage, key)


@pytest.fixture
def two_events(client: FlaskClient, sent: dict[str, str]) -> list[dict[str, Any]]:
    """Store the events of the seed's answer."""
    events: list[dict[str, Any]] = json.loads(seed.RESULTS)["results"]
    for event in events:
        assert client.post("/events/testing", json=event, headers=sent).status_code == 200
    return events


def with_key(stage: Stage, sent: dict[str, str], *scopes: str) -> dict[str, str]:
    with stage.runtime.database.transaction() as tx:
        return {**sent, "X-API-Key": create_key(tx, stage.caller.project_id, list(scopes))}


# --- an answer --------------------------------------------------------------------------------------------------


def test_the_seeds_events_come_back_as_the_seed_shows_them(
    client: FlaskClient, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    answer = client.get("/events/testing/export", headers=sent)

    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.get_json() == json.loads(seed.RESULTS)


def test_the_seeds_query_is_understood(client: FlaskClient, sent: dict[str, str]) -> None:
    events = [
        {"id": 1, "product": "apple"},
        {"id": 2, "product": "pear"},
        {"id": 3, "product": "apple", "timestamp": 0},
    ]
    client.post("/events", json={"fruit": events}, headers=sent)
    answer = client.get("/events/fruit/export", query_string={"query": seed.QUERY}, headers=sent)

    assert [event["id"] for event in answer.get_json()["results"]] == [1]


@pytest.mark.parametrize("query", [None, "", "{}", "%7B%7D", "{filter:{name:'test'}}", "{filter:{name:+'test'}}"])
def test_queries_as_its_clients_write_them(
    client: FlaskClient, sent: dict[str, str], two_events: list[dict[str, Any]], query: str | None
) -> None:
    path = "/events/testing/export" + ("" if query is None else f"?query={query}")
    answer = client.get(path, headers=sent)

    assert (answer.status_code, answer.get_json()) == (200, {"results": two_events})


def test_events_come_back_in_the_bytes_they_came_in_and_get_the_id_and_time_they_lack(
    client: FlaskClient, sent: dict[str, str]
) -> None:
    whole = b'{"b": 25.00, "id":"x", "a":1e2, "a" : "\\u00e9", "timestamp":"2015-07-28"}'
    client.post("/events/raw", data=whole, headers=sent)
    client.post("/events/raw", data=b'{"n":  1.0 }', headers=sent)
    answer = client.get("/events/raw/export", headers=sent)

    assert whole in answer.data
    assert b'{"n":  1.0 ,' in answer.data
    (added,) = [event for event in answer.get_json()["results"] if "n" in event]
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", added["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", added["timestamp"])


def test_a_query_that_chooses_nothing_answers_with_no_results(
    client: FlaskClient, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    answer = client.get("/events/testing/export", query_string={"query": '{"filter":{"name":"none"}}'}, headers=sent)

    assert (answer.status_code, answer.get_json()) == (200, {"results": []})


@pytest.mark.parametrize("query", ["{", "{filter:}", "NaN", "'", '{"filter":{"a":NaN}}'])
def test_a_query_that_is_no_json_is_refused_in_the_documented_words(
    client: FlaskClient, sent: dict[str, str], two_events: list[dict[str, Any]], query: str
) -> None:
    answer = client.get("/events/testing/export", query_string={"query": query}, headers=sent)

    assert (answer.status_code, answer.get_json()) == (422, NOT_VALID)


@pytest.mark.parametrize(
    "query",
    [[], {"select": {"a": "count"}}, {"filter": {"a": {"like": 1}}}, {"timeframe": "someday"}, {"filter": {"id": 1}},
     {"timezone": 10}],
)  # fmt: skip
def test_a_query_that_asks_for_more_than_exports_know_is_refused_at_its_field(
    client: FlaskClient, sent: dict[str, str], two_events: list[dict[str, Any]], query: Any
) -> None:
    small = client.get("/events/testing/export", query_string={"query": json.dumps(query)}, headers=sent)
    large = client.post("/events/testing/export", json={"query": query, "s3Path": "s3://mine", **KEYS}, headers=sent)

    assert small.status_code == large.status_code == 422
    assert small.get_json() == large.get_json()
    (error,) = small.get_json()["errors"]
    assert error["field"].startswith("query")
    assert error["description"]


def test_more_than_ten_thousand_events_are_too_many(client: FlaskClient, sent: dict[str, str]) -> None:
    for first in range(0, MOST_AT_ONCE + 5_000, 5_000):
        batch = {
            "many": [{"id": n, "kind": "most" if n < MOST_AT_ONCE else "rest"} for n in range(first, first + 5_000)]
        }
        client.post("/events", json=batch, headers=sent)
    query = {"query": '{"filter":{"kind":"most"}}'}
    all_that_fit = client.get("/events/many/export", query_string=query, headers=sent)
    too_many = client.get("/events/many/export", headers=sent)

    assert {event["id"] for event in all_that_fit.get_json()["results"]} == set(range(MOST_AT_ONCE))
    assert (too_many.status_code, next(iter(too_many.get_json()))) == (413, "errorMessage")


# --- to S3 ------------------------------------------------------------------------------------------------------


def status(**changes: Any) -> ExportStatus:
    asked = parse.export_spec("testing", json.loads(seed.EXPORT_REQUEST), now=datetime(2015, 7, 28, 23, tzinfo=UTC))
    created = datetime(2015, 7, 28, 23, 18, 44, 698000, tzinfo=UTC)
    made = ExportStatus("55b80dd4eb6742481c62c05e", 1, asked, ExportState.PENDING, created, None, None, created)
    return replace(made, **changes)


def test_the_seeds_reply_is_rendered_to_the_letter() -> None:
    found = render.export_status(status())

    assert found == json.loads(seed.EXPORT_REPLY)
    assert list(found) == list(json.loads(seed.EXPORT_REPLY)), "the order of the fields"


def test_the_seeds_statuses_are_written_with_a_capital() -> None:
    shown = {state: render.export_status(status(state=state))["status"] for state in ExportState}

    assert shown == {
        ExportState.PENDING: "Pending",
        ExportState.RUNNING: "Running",
        ExportState.COMPLETED: "Complete",
        ExportState.FAILED: "Failed",
        ExportState.CANCELLED: "Failed",
    }
    failed = status(state=ExportState.FAILED, error=Failure("too_many", "There are too many."))
    assert render.export_status(failed)["error"] == "There are too many."
    assert render.export_status(status(state=ExportState.CANCELLED))["error"] == "The export was cancelled."


def test_totals_are_nought_until_they_are_counted_and_never_null() -> None:
    running = status(state=ExportState.RUNNING, bytes_total=2000, bytes_done=500, events_total=10, events_done=2)
    shown = render.export_status(running)

    assert (shown["percentDone"], shown["transferredBytes"], shown["totalBytes"]) == (25, 500, 2000)
    assert render.export_status(status(state=ExportState.RUNNING))["totalBytes"] == 0


def test_an_export_to_s3_is_watched_at_its_location_and_lies_where_the_seed_says(
    client: FlaskClient, stage: Stage, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    for path in (
        f"s3://{stage.bucket}/exports/",
        f"s3://{stage.bucket}/exports",
        f"https://{stage.bucket}.s3.amazonaws.com/exports/",
    ):
        asked = {"query": {"filter": {"name": "test"}}, "s3Path": path, **KEYS}
        answer = client.post("/events/testing/export", data=json.dumps(asked), headers={**sent, "Content-Type": "x/y"})
        location = answer.headers["Location"]
        assert (answer.status_code, answer.data) == (201, b"")
        assert re.fullmatch(r"http://[^/]+/events/testing/export/[0-9a-f]+", location)
        before = client.get(location, headers=sent).get_json()
        assert (before["status"], before["started"], before["totalBytes"]) == ("Pending", None, 0)

        export_id = location.rsplit("/", 1)[1]
        assert stage.sent.exports[-1] == export_id
        write_export(stage.runtime, export_id)

        after = client.get(location, headers=sent)
        shown = after.get_json()
        assert list(shown) == list(json.loads(seed.EXPORT_REPLY))
        assert "caller" not in after.text
        body = stage.s3.get_object(Bucket=stage.bucket, Key=f"exports/{shown['filename']}")["Body"].read()
        assert shown["filename"] == f"{export_id}.json"
        assert (shown["status"], shown["percentDone"], shown["error"]) == ("Complete", 100, None)
        assert shown["transferredBytes"] == shown["totalBytes"] == len(body)
        assert sorted(map(json.loads, body.splitlines()), key=str) == sorted(two_events, key=str)


def test_what_an_export_to_s3_says_is_what_an_answer_says(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    lines = [
        b'{"n": 25.00}',
        b"{ }",
        rb'{"odd":"\u0000","id":null}',
        b'{"id":7,"timestamp":"2020-01-01"}',
        b'{"timestamp":5}',
    ]
    for line in lines:
        client.post("/events/same", data=line, headers=sent)
    asked = {"s3Path": f"s3://{stage.bucket}", **KEYS}
    location = client.post("/events/same/export", json=asked, headers=sent).headers["Location"]
    write_export(stage.runtime, location.rsplit("/", 1)[1])
    filename = client.get(location, headers=sent).get_json()["filename"]
    body = stage.s3.get_object(Bucket=stage.bucket, Key=filename)["Body"].read()
    answer = client.get("/events/same/export", headers=sent).data

    found = sorted(body.splitlines())
    assert len(found) == len(lines)
    assert all(line in answer for line in found)
    assert len(answer) == len(b'{"results":[') + len(body) - 1 + len(b"]}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"s3Path": None}, "s3Path"),
        ({"s3Path": "mybucket/"}, "s3Path"),
        ({"s3Path": "http://169.254.169.254/latest"}, "s3Path"),
        ({"s3AccessKeyId": ""}, "s3AccessKeyId"),
        ({"s3SecretAccessKey": "a\r\nX-Evil: 1"}, "s3SecretAccessKey"),
        ({"extra": 1}, "extra"),
        ({"query": "today"}, "query"),
        ({"query": {"groupBy": "a"}}, "query.groupBy"),
    ],
)
def test_a_field_at_fault_is_named(
    client: FlaskClient, sent: dict[str, str], two_events: list[dict[str, Any]], change: dict[str, Any], field: str
) -> None:
    asked = {**json.loads(seed.EXPORT_REQUEST), **change}
    answer = client.post("/events/testing/export", json=asked, headers=sent)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == [field]


def test_the_seeds_request_names_its_folder() -> None:
    assert status().spec.destination == Destination("my-bucket", "exports/")
    assert status().spec.most_events == 1_000_000


def test_an_export_of_another_collection_or_project_is_unknown(
    client: FlaskClient, stage: Stage, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    client.post("/events/other", data=b"{}", headers=sent)
    asked = {"s3Path": f"s3://{stage.bucket}", **KEYS}
    location = client.post("/events/testing/export", json=asked, headers=sent).headers["Location"]
    other = Stage(stage.settings, stage.bucket)
    theirs = headers(other, with_key(other, {}, QUERY)["X-API-Key"])

    for path, who in (
        (location.replace("testing", "other"), sent),
        (location, theirs),
        (f"/events/testing/export/{'0' * 32}", sent),
        ("/events/testing/export/nonsense", sent),
        ("/events/unknown/export", sent),
    ):
        answer = client.get(path, headers=who)
        assert (answer.status_code, set(answer.get_json())) == (404, {"errorMessage"})
    assert client.post("/events/unknown/export", json=asked, headers=sent).status_code == 404
    other.close()


def test_a_name_that_needs_it_is_quoted_in_the_location(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    name = "ca fé?#%41"
    client.post("/events", json={name: [{"n": 1}]}, headers=sent)
    path = "/events/ca%20f%C3%A9%3F%23%2541/export"
    answer = client.post(path, json={"s3Path": f"s3://{stage.bucket}", **KEYS}, headers=sent)

    assert answer.headers["Location"].startswith("http://localhost" + path + "/")
    assert client.get(answer.headers["Location"], headers=sent).get_json()["collection"] == name


def test_an_export_takes_a_key_that_may_query(
    client: FlaskClient, stage: Stage, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    push_only = with_key(stage, sent, PUSH)
    asked = {"s3Path": f"s3://{stage.bucket}", **KEYS}
    location = client.post("/events/testing/export", json=asked, headers=sent).headers["Location"]

    for answer in (
        client.get("/events/testing/export", headers=push_only),
        client.post("/events/testing/export", json=asked, headers=push_only),
        client.get(location, headers=push_only),
    ):
        assert (answer.status_code, set(answer.get_json())) == (403, {"errorMessage"})
    for wrong in ({}, {**sent, "X-API-Key": "nonsense"}):
        assert client.get(location, headers=wrong).status_code == 401


# --- the end of a collection ------------------------------------------------------------------------------------


def test_a_collection_is_deleted_with_a_master_key_and_begins_anew(
    client: FlaskClient, stage: Stage, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    queries = with_key(stage, sent, QUERY)
    assert client.delete("/collections/testing", headers=queries).status_code == 403
    assert client.delete("/collections/unknown", headers=sent).status_code == 404
    answer = client.delete("/collections/testing", headers=sent)
    assert (answer.status_code, answer.data) == (204, b"")
    assert client.get("/events/testing/export", headers=sent).status_code == 404

    client.post("/events/testing", json=two_events[0], headers=sent)
    assert client.get("/events/testing/export", headers=sent).get_json() == {"results": two_events[:1]}


def test_a_collection_that_is_exported_or_imported_is_not_deleted(
    client: FlaskClient, stage: Stage, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    asked = {"s3Path": f"s3://{stage.bucket}", **KEYS}
    location = client.post("/events/testing/export", json=asked, headers=sent).headers["Location"]
    answer = client.delete("/collections/testing", headers=sent)

    assert answer.status_code == 409
    assert answer.get_json()["errorMessage"]
    assert answer.get_json()["activeExports"] == [location.rsplit("/", 1)[1]]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/events/a%00/export"), ("POST", "/events/a%00/export"), ("DELETE", "/collections/a%00")],
)
def test_a_name_that_no_collection_can_have_is_unknown(
    client: FlaskClient, sent: dict[str, str], method: str, path: str
) -> None:
    asked = {"s3Path": "s3://stage/there/", "s3AccessKeyId": "AK", "s3SecretAccessKey": "SK"}

    answer = client.open(path, method=method, json=asked, headers=sent)

    assert answer.status_code == 404


def test_an_export_repeated_with_its_key_tells_of_the_same_export(
    client: FlaskClient, sent: dict[str, str], two_events: list[dict[str, Any]]
) -> None:
    asked = {"query": {"timeframe": {"previous": {"minutes": 1}}}, "s3Path": "s3://mine", **KEYS}
    once = {**sent, "Idempotency-Key": "once"}
    first, again = (client.post("/events/testing/export", json=asked, headers=once) for _ in range(2))
    other = client.post("/events/testing/export", json={**asked, "query": {}}, headers=once)
    pushed = client.post("/events/testing", data=b"{}", headers=once)

    assert (first.status_code, again.status_code) == (201, 201)
    assert (first.headers["Location"], "true") == (again.headers["Location"], again.headers["Idempotent-Replayed"])
    assert (other.status_code, pushed.status_code) == (422, 422)
