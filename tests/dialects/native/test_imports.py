"""The native wire: status documents, problem details, pages."""

from __future__ import annotations

import io
from typing import Any

import pytest
from flask.testing import FlaskClient

from common.errors import Transient
from common.ledger import imports
from common.ledger.database import Database
from common.model.formats import Compression, Format
from common.model.imports import IfSeen
from common.model.sources import MAX_LISTED, SourceKind, SourceRef
from tests.stage import Stage, event, ndjson
from workers.imports import load
from workers.imports.plan import plan_import

SECRET = "SECRETCANARY"
ROLE = "arn:aws:iam::123456789012:role/reader"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def request(url: str, **more: Any) -> dict[str, Any]:
    return {
        "collection": "events",
        "source": {"url": url, "accessKeyId": "AK", "secretAccessKey": SECRET},
        **more,
    }


def test_an_import_from_request_to_receipt(client: FlaskClient, stage: Stage, key: str) -> None:
    ref = stage.put(ndjson(event("a"), event("a"), b"{bad", b"", event(None)))
    created = client.post("/api/imports", json=request(ref.url), headers=bearer(key))
    document = created.get_json()

    assert created.status_code == 201
    assert created.headers["Location"] == document["links"]["self"]
    assert (document["status"], document["startedAt"], document["source"]) == (
        "pending",
        None,
        {"url": ref.url, "type": "object", "region": "us-east-1"},
    )
    plan_import(stage.runtime, document["id"])
    for chunk_id in stage.chunk_ids(document["id"]):
        running = client.get(document["links"]["self"], headers=bearer(key))
        assert running.get_json()["status"] == "running"
        assert running.headers["Retry-After"] == "1"
        load.load_chunk(stage.runtime, chunk_id)

    found = client.get(document["links"]["self"], headers=bearer(key))
    ended = found.get_json()
    assert ended["status"] == "completed_with_errors"
    assert ended["counts"] == {
        "lines": 5,
        "imported": 2,
        "replaced": 0,
        "duplicates": 1,
        "rejected": 1,
        "blank": 1,
    }
    assert ended["progress"]["percent"] == 100
    assert ended["progress"]["chunks"]["done"] == ended["progress"]["chunks"]["total"] > 1
    assert [step["status"] for step in ended["statusHistory"]] == [
        "pending",
        "planning",
        "running",
        "completed_with_errors",
    ]
    assert "Retry-After" not in found.headers
    assert SECRET not in created.text + found.text

    errors = client.get(ended["links"]["errors"], headers=bearer(key)).get_json()
    (error,) = errors["items"]
    assert (error["index"], error["code"], errors["rejected"], errors["next"]) == (2, "invalid_json", 1, None)


