"""Connect's push: one event, or a batch, by the forms that its clients parse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.callers import QUERY, create_key
from common.settings import Settings
from tests.dialects.connect.test_event_import import headers
from tests.stage import Stage

TOO_LARGE = {"errorMessage": "Maximum event size of 64kb exceeded."}
RESERVED = {"errorMessage": "Property names starting with tp_ are reserved and cannot be set."}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Take lines as long as the service does by default: longer than Connect's events."""
    return replace(settings, max_line_bytes=1024 * 1024)


@pytest.fixture
def sent(stage: Stage, key: str) -> dict[str, str]:
    return headers(stage, key)


def stored(stage: Stage, collection: str = "purchases") -> list[bytes]:
    return [row.payload for row in stage.rows(collection)]


def test_an_event_is_stored_in_the_bytes_it_came_in_and_the_answer_is_empty(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    body = b' \n{"b": 25.00, "a":1e2,\r\n\t"a": "\\u00e9\xc3\xa9", "big": 123456789012345678901234567890}\n'
    answer = client.post("/events/purchases", data=body, headers=sent)

    assert (answer.status_code, answer.data) == (200, b"")
    assert stored(stage) == [body.strip().replace(b"\r\n", b"  ")]


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "application/json; charset=utf-8", "x/y"])
def test_an_event_is_read_as_json_whatever_type_it_claims(
    client: FlaskClient, stage: Stage, sent: dict[str, str], kind: str | None
) -> None:
    sent.pop("Content-Type")
    answer = client.post(
        "/events/purchases", data=b'{"a":1}', headers={**sent, **({"Content-Type": kind} if kind else {})}
    )

    assert (answer.status_code, stored(stage)) == (200, [b'{"a":1}'])


