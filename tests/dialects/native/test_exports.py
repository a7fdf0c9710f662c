"""The native wire of exports: from the request to the objects, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.stage import Stage, event, ndjson
from workers.exports.write import write_export

SECRET = "SECRETCANARY"
ROLE = "arn:aws:iam::123456789012:role/writer"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def request(**more: Any) -> dict[str, Any]:
    place = {"url": "s3://stage/there", "accessKeyId": "AK", "secretAccessKey": SECRET}
    return {"collection": "events", "destination": place, **more}


def test_an_export_from_request_to_objects(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a"), event("b"), {"$unique_id": "c", "$time": "2020-01-01"}))
    asked = request(query={"timeframe": {"start": "2024-01-01"}, "filter": {"note": ""}}, compression="gzip")

    created = client.post("/api/exports", json=asked, headers=bearer(key))
    document = created.get_json()

    assert created.status_code == 201
    assert created.headers["Location"] == document["links"]["self"]
    assert created.headers["Retry-After"] == "1"
    assert stage.sent.exports == [document["id"]]
    assert document["destination"] == {"url": "s3://stage/there/", "region": "us-east-1"}
    assert (document["query"], document["timeframe"]) == (
        asked["query"],
        {"start": "2024-01-01T00:00:00.000000Z", "end": None},
    )
    write_export(stage.runtime, document["id"])
    found = client.get(document["links"]["self"], headers=bearer(key))
    ended = found.get_json()
    assert (ended["status"], ended["progress"]["percent"], ended["progress"]["eventsTotal"]) == ("completed", 100, 2)
    assert [step["status"] for step in ended["statusHistory"]] == ["pending", "running", "completed"]
    (written,) = ended["objects"]
    assert written["key"] == f"there/{document['id']}.ndjson.gz"
    assert (
        written["bytes"] == ended["progress"]["bytesTotal"] == len(stage.found("there/")[f"{document['id']}.ndjson.gz"])
    )
    assert "Retry-After" not in found.headers
    assert SECRET not in created.text + found.text
    listed = client.get("/api/exports?status=completed&collection=events", headers=bearer(key)).get_json()
    assert [item["id"] for item in listed["items"]] == [document["id"]]
    assert client.get("/api/exports?status=failed", headers=bearer(key)).get_json() == {"items": [], "next": None}
    listed = client.get("/api/exports?status=failed&status=completed", headers=bearer(key)).get_json()
    assert [item["id"] for item in listed["items"]] == [document["id"]]


def test_a_relative_timeframe_is_fixed_when_it_is_asked_for(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a")))
    asked = request(query={"timeframe": {"previous": {"days": 2}}, "timezone": "Europe/Berlin"})

    window = client.post("/api/exports", json=asked, headers=bearer(key)).get_json()["timeframe"]

    assert window["start"] < window["end"]


def test_pages_of_exports_go_on_where_the_last_one_ended(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a")))
    asked = [client.post("/api/exports", json=request(), headers=bearer(key)).get_json()["id"] for _ in range(3)]

    first = client.get("/api/exports?limit=2", headers=bearer(key)).get_json()
    second = client.get(f"/api/exports?limit=2&cursor={first['next']}", headers=bearer(key)).get_json()

    assert [item["id"] for page in (first, second) for item in page["items"]] == asked[::-1]
    assert second["next"] is None


def test_a_cancelled_export_is_not_written(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a")))
    document = client.post("/api/exports", json=request(), headers=bearer(key)).get_json()

    for _ in range(2):
        cancelled = client.post(document["links"]["cancel"], headers=bearer(key))
        assert (cancelled.status_code, cancelled.get_json()["status"]) == (200, "cancelled")
    write_export(stage.runtime, document["id"])

    assert client.get(document["links"]["self"], headers=bearer(key)).get_json()["status"] == "cancelled"
    assert not [name for name in stage.found("there/") if document["id"] in name]
    secrets = stage.query("SELECT FROM export_secrets WHERE export_id = %(id)s", id=document["id"])
    assert not secrets


def test_an_export_that_has_ended_cannot_be_cancelled(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a")))
    document = client.post("/api/exports", json=request(), headers=bearer(key)).get_json()
    write_export(stage.runtime, document["id"])

    answer = client.post(document["links"]["cancel"], headers=bearer(key))

    assert (answer.status_code, answer.get_json()["code"]) == (409, "export_ended")


def test_the_sixth_active_export_of_a_project_is_refused(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a")))
    active = [client.post("/api/exports", json=request(), headers=bearer(key)).get_json()["id"] for _ in range(5)]

    answer = client.post("/api/exports", json=request(), headers=bearer(key))

    assert (answer.status_code, answer.get_json()["code"]) == (429, "too_many_active_exports")
    assert answer.get_json()["activeExports"] == active
    assert int(answer.headers["Retry-After"]) == answer.get_json()["retryAfter"]
    client.post(f"/api/exports/{active[0]}/cancel", headers=bearer(key))
    assert client.post("/api/exports", json=request(), headers=bearer(key)).status_code == 201


def test_a_repeated_request_with_its_key_makes_one_export(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.run(ndjson(event("a")))
    once = {**bearer(key), "Idempotency-Key": "once"}

    first = client.post("/api/exports", json=request(), headers=once)
    write_export(stage.runtime, first.get_json()["id"])
    again = client.post("/api/exports", json=request(), headers=once)

    assert again.get_json() == first.get_json()
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    other = client.post("/api/exports", json=request(format="csv"), headers=once)
    assert (other.status_code, other.get_json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_that_made_an_import_makes_no_export_and_the_other_way_round(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    stage.run(ndjson(event("a")))
    source = {"url": stage.put(b"").url, "accessKeyId": "AK", "secretAccessKey": SECRET}
    asked = {"/api/imports": {"collection": "events", "source": source}, "/api/exports": request()}

    for first, second in (("/api/imports", "/api/exports"), ("/api/exports", "/api/imports")):
        headers = {**bearer(key), "Idempotency-Key": first}
        assert client.post(first, json=asked[first], headers=headers).status_code == 201
        refused = client.post(second, json=asked[second], headers=headers)
        assert (refused.status_code, refused.get_json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"collection": "no such"}, 404, "not_found", None),
        ({"destination": {"url": "s3://stage/there/"}}, 422, "credentials_required", "destination.accessKeyId"),
        ({"destination": {"url": "ftp://x", "roleArn": ROLE}}, 422, "invalid_source_url", "destination.url"),
        ({"destination": {"url": "s3://stage", "roleArn": "me"}}, 422, "invalid_role", "destination.roleArn"),
        ({"columns": ["a"]}, 422, "columns_without_csv", "columns"),
        ({"query": {"filter": {"a": {"like": 1}}}}, 422, "invalid_query", "query.filter.a.like"),
        ({"query": {"select": {}}}, 422, "invalid_query", "query.select"),
        ({"format": "json"}, 422, "invalid_request", None),
        ({"compression": "bzip2"}, 422, "invalid_request", None),
        ({"partBytes": 1024}, 422, "invalid_request", None),
        ({"fill": {"id": "a", "time": "a"}}, 422, "invalid_request", None),
        ({"fill": {"id": "a"}}, 422, "invalid_request", None),
        ({"unknown": 1}, 422, "invalid_request", None),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_place_and_the_reason(
    client: FlaskClient, stage: Stage, key: str, change: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    stage.run(ndjson(event("a")))

    answer = client.post("/api/exports", json=request(**change), headers=bearer(key))

    problem = answer.get_json()
    assert (answer.status_code, problem["code"], problem.get("field")) == (status, code, field)
    assert not stage.sent.exports


def test_a_role_writes_only_where_the_table_lets_it(client: FlaskClient, stage: Stage, key: str) -> None:
    """Without a table, and without an STS to ask, no role opens anything."""
    stage.run(ndjson(event("a")))
    place = {"url": "s3://stage/there", "roleArn": ROLE}
    document = client.post("/api/exports", json=request(destination=place), headers=bearer(key)).get_json()
    assert document["destination"]["externalId"] == stage.caller.project_id

    write_export(stage.runtime, document["id"])

    ended = client.get(document["links"]["self"], headers=bearer(key)).get_json()
    assert (ended["status"], ended["error"]["code"]) == ("failed", "role_not_assumable")


@pytest.mark.parametrize(
    "asked",
    [
        '"format":"csv","columns":["a\\u0000"]',
        '"format":"csv","columns":[""]',
        '"fill":{"id":"a\\"b","time":"t"}',
        '"fill":{"id":"id","time":"a\\u0000"}',
    ],
)
def test_a_name_that_no_row_or_no_encoder_bears_is_refused(
    client: FlaskClient, stage: Stage, key: str, asked: str
) -> None:
    stage.run(ndjson(event("a")))
    place = '{"url":"s3://stage/there","accessKeyId":"AK","secretAccessKey":"SK"}'
    body = f'{{"collection":"events","destination":{place},{asked}}}'

    refused = client.post("/api/exports", data=body, content_type="application/json", headers=bearer(key))

    assert refused.status_code == 422
    assert client.get("/api/exports?collection=events", headers=bearer(key)).get_json()["items"] == []