def test_a_mapping_of_the_callers_own(client: FlaskClient, stage: Stage, key: str) -> None:
    ref = stage.put(ndjson({"key": 1}, {"key": 1}, {"key": "1"}, {"other": "x"}, {"other": "x"}))
    asked = request(ref.url, mapping={"id": ["key", "other"], "time": "at"})
    import_id = client.post("/api/imports", json=asked, headers=bearer(key)).get_json()["id"]
    plan_import(stage.runtime, import_id)
    for chunk_id in stage.chunk_ids(import_id):
        load.load_chunk(stage.runtime, chunk_id)

    assert stage.status(import_id).progress.counts.imported == 3


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"collection": None}, ["collection"]),
        ({"collection": 5}, ["collection"]),
        ({"unknown": 1}, ["unknown"]),
        ({"source": {}}, ["source", "url"]),
        ({"source": "s3://b/k"}, ["source"]),
        ({"source": {"url": "s3://bucket/k", "endpoint": "http://10.0.0.1"}}, ["source", "endpoint"]),
        ({"mapping": {"id": []}}, ["mapping", "id"]),
        ({"mapping": {"id": [1]}}, ["mapping", "id"]),
        ({"mapping": {"onDuplicate": "explode"}}, ["mapping", "onDuplicate"]),
        ({"onError": {"maxErrors": -1}}, ["onError", "maxErrors"]),
        ({"onError": {"maxErrors": "5"}}, ["onError", "maxErrors"]),
        ({"onError": {"maxErrors": True}}, ["onError", "maxErrors"]),
        ({"format": "xml"}, ["format"]),
        ({"format": None}, ["format"]),
        ({"compression": "xz"}, ["compression"]),
        ({"ifSeen": "maybe"}, ["ifSeen"]),
        ({"source": {"url": "s3://bucket/k", "type": "folder"}}, ["source", "type"]),
        ({"source": {"url": "s3://bucket/k", "keys": []}}, ["source", "keys"]),
        ({"source": {"url": "s3://bucket/k", "keys": "a"}}, ["source", "keys"]),
        ({"source": {"url": "s3://bucket/k", "keys": [7]}}, ["source", "keys", "0"]),
        ({"source": {"url": "s3://bucket/k", "keys": ["a"] * 1001}}, ["source", "keys"]),
        ({"source": {"url": "s3://bucket/k", "roleArn": ""}}, ["source", "roleArn"]),
    ],
)
def test_a_request_that_is_not_valid_names_the_field(
    client: FlaskClient, key: str, change: dict[str, Any], path: list[str]
) -> None:
    answer = client.post("/api/imports", json={**request("s3://bucket/key"), **change}, headers=bearer(key))
    document = answer.get_json()

    assert answer.status_code == 422
    assert answer.mimetype == "application/problem+json"
    assert (document["code"], document["status"]) == ("invalid_request", 422)
    at: Any = document["errors"]
    for name in path:
        at = at[name]
    assert at