def test_the_same_id_twice_is_a_silent_success_and_one_event(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    answers = [client.post("/events/purchases", data=b'{"id":"a","n":%d}' % n, headers=sent) for n in (1, 2)]

    assert [(answer.status_code, answer.data) for answer in answers] == [(200, b"")] * 2
    assert stored(stage) == [b'{"id":"a","n":1}']


def test_events_without_an_id_are_all_stored_and_have_the_time_of_the_request(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    (before,) = stage.query("SELECT clock_timestamp() AS at")
    for _ in range(2):
        client.post("/events/purchases", data=b'{"n":1}', headers=sent)
    (after,) = stage.query("SELECT clock_timestamp() AS at")

    assert stored(stage) == [b'{"n":1}'] * 2
    rows = stage.query(
        "SELECT e.time FROM events AS e JOIN pushes AS p ON p.number = e.import_number WHERE p.project_id = %(id)s"
        " ORDER BY time DESC",
        id=stage.caller.project_id,
    )
    assert before.at <= rows[1].time <= rows[0].time <= after.at


@pytest.mark.parametrize(
    ("event", "status", "answer"),
    [
        (b'{"tp_a":1}', 400, RESERVED),
        (b'{"a":{"tp_a":1},"Tp_B":1}', 400, RESERVED),
        (rb'{"\u0074p_a":1}', 400, RESERVED),
        (b'{"_id":1}', 400, {"errorMessage": "The property name _id is reserved and cannot be set."}),
        (b'{"a":[{"b.c":1}]}', 400, {"errorMessage": "Property names cannot contain a period (.)."}),
        (rb'{"a":{"b\u002ec":1}}', 400, {"errorMessage": "Property names cannot contain a period (.)."}),
        (
            b'{"a":{"%s":1}}' % (b"x" * 256),
            400,
            {"errorMessage": "Property names cannot be longer than 255 characters."},
        ),
        (b"[]", 400, {"errorMessage": "The event is valid JSON but not an object."}),
        (b"", 400, {"errorMessage": "The JSON specified was not valid."}),
        (b'{"a":NaN}', 400, {"errorMessage": "The JSON specified was not valid."}),
        (b'{"a":1}{"b":1}', 400, {"errorMessage": "The JSON specified was not valid."}),
        (b'{"a":"x\ny"}', 400, {"errorMessage": "The JSON specified was not valid."}),
        (b'{"a":"\xff"}', 400, {"errorMessage": "The event is not valid UTF-8."}),
        (b'{"a":"%s"}' % (b"x" * 65529), 413, TOO_LARGE),
        (b" " * 100 + b'{"a":"%s"}' % (b"x" * 65529), 413, TOO_LARGE),
        (b'{"a":"%s"}' % (b"x" * 2_000_000), 413, TOO_LARGE),
        (
            b'{"id":1.5}',
            422,
            {"errors": [{"field": "id", "description": "The id is neither a string nor an integer."}]},
        ),
        (b'{"id":""}', 422, {"errors": [{"field": "id", "description": "The id is an empty string."}]}),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused_in_connects_form(
    client: FlaskClient, stage: Stage, sent: dict[str, str], event: bytes, status: int, answer: dict[str, Any]
) -> None:
    found = client.post("/events/purchases", data=event, headers=sent)

    assert (found.status_code, found.get_json()) == (status, answer)
    assert not stage.query("SELECT FROM collections WHERE project_id = %(id)s", id=stage.caller.project_id)


@pytest.mark.parametrize(
    "event",
    [
        b'{"a.b":1}'.replace(b".", b"_"),
        b'{"a":"tp_a._id","b":["c.d:"]}',
        b'{"a":{"tp_b":1,"_id":2}}',
        b'{"a":"\\".b\\":"}',
        b'{"%s":1}' % ("é" * 255).encode(),
        b'{"a":"%s"}' % (b"x" * 65528),
    ],
)
def test_what_only_looks_like_a_forbidden_name_is_taken(
    client: FlaskClient, stage: Stage, sent: dict[str, str], event: bytes
) -> None:
    assert client.post("/events/purchases", data=event, headers=sent).status_code == 200
    assert stored(stage) == [event]


def test_a_time_that_is_none_is_told_by_its_field(client: FlaskClient, sent: dict[str, str]) -> None:
    answer = client.post("/events/purchases", data=b'{"timestamp":"yesterday"}', headers=sent)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == ["timestamp"]


@pytest.mark.parametrize(
    ("time", "stored_as"),
    [
        ("2015-07-28T00:00:30.295Z", "2015-07-28 00:00:30.295"),
        ("2015-07-28T10:00:30+10:00", "2015-07-28 00:00:30"),
        ("2015-07-28T10:00:30+1000", "2015-07-28 00:00:30"),
        ("2015-09-30T06:02:04.602001", "2015-09-30 06:02:04.602001"),
    ],
)
def test_the_times_that_its_clients_write_are_read(
    client: FlaskClient, stage: Stage, sent: dict[str, str], time: str, stored_as: str
) -> None:
    client.post("/events/times", data=json.dumps({"id": "t", "timestamp": time}), headers=sent)

    (row,) = stage.query(
        "SELECT e.time::timestamp::text AS time FROM events AS e JOIN collections AS c ON c.id = e.collection_id"
        " WHERE c.project_id = %(id)s",
        id=stage.caller.project_id,
    )
    assert row.time == stored_as


@pytest.mark.parametrize("path", ["/events", "/events/"])
def test_a_batch_tells_of_each_event_in_its_order(
    client: FlaskClient, stage: Stage, sent: dict[str, str], path: str
) -> None:
    client.post("/events/a", data=b'{"id":"old"}', headers=sent)
    body = b"""{
        "b": [{"id": 1}, {"tp_x": 1}, {"id": 1, "n": 2}, 7, {"x": "\\ud800"}, {"id": "", "n": 1},
              {"timestamp": true}, {"n":
              25.00}],
        "a": [{"id":"old"}, {"id":"new"}],
        "none": [],
        "a/b": [{"id":"x"}]
    }"""
    answer = client.post(path, data=body, headers=sent)

    assert answer.status_code == 200
    found = answer.get_json()
    assert list(found) == ["b", "a", "none", "a/b"]
    assert [item["success"] for item in found["b"]] == [True, False, True, False, False, False, False, True]
    assert [item.get("duplicate") for item in found["b"]] == [None, None, True, None, None, None, None, None]
    assert all(item["message"] for item in found["b"] if not item["success"])
    assert found["b"][1]["message"] == RESERVED["errorMessage"]
    assert found["a"] == [{"success": True, "duplicate": True}, {"success": True}]
    assert found["none"] == []
    assert [item["success"] for item in found["a/b"]] == [False]
    assert stored(stage, "b") == [b'{"id": 1}', b'{"n":               25.00}']
    assert stored(stage, "a") == [b'{"id":"old"}', b'{"id":"new"}']
    assert not stage.query(
        "SELECT FROM collections WHERE project_id = %(id)s AND name = 'none'", id=stage.caller.project_id
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"a":{}}', b'{"a":[1}', b'{"a":[{"b":NaN}]}', b'{"\\ud800":[]}', b'{"a":[],}',
     b'{"a":[%s]}' % (b"[" * 3000 + b"]" * 3000)],
)  # fmt: skip
def test_a_document_that_is_no_batch_is_refused_whole(client: FlaskClient, sent: dict[str, str], body: bytes) -> None:
    answer = client.post("/events", data=body, headers=sent)

    assert (answer.status_code, set(answer.get_json())) == (400, {"errorMessage"})


def test_half_a_surrogate_pair_refuses_its_own_event_and_no_other(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    body = rb'{"a":[{"x":"\ud83d\ude00"},{"x":"\ude00\ud83d"},{"x":"\\ud800"},{"\ud800":1},{"x":1}]}'
    items = client.post("/events", data=body, headers=sent).get_json()["a"]

    assert [item["success"] for item in items] == [True, False, True, False, True]
    assert "surrogate" in items[1]["message"]
    assert stored(stage, "a") == [rb'{"x":"\ud83d\ude00"}', rb'{"x":"\\ud800"}', b'{"x":1}']


def test_a_batch_of_five_thousand_is_taken_and_one_more_is_not(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    full: dict[str, Any] = {"a": [{"id": n} for n in range(2_500)], "b": [{"id": n} for n in range(2_500)]}
    answer = client.post("/events", json=full, headers=sent)
    more = client.post("/events", json={**full, "c": [{}]}, headers=sent)

    assert answer.status_code == 200
    assert (more.status_code, set(more.get_json())) == (413, {"errorMessage"})
    assert (len(stored(stage, "a")), len(stored(stage, "b"))) == (2_500, 2_500)


def test_a_batch_may_be_larger_than_other_bodies_but_not_without_end(client: FlaskClient, sent: dict[str, str]) -> None:
    events = [{"id": n, "x": "x" * 60_000} for n in range(60)]
    assert client.post("/events", json={"a": events}, headers=sent).status_code == 200
    answer = client.post("/events", data=b" " * (16 * 1024 * 1024 + 1), headers=sent)

    assert (answer.status_code, set(answer.get_json())) == (413, {"errorMessage"})


def test_a_key_that_may_only_query_pushes_nothing_and_a_stranger_learns_nothing(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    with stage.runtime.database.transaction() as tx:
        query_key = create_key(tx, stage.caller.project_id, [QUERY])
    for path in ("/events/a", "/events", "/events/"):
        for key, status in ((query_key, 403), ("nonsense", 401)):
            answer = client.post(path, data=b"{}", headers={**sent, "X-API-Key": key})
            assert (answer.status_code, set(answer.get_json())) == (status, {"errorMessage"})


def test_an_invalid_collection_is_named(client: FlaskClient, sent: dict[str, str]) -> None:
    answer = client.post(f"/events/{'x' * 256}", data=b"{}", headers=sent)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == ["collection"]


@pytest.mark.parametrize("path", ["/events/a", "/events", "/events/"])
def test_a_push_that_is_repeated_with_its_key_is_stored_once_and_answered_the_same(
    client: FlaskClient, stage: Stage, sent: dict[str, str], path: str
) -> None:
    body = b'{"n":1}' if path == "/events/a" else b'{"a":[{"n":1},{"tp_n":1},{"id":"x"},{"id":"x"}],"b":[],"a/b":[{}]}'
    once = {**sent, "Idempotency-Key": "once"}
    first, again = (client.post(path, data=body, headers=once) for _ in range(2))
    events = len(stored(stage, "a"))

    assert (first.status_code, again.status_code, again.data) == (200, 200, first.data)
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert first.headers["Content-Type"] == again.headers["Content-Type"]
    other = client.post(path, data=body.replace(b'"n":1', b'"n":2'), headers=once)
    assert (other.status_code, [error["field"] for error in other.get_json()["errors"]]) == (422, ["Idempotency-Key"])
    assert client.post(path, data=body, headers={**sent, "Idempotency-Key": "two"}).status_code == 200
    assert (events, len(stored(stage, "a"))) == ((1, 2) if path == "/events/a" else (2, 3))
    wrong = client.post(path, data=body, headers={**sent, "Idempotency-Key": ""})
    assert (wrong.status_code, set(wrong.get_json())) == (400, {"errorMessage"})


def test_a_push_that_was_refused_may_be_mended_and_sent_with_its_key(
    client: FlaskClient, stage: Stage, sent: dict[str, str]
) -> None:
    once = {**sent, "Idempotency-Key": "once"}
    answers = [client.post("/events/a", data=body, headers=once) for body in (b'{"tp_a":1}', b'{"tp_a":1}', b'{"a":1}')]

    assert [answer.status_code for answer in answers] == [400, 400, 200]
    assert stored(stage, "a") == [b'{"a":1}']


def test_unknown_paths_of_events_answer_in_connects_form(client: FlaskClient) -> None:
    for answer in (client.put("/events/a"), client.get("/events/a/b/c/d"), client.get("/collections")):
        assert set(answer.get_json()) == {"errorMessage"}
