"""How a request says what a line's id and time are and what becomes of an id that is stored; what it leaves out is as
in the collection's first import.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.stage import Stage, ndjson
from workers.imports import load
from workers.imports.plan import plan_import

DEFAULT = {
    "id": ["$unique_id"],
    "time": ["$time"],
    "onDuplicate": "keep",
    "types": {},
    "quotedLineBreaks": True,
}
FULL = {
    "id": ["key", "id"],
    "time": ["at"],
    "onDuplicate": "replace",
    "types": {"Metrics.price": "number", "open": "boolean", "zip": "string"},
    "quotedLineBreaks": False,
}


def ask(
    client: FlaskClient, key: str, mapping: dict[str, Any] | None, *, url: str = "s3://bucket/key", **headers: str
) -> TestResponse:
    asked: dict[str, Any] = {
        "collection": "orders",
        "source": {"url": url, "accessKeyId": "AK", "secretAccessKey": "SK"},
    }
    if mapping is not None:
        asked["mapping"] = mapping
    return client.post("/api/imports", json=asked, headers={"Authorization": f"Bearer {key}", **headers})


def test_without_a_mapping_the_first_import_has_the_services(client: FlaskClient, key: str) -> None:
    assert ask(client, key, None).get_json()["mapping"] == DEFAULT
    assert ask(client, key, {}).get_json()["mapping"] == DEFAULT


def test_a_mapping_comes_back_as_it_was_asked_for_and_is_the_next_imports_too(client: FlaskClient, key: str) -> None:
    assert ask(client, key, FULL).get_json()["mapping"] == FULL
    assert ask(client, key, None).get_json()["mapping"] == FULL


@pytest.mark.parametrize("part", [name for name in FULL if name != "onDuplicate"])
def test_a_part_that_is_named_is_the_imports_own_and_the_others_are_the_collections(
    client: FlaskClient, key: str, part: str
) -> None:
    ask(client, key, FULL)

    assert ask(client, key, {part: DEFAULT[part]}).get_json()["mapping"] == {**FULL, part: DEFAULT[part]}
    assert ask(client, key, None).get_json()["mapping"] == FULL, "the first import's, and not the last one's"


@pytest.mark.parametrize(("first", "second"), [("keep", "replace"), ("replace", "keep")])
def test_another_rule_than_the_collections_is_a_conflict(
    client: FlaskClient, stage: Stage, key: str, first: str, second: str
) -> None:
    ask(client, key, {"onDuplicate": first})
    answer = ask(client, key, {"onDuplicate": second})
    problem = answer.get_json()

    assert (answer.status_code, problem["code"], problem["field"]) == (409, "mapping_conflict", "mapping.onDuplicate")
    assert problem["onDuplicate"] == first
    assert f'"{first}"' in problem["detail"]
    assert len(stage.desk.list_imports(stage.caller).items) == 1
    assert ask(client, key, {"id": "other"}).get_json()["mapping"]["onDuplicate"] == first


def test_connect_keeps_and_is_told_where_a_collection_replaces(client: FlaskClient, stage: Stage, key: str) -> None:
    ask(client, key, {"onDuplicate": "replace"})
    asked = {"collection": "orders", "s3Path": "s3://bucket/key", "s3AccessKeyId": "AK", "s3SecretAccessKey": "SK"}
    headers = {"X-Project-Id": stage.caller.project_id, "X-API-Key": key}
    refused = client.post("/event-import", json=asked, headers=headers)
    taken = client.post("/event-import", json={**asked, "collection": "visits"}, headers=headers)

    assert (refused.status_code, taken.status_code) == (409, 201)
    assert "replace" in refused.get_json()["errorMessage"]
    assert stage.status(taken.headers["Location"].rsplit("/", 1)[1]).mapping.on_duplicate == "keep"


def test_an_upsert_from_request_to_receipt(client: FlaskClient, stage: Stage, key: str) -> None:
    found = {}
    for bodies in ([{"n": 1, "v": "a"}, {"n": 2, "v": "a"}], [{"n": 2, "v": "b"}, {"n": 2, "v": "c"}, {"n": 3}]):
        ref = stage.put(ndjson(*bodies))
        found = ask(client, key, {"id": "n", "onDuplicate": "replace"}, url=ref.url).get_json()
        plan_import(stage.runtime, found["id"])
        for chunk_id in stage.chunk_ids(found["id"]):
            load.load_chunk(stage.runtime, chunk_id)
    ended = client.get(found["links"]["self"], headers={"Authorization": f"Bearer {key}"}).get_json()

    counts = {"lines": 3, "imported": 1, "replaced": 1, "duplicates": 1, "rejected": 0, "blank": 0}
    assert (ended["status"], ended["counts"]) == ("completed", counts)
    assert [row.payload for row in stage.rows("orders")] == [b'{"n": 1, "v": "a"}', b'{"n": 2, "v": "c"}', b'{"n": 3}']


def test_an_idempotency_key_tells_a_default_that_is_named_from_one_that_is_not(client: FlaskClient, key: str) -> None:
    header = {"Idempotency-Key": "order-8"}
    first = ask(client, key, None, **header)

    assert ask(client, key, {}, **header).data == first.data
    assert ask(client, key, {"onDuplicate": "keep"}, **header).status_code == 422


@pytest.mark.parametrize(
    ("mapping", "field"),
    [
        ({"onDuplicate": "explode"}, "onDuplicate"),
        ({"onDuplicate": None}, "onDuplicate"),
        ({"types": {"a": "date"}}, "types"),
        ({"types": {"": "number"}}, "types"),
        ({"types": ["a"]}, "types"),
        ({"types": {f"column-{n}": "number" for n in range(1001)}}, "types"),
        ({"quotedLineBreaks": "yes"}, "quotedLineBreaks"),
    ],
)
def test_a_mapping_that_is_not_valid_names_the_field(
    client: FlaskClient, key: str, mapping: dict[str, Any], field: str
) -> None:
    answer = ask(client, key, mapping)

    assert answer.status_code == 422
    assert answer.get_json()["errors"]["mapping"][field]


def test_odd_names_come_back_as_they_went_in(client: FlaskClient, key: str) -> None:
    mapping = {"id": ["\x00", "\u2028", "ü"], "types": {"\x00": "number", '"': "string"}}
    found = ask(client, key, mapping).get_json()["mapping"]

    assert {name: found[name] for name in mapping} == mapping


def test_the_openapi_document_says_what_a_mapping_may_be(client: FlaskClient) -> None:
    mapping = client.get("/api/openapi.json").get_json()["components"]["schemas"]["MappingRequest"]["properties"]

    assert mapping["onDuplicate"]["enum"] == ["keep", "replace"]
    assert mapping["types"]["additionalProperties"]["enum"] == ["string", "number", "boolean"]
    assert mapping["quotedLineBreaks"]["type"] == "boolean"
