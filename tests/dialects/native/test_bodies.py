"""The native wire: events that are the body of the request."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.callers import QUERY, create_key
from api.web import MAX_BODY
from common.settings import Settings
from tests.conftest import SPOOL
from tests.stage import Stage, event, ndjson
from workers.imports.load import load_chunk
from workers.imports.plan import plan_import

LINES = ndjson(event("a"), event("a"), b"{bad", event(None))


class Untouched(io.RawIOBase):
    """A body that nobody may read."""

    def readinto(self, _: Any) -> int:
        raise AssertionError("a byte of the body was read")


def announce(
    client: FlaskClient, key: str | None, query: str, *, length: int = 1000, body: Any = None, **headers: str
) -> TestResponse:
    """Send the head of a request, and a body that shall not be read unless one is given."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    return client.post(
        f"/api/imports?{query}",
        headers={**bearer, **given},
        # As gunicorn says it: the end of the stream is the end of the body, whatever was announced.
        environ_overrides={
            "CONTENT_LENGTH": str(length),
            "wsgi.input": body or Untouched(),
            "wsgi.input_terminated": True,
        },
    )


def send(
    client: FlaskClient, key: str | None, body: bytes = LINES, query: str = "collection=events", **headers: str
) -> TestResponse:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    return client.post(f"/api/imports?{query}", data=body, headers={**bearer, **given})


def finish(stage: Stage, import_id: str) -> None:
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id):
        load_chunk(stage.runtime, chunk_id)


def stored(stage: Stage, import_id: str) -> bytes:
    return bytes(stage.s3.get_object(Bucket=SPOOL, Key=f"uploads/{import_id}")["Body"].read())


def declared(stage: Stage, import_id: str) -> tuple[str, str]:
    (row,) = stage.query("SELECT format, compression FROM imports WHERE id = %(id)s", id=import_id)
    return row.format, row.compression


def count(stage: Stage) -> int:
    return len(stage.desk.list_imports(stage.caller).items)


@contextmanager
def door(settings: Settings, stage: Stage, **changes: Any) -> Iterator[FlaskClient]:
    """An app of its own settings."""
    app = create_app(replace(settings, **changes))
    app.extensions["penstock"].dispatch = stage.sent
    yield app.test_client()
    app.extensions["penstock"].database.close()


def test_a_body_from_request_to_receipt(client: FlaskClient, stage: Stage, key: str) -> None:
    created = send(client, key)
    document = created.get_json()
    assert created.status_code == 201
    assert created.headers["Location"] == document["links"]["self"]
    assert (document["status"], document["source"]) == ("pending", {"type": "upload"})
    assert stage.sent.plans == [document["id"]]
    finish(stage, document["id"])

    ended = client.get(document["links"]["self"], headers={"Authorization": f"Bearer {key}"})
    counts = ended.get_json()["counts"]
    assert (counts["lines"], counts["imported"], counts["duplicates"], counts["rejected"]) == (4, 2, 1, 1)
    assert ended.get_json()["source"] == {"type": "upload"}
    assert SPOOL not in created.text + ended.text


@pytest.mark.parametrize("headers", [{}, {"Content_Encoding": "gzip"}])
def test_a_body_of_no_bytes_is_an_import_of_no_lines(
    client: FlaskClient, stage: Stage, key: str, headers: dict[str, str]
) -> None:
    created = send(client, key, b"", "collection=events", **headers)
    assert created.status_code == 201, created.text
    finish(stage, created.get_json()["id"])

    ended = client.get(created.get_json()["links"]["self"], headers={"Authorization": f"Bearer {key}"}).get_json()
    assert (ended["status"], ended["counts"]["lines"], ended["progress"]["percent"]) == ("completed", 0, 100.0)