@pytest.mark.parametrize(
    ("source", "code", "field"),
    [
        ({"url": "ftp://bucket/key"}, "invalid_source_url", "source.url"),
        ({"url": "s3://bucket/key", "region": "evil.example/"}, "invalid_source_url", "source.url"),
        ({"url": "s3://bucket/key"}, "credentials_required", "source.accessKeyId"),
        ({"url": "s3://bucket/key", "accessKeyId": "a"}, "credentials_incomplete", "source.secretAccessKey"),
        ({"url": "s3://bucket/key", "roleArn": "reader"}, "invalid_role", "source.roleArn"),
        ({"url": "s3://bucket/key", "roleArn": ROLE, "accessKeyId": "a"}, "credentials_and_role", "source.roleArn"),
        ({"url": "s3://bucket/key", "roleArn": ROLE, "sessionToken": "a"}, "credentials_and_role", "source.roleArn"),
        ({"url": "s3://bucket/dir/", "type": "object"}, "invalid_source_url", "source.url"),
        ({"url": "s3://bucket/", "type": "manifest"}, "invalid_source_url", "source.url"),
        ({"url": "s3://bucket/key", "keys": ["a"]}, "invalid_source_url", "source.url"),
        ({"url": "s3://bucket", "keys": ["a", "../b"]}, "invalid_source_url", "source.keys.1"),
        ({"url": "s3://bucket", "keys": ["s3://other/a"]}, "invalid_source_url", "source.keys.0"),
        ({"url": "s3://bucket/", "type": "prefix", "keys": ["a"]}, "keys_without_manifest", "source.type"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_with_its_reason(
    client: FlaskClient, key: str, source: dict[str, str], code: str, field: str
) -> None:
    answer = client.post("/api/imports", json={"collection": "c", "source": source}, headers=bearer(key))

    assert answer.status_code == 422
    assert (answer.get_json()["code"], answer.get_json()["field"]) == (code, field)


@pytest.mark.parametrize(
    ("source", "shown", "stored"),
    [
        ({"url": "s3://bucket/in/"}, "prefix", SourceRef("bucket", "in/", kind=SourceKind.PREFIX)),
        ({"url": "s3://bucket"}, "prefix", SourceRef("bucket", "", kind=SourceKind.PREFIX)),
        ({"url": "s3://bucket/in/**/*.csv"}, "glob", SourceRef("bucket", "in/**/*.csv", kind=SourceKind.GLOB)),
        ({"url": "s3://bucket/a*b", "type": "object"}, "object", SourceRef("bucket", "a*b")),
        (
            {"url": "s3://bucket/keys.gz", "type": "manifest"},
            "manifest",
            SourceRef("bucket", "keys.gz", kind=SourceKind.MANIFEST),
        ),
        (
            {"url": "s3://bucket/in/", "keys": ["b", "a"]},
            "manifest",
            SourceRef("bucket", "in/", kind=SourceKind.MANIFEST, keys=("in/a", "in/b")),
        ),
        (
            {"url": "https://bucket.s3.eu-west-1.amazonaws.com/a%20b"},
            "object",
            SourceRef("bucket", "a b", region="eu-west-1"),
        ),
    ],
)
def test_every_form_of_a_source_is_taken_and_shown_with_its_type(
    client: FlaskClient, stage: Stage, key: str, source: dict[str, Any], shown: str, stored: SourceRef
) -> None:
    keys = {"accessKeyId": "AK", "secretAccessKey": SECRET}
    answer = client.post("/api/imports", json={"collection": "c", "source": {**source, **keys}}, headers=bearer(key))
    document = answer.get_json()

    assert answer.status_code == 201
    assert document["source"] == {"url": stored.url, "type": shown, "region": stored.region}
    assert stage.status(document["id"]).source == stored


def test_the_longest_list_of_keys_is_taken(client: FlaskClient, stage: Stage, key: str) -> None:
    names = [f"{number:01000d}" for number in range(MAX_LISTED)]
    asked = {"url": "s3://bucket/in/", "keys": names, "accessKeyId": "AK", "secretAccessKey": SECRET}
    answer = client.post("/api/imports", json={"collection": "c", "source": asked}, headers=bearer(key))

    assert answer.status_code == 201
    assert len(stage.status(answer.get_json()["id"]).source.keys) == MAX_LISTED


def test_a_role_is_shown_with_the_external_id_of_the_project_and_seals_nothing(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    asked = {"collection": "c", "source": {"url": "s3://bucket/key", "roleArn": ROLE}}
    document = client.post("/api/imports", json=asked, headers=bearer(key)).get_json()

    assert document["source"]["roleArn"] == ROLE
    assert document["source"]["externalId"] == stage.caller.project_id
    assert stage.query("SELECT sealed FROM import_secrets WHERE import_id = %(id)s", id=document["id"]) == []


@pytest.mark.parametrize(
    ("more", "stored"),
    [
        ({}, (None, None, IfSeen.IMPORT)),
        ({"format": "auto", "compression": "auto", "ifSeen": "import"}, (None, None, IfSeen.IMPORT)),
        ({"format": "csv", "compression": "gzip", "ifSeen": "refuse"}, (Format.CSV, Compression.GZIP, IfSeen.REFUSE)),
        ({"format": "ndjson", "compression": "none"}, (Format.NDJSON, Compression.NONE, IfSeen.IMPORT)),
    ],
)
def test_what_is_declared_of_the_objects_reaches_the_engine(
    client: FlaskClient, stage: Stage, key: str, more: dict[str, str], stored: tuple[Any, ...]
) -> None:
    document = client.post("/api/imports", json=request("s3://bucket/key", **more), headers=bearer(key)).get_json()
    with stage.runtime.database.transaction() as tx:
        job = imports.read_import(tx, document["id"])

    assert (job.format, job.compression, job.if_seen) == stored


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"7", b'{"a":NaN}', b"\xff\xfe", b"[" * 10_000])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-ndjson", ""])
def test_any_body_gets_a_problem_and_never_a_500(client: FlaskClient, key: str, body: bytes, kind: str) -> None:
    answer = client.post("/api/imports", data=body, headers={**bearer(key), "Content-Type": kind})

    assert answer.status_code in (400, 415, 422)
    assert answer.mimetype == "application/problem+json"
    assert answer.get_json()["code"]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic abc", "Bearer pk_000000000000_" + "a" * 43])
def test_strangers_get_401_before_anything_is_looked_at(client: FlaskClient, header: str | None) -> None:
    headers = {"Authorization": header} if header is not None else {}
    for answer in (
        client.post("/api/imports", data=b"{", headers=headers),
        client.get("/api/imports", headers=headers),
        client.get(f"/api/imports/{'0' * 32}", headers=headers),
        client.post(f"/api/imports/{'0' * 32}/cancel", headers=headers),
        client.get(f"/api/imports/{'0' * 32}/errors", headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.get_json()["code"] == "unauthenticated"


def test_a_revoked_or_expired_key_opens_nothing(client: FlaskClient, stage: Stage, key: str) -> None:
    assert client.get("/api/imports", headers=bearer(key)).status_code == 200
    key_id = key.split("_")[1]
    for column in ("revoked_at", "expires_at"):
        stage.query(f"UPDATE api_keys SET {column} = now() WHERE id = %(id)s RETURNING id", id=key_id)
        assert client.get("/api/imports", headers=bearer(key)).status_code == 401
        stage.query(f"UPDATE api_keys SET {column} = NULL WHERE id = %(id)s RETURNING id", id=key_id)


def test_another_projects_import_is_unknown(client: FlaskClient, stage: Stage, key: str) -> None:
    other = Stage(stage.settings, stage.bucket)
    path = f"/api/imports/{other.start(b'')}"
    for answer in (
        client.get(path, headers=bearer(key)),
        client.post(f"{path}/cancel", headers=bearer(key)),
        client.get(f"{path}/errors", headers=bearer(key)),
    ):
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
    other.close()


def test_unknown_paths_and_methods_get_problems_with_what_is_allowed(client: FlaskClient, key: str) -> None:
    assert client.get("/nowhere").get_json()["code"] == "not_found"
    answer = client.delete("/api/imports", headers=bearer(key))

    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert answer.mimetype == "application/problem+json"


def test_a_body_that_breaks_off_is_the_callers_and_no_mistake_of_ours(
    client: FlaskClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.RawIOBase):
        def readinto(self, _: object) -> int:
            raise NotImplementedError("an error of the server's own")

    answer = client.post(
        "/api/imports",
        headers=bearer(key),
        environ_overrides={"wsgi.input": Broken(), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )

    assert (answer.status_code, answer.get_json()["code"]) == (400, "malformed_body")


@pytest.mark.parametrize("host", ["", "a b", "a/b@c?d", "x:999999", "ü", 'evil"', "[::1", "x:y"])
def test_a_host_that_is_none_is_refused_before_anything_is_done(
    client: FlaskClient, stage: Stage, key: str, host: str
) -> None:
    answer = client.post("/api/imports", json=request("s3://bucket/key"), headers={**bearer(key), "Host": host})

    assert answer.status_code == 400
    assert stage.desk.list_imports(stage.caller).items == []


@pytest.mark.parametrize("host", ["localhost", "penstock_web", "example.com:8000", "[::1]:80", "127.0.0.1"])
def test_links_begin_with_the_host_that_was_asked(client: FlaskClient, stage: Stage, key: str, host: str) -> None:
    answer = client.post("/api/imports", json=request("s3://bucket/key"), headers={**bearer(key), "Host": host})

    assert answer.headers["Location"].startswith(f"http://{host}/api/imports/")


def test_a_full_house_is_refused_with_its_limit_who_is_in_and_when_to_come_again(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    stage.query("UPDATE projects SET import_limit = 2 WHERE id = %(id)s RETURNING id", id=stage.caller.project_id)
    holders = [stage.start(b"") for _ in range(2)]
    answer = client.post("/api/imports", json=request("s3://bucket/key"), headers=bearer(key))

    assert (answer.status_code, answer.get_json()["code"]) == (429, "too_many_active_imports")
    assert (answer.get_json()["limit"], answer.get_json()["activeImports"]) == (2, holders)
    assert 12 <= int(answer.headers["Retry-After"]) <= 18


def test_a_request_repeated_with_its_key_gets_the_same_answer_to_the_byte(
    client: FlaskClient, stage: Stage, key: str
) -> None:
    headers = {**bearer(key), "Idempotency-Key": "0d9f8fdc-order-7"}
    asked = request(stage.put(ndjson(event("a"))).url)
    first = client.post("/api/imports", json=asked, headers=headers)
    plan_import(stage.runtime, first.get_json()["id"])
    again = client.post("/api/imports", json=asked, headers=headers)

    assert (again.status_code, again.data) == (201, first.data)
    assert again.headers["Location"] == first.headers["Location"]
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")

    other = client.post("/api/imports", json={**asked, "collection": "others"}, headers=headers)
    assert (other.status_code, other.get_json()["code"]) == (422, "idempotency_key_reused")
    assert len(client.get("/api/imports", headers=bearer(key)).get_json()["items"]) == 1


@pytest.mark.parametrize("wrong", ["", "x" * 256, "schl\u00fcssel", "tab\there"])
def test_an_idempotency_key_that_is_none_is_refused(client: FlaskClient, key: str, wrong: str) -> None:
    headers = {**bearer(key), "Idempotency-Key": wrong}
    answer = client.post("/api/imports", json=request("s3://bucket/key"), headers=headers)

    assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_idempotency_key")


def test_lists_go_on_with_their_cursor(client: FlaskClient, stage: Stage, key: str) -> None:
    started = [stage.start(b"") for _ in range(3)]
    first = client.get("/api/imports?limit=2", headers=bearer(key)).get_json()
    second = client.get(f"/api/imports?limit=2&cursor={first['next']}", headers=bearer(key)).get_json()

    assert [item["id"] for item in first["items"] + second["items"]] == started[::-1]
    assert second["next"] is None
    for wrong in ("limit=0", "limit=x", "cursor=abc", "status=unknown", "nonsense=1", "collection=%00"):
        assert client.get(f"/api/imports?{wrong}", headers=bearer(key)).status_code == 422, wrong


def test_lists_have_the_imports_of_each_status_that_is_named(client: FlaskClient, stage: Stage, key: str) -> None:
    stage.desk.cancel_import(stage.caller, stage.start(b""))
    ended, pending = stage.run(ndjson(event("a"))).id, stage.start(b"")

    listed = client.get("/api/imports?status=pending&status=completed", headers=bearer(key)).get_json()
    assert [item["id"] for item in listed["items"]] == [pending, ended]
    assert client.get("/api/imports?status=failed", headers=bearer(key)).get_json()["items"] == []
    assert client.get("/api/imports?status=pending&status=unknown", headers=bearer(key)).status_code == 422


def test_errors_go_on_with_their_cursor(client: FlaskClient, stage: Stage, key: str) -> None:
    status = stage.run(ndjson(*([b"{bad"] * 5)))
    path = f"/api/imports/{status.id}/errors"
    first = client.get(f"{path}?limit=3", headers=bearer(key)).get_json()
    second = client.get(f"{path}?limit=3&cursor={first['next']}", headers=bearer(key)).get_json()

    assert [error["index"] for error in first["items"] + second["items"]] == [0, 1, 2, 3, 4]
    assert client.get(f"{path}?cursor=x", headers=bearer(key)).status_code == 422


def test_while_postgres_is_away_the_answer_is_503_with_retry_after(
    client: FlaskClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Database) -> None:
        raise Transient("The database is not available at the moment.", "connection refused to host 10.1.2.3")

    monkeypatch.setattr(Database, "_connection", away)
    answer = client.get("/api/imports", headers=bearer(key))

    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "10.1.2.3" not in answer.text
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_a_mistake_of_ours_tells_nothing_of_itself(
    client: FlaskClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("api.desk.Desk.list_imports", fail)
    answer = client.get("/api/imports", headers=bearer(key))

    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")
    assert SECRET not in answer.text


def test_the_openapi_document_names_every_route(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()

    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    errors = document["components"]["responses"]["DEFAULT_ERROR"]["content"]
    assert set(errors) == {"application/problem+json"}
    names = document["components"]["schemas"]["MappingRequest"]["properties"]["id"]
    assert {kind["type"] for kind in names["oneOf"]} == {"string", "array"}
    assert set(document["paths"]) >= {
        "/api/imports",
        "/api/imports/{import_id}",
        "/api/imports/{import_id}/cancel",
        "/api/imports/{import_id}/errors",
    }