def test_the_query_says_what_json_says_of_an_object(client: FlaskClient, stage: Stage, key: str) -> None:
    body = ndjson({"key": 1}, {"key": 1}, {"other": "x"}, b"[]")
    query = urlencode({"collection": "mine", "id": ["key", "other"], "time": "at", "maxErrors": 0}, doseq=True)
    import_id = send(client, key, body, query).get_json()["id"]
    finish(stage, import_id)

    status = stage.status(import_id)
    assert (status.collection, status.mapping.id_names, status.mapping.time_names) == (
        "mine",
        ("key", "other"),
        ("at",),
    )
    assert status.progress.counts.imported == 2
    assert status.error
    assert status.error.code == "too_many_rejects"


@pytest.mark.parametrize(
    ("kind", "query", "expected"),
    [
        ("application/x-ndjson", "", "ndjson"),
        ("application/ndjson; charset=utf-8", "", "ndjson"),
        ("Text/CSV; header=present", "", "csv"),
        ("application/json", "", "auto"),
        ("application/x-www-form-urlencoded", "", "auto"),
        ("", "", "auto"),
        ("text/csv", "&format=ndjson", "ndjson"),
        ("text/csv", "&format=auto", "auto"),
        ("application/octet-stream", "&format=json", "json"),
    ],
)
def test_the_type_of_a_body_says_how_its_events_are_written_and_the_query_says_it_better(
    client: FlaskClient, stage: Stage, key: str, kind: str, query: str, expected: str
) -> None:
    created = send(client, key, LINES, f"collection=events{query}", Content_Type=kind)

    assert created.status_code == 201, created.text
    assert declared(stage, created.get_json()["id"]) == (expected, "auto")


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", gzip.compress(LINES, mtime=0), "gzip"),
        ("X-GZIP", gzip.compress(LINES, mtime=0), "gzip"),
        ("zstd", b"\x28\xb5\x2f\xfd any bytes: nobody looks", "zstd"),
        ("identity", LINES, "auto"),
        (" ", gzip.compress(LINES, mtime=0), "auto"),
    ],
)
def test_an_encoded_body_is_kept_as_it_comes_and_its_encoding_with_it(
    client: FlaskClient, stage: Stage, key: str, encoding: str, body: bytes, expected: str
) -> None:
    import_id = send(client, key, body, Content_Encoding=encoding).get_json()["id"]

    assert stored(stage, import_id) == body
    assert declared(stage, import_id)[1] == expected


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("collection=c", {"Content_Encoding": "br"}, 415, "unsupported_encoding"),
        ("collection=c", {"Content_Encoding": "gzip, gzip"}, 415, "unsupported_encoding"),
        ("collection=c", {"Content_Type": "multipart/form-data; boundary=x"}, 415, "unsupported_body"),
        ("collection=", {}, 422, "invalid_collection"),
        ("collection=a/b", {}, 422, "invalid_collection"),
        ("collection=c&unknown=1", {}, 422, "invalid_request"),
        ("collection=c&format=xml", {}, 422, "invalid_request"),
        ("collection=c&onDuplicate=explode", {}, 422, "invalid_request"),
        ("collection=c&maxErrors=-1", {}, 422, "invalid_request"),
        ("collection=c&maxErrors=many", {}, 422, "invalid_request"),
        ("collection=c&id=", {}, 422, "invalid_request"),
        ("collection=c&" + "&".join(f"id={n}" for n in range(9)), {}, 422, "invalid_request"),
        ("", {"Content_Type": "application/x-ndjson"}, 422, "collection_required"),
        ("", {"Content_Type": "text/csv"}, 422, "collection_required"),
        ("colection=c", {"Content_Type": "application/ndjson"}, 422, "collection_required"),
        ("collection=c", {"Idempotency_Key": "x" * 256}, 400, "invalid_idempotency_key"),
    ],
)
def test_what_is_refused_is_refused_before_a_byte_is_read(
    client: FlaskClient, stage: Stage, key: str, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = announce(client, key, query, **headers)

    assert (answer.status_code, answer.get_json()["code"]) == (status, code), answer.text
    assert answer.mimetype == "application/problem+json"
    assert (answer.headers.get("Accept-Encoding") == "gzip, zstd, identity") == (status == 415)
    assert (count(stage), stage.sent.plans) == (0, [])


def test_a_stranger_and_a_key_that_may_not_push_send_no_byte(client: FlaskClient, stage: Stage) -> None:
    with stage.runtime.database.transaction() as tx:
        reader = create_key(tx, stage.caller.project_id, [QUERY])
    for key, status in ((None, 401), ("pk_000000000000_" + "a" * 43, 401), (reader, 403)):
        assert announce(client, key, "collection=c").status_code == status
    assert count(stage) == 0


def test_a_body_may_be_larger_than_json_and_no_larger_than_its_own_limit(
    settings: Settings, stage: Stage, key: str
) -> None:
    body = ndjson(event("a", size=MAX_BODY))
    with door(settings, stage, max_body_bytes=len(body)) as client:
        assert send(client, key, body).status_code == 201
        assert send(client, key, body, query="").status_code == 413
        refused = announce(client, key, "collection=c", length=len(body) + 1)
    assert (refused.status_code, refused.get_json()["code"], refused.get_json()["limit"]) == (
        413,
        "body_too_large",
        len(body),
    )
    assert count(stage) == 1


@pytest.mark.parametrize("announced", [len(LINES) + 1, 10 * len(LINES)])
def test_a_body_shorter_than_announced_is_not_taken_for_whole(
    client: FlaskClient, stage: Stage, key: str, announced: int
) -> None:
    answer = announce(client, key, "collection=c", length=announced, body=io.BytesIO(LINES))
    assert (answer.status_code, answer.get_json()["code"]) == (400, "malformed_body")
    (status,) = stage.desk.list_imports(stage.caller).items
    assert status.error
    assert (status.state.value, status.error.code) == ("failed", "upload_broken")
    assert stage.sent.plans == []


def test_a_body_without_length_is_read_to_its_end(client: FlaskClient, stage: Stage, key: str) -> None:
    answer = client.post(
        "/api/imports?collection=c",
        input_stream=io.BytesIO(LINES),
        headers={"Authorization": f"Bearer {key}", "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == 201
    assert stored(stage, answer.get_json()["id"]) == LINES


def test_a_service_without_a_bucket_for_bodies_says_what_its_operator_has_to_set(
    settings: Settings, stage: Stage, key: str
) -> None:
    with door(settings, stage, spool_bucket="") as client:
        answer = send(client, key)
    assert (answer.status_code, answer.get_json()["code"]) == (501, "uploads_unavailable")
    assert "PENSTOCK_SPOOL_BUCKET" in answer.get_json()["detail"]


def test_a_repeated_request_is_known_by_its_query_and_not_read_again(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    first = send(client, key, Idempotency_Key="once")
    again = announce(client, key, "collection=events", Idempotency_Key="once")
    other = announce(client, key, "collection=others", Idempotency_Key="once")

    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.get_json() == {**first.get_json()}
    assert (other.status_code, other.get_json()["code"]) == (422, "idempotency_key_reused")
    assert (count(stage), stage.sent.plans) == (1, [first.get_json()["id"]])


def test_the_openapi_document_describes_both_kinds_of_body(client: FlaskClient) -> None:
    operation = client.get("/api/openapi.json").get_json()["paths"]["/api/imports"]["post"]
    parameters = {one["name"]: one for one in operation["parameters"]}

    assert set(operation["requestBody"]["content"]) >= {"application/json", "application/x-ndjson", "text/csv"}
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ImportRequest")
    assert set(parameters) == {
        "Idempotency-Key", "Content-Encoding", "collection", "format", "id", "time", "onDuplicate", "maxErrors",
    }  # fmt: skip
    assert {parameters[name]["in"] for name in ("collection", "id", "format")} == {"query"}
    assert not any(one.get("required") for one in parameters.values())
    assert parameters["id"]["schema"]["type"] == "array"
