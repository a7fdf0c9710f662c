"""Pinpoint's wire: endpoints one by one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pinpoint import parse, render
from common.model.collections import StoredEvent
from tests.dialects.pinpoint.asking import Asking
from tests.stage import ndjson

GOOD = {"ChannelType": "EMAIL", "Address": "a@example.com"}
EMPTY: dict[str, Any] = {"Attributes": {}, "Demographic": {}, "Location": {}, "Metrics": {}, "User": {}}
FULL = {
    **GOOD,
    "Attributes": {"Ride": ["Bus", "Train"]},
    "Demographic": {"AppVersion": "1", "Locale": "en", "Make": "Apple", "Model": "x", "ModelVersion": "2",
                    "Platform": "ios", "PlatformVersion": "17", "Timezone": "Europe/Paris"},
    "EffectiveDate": "2018-06-05T21:49:15.288Z",
    "EndpointStatus": "INACTIVE",
    "Location": {"City": "Paris", "Country": "FR", "Latitude": 48.85, "Longitude": 2.35, "PostalCode": "75001",
                 "Region": "IDF"},
    "Metrics": {"miles": 12.50, "n": 3},
    "OptOut": "ALL",
    "RequestId": "mine",
    "User": {"UserId": "u", "UserAttributes": {"k": ["v"]}},
}  # fmt: skip


def test_an_endpoint_comes_back_as_it_was_put(ask: Asking) -> None:
    answer = ask("PUT", "/endpoints/e1", FULL)
    assert (answer.status_code, answer.get_json()) == (
        202,
        {"Message": "Accepted", "RequestID": answer.headers["x-amzn-RequestId"]},
    )

    found = ask.endpoint("e1")
    created = found.pop("CreationDate")
    assert found.pop("CohortId") in {str(n) for n in range(100)}
    assert found == {**FULL, "Id": "e1", "ApplicationId": ask.app}
    assert abs((datetime.fromisoformat(created) - datetime.now(UTC)).total_seconds()) < 60


def test_what_an_endpoint_has_not_is_told_as_the_service_tells_it(ask: Asking) -> None:
    ask.told("PUT", "/endpoints/e1", GOOD, status=202)
    found = ask.endpoint("e1")

    assert found["EffectiveDate"] == found["CreationDate"]
    assert found == {
        **GOOD,
        **EMPTY,
        "ApplicationId": ask.app,
        "CohortId": found["CohortId"],
        "CreationDate": found["CreationDate"],
        "EffectiveDate": found["CreationDate"],
        "EndpointStatus": "ACTIVE",
        "Id": "e1",
        "OptOut": "NONE",
    }


def test_an_endpoint_is_replaced_whole_and_the_id_of_the_path_counts(ask: Asking) -> None:
    ask.told("PUT", "/endpoints/e1", FULL, status=202)
    ask.told("PUT", "/endpoints/e1", {**GOOD, "Id": "other"}, status=202)

    assert ask.endpoint("e1")["Attributes"] == {}
    assert ask("GET", "/endpoints/other").status_code == 404
    assert len(ask.stored()) == 1


@pytest.mark.parametrize("name", ["a b", "a/b", "a%2Fb", "é/ü", "a+b", "a?b#c", "a//b", "a/", "ሴ", "%", "x" * 512,
                                  "00000000-0000-4000-8000-000000000000", "a\\b", '"'])  # fmt: skip
def test_an_id_may_hold_what_a_string_may(ask: Asking, name: str) -> None:
    path = f"/endpoints/{quote(name, safe='')}"
    ask.told("PUT", path, GOOD, status=202)

    assert ask.endpoint(name)["Id"] == name
    assert ask.told("DELETE", path, status=202)["Id"] == name
    assert ask("GET", path).status_code == 404


def test_a_deleted_endpoint_is_returned_and_gone(ask: Asking) -> None:
    ask.told("PUT", "/endpoints/e1", GOOD, status=202)
    before = ask.endpoint("e1")

    assert ask.told("DELETE", "/endpoints/e1", status=202) == before
    for method in ("GET", "DELETE"):
        assert ask.refused(method, "/endpoints/e1")[:2] == (404, "NotFoundException")
    assert ask.stored() == []


@pytest.mark.parametrize("name", ["nothing", "%00", "a" * 600, "%ED%A0%80"])
def test_an_endpoint_that_there_is_not_is_not_found(ask: Asking, name: str) -> None:
    for method in ("GET", "DELETE"):
        assert ask.refused(method, f"/endpoints/{name}")[:2] == (404, "NotFoundException")
    ask.told("PUT", "/endpoints/e1", GOOD, status=202)
    assert ask.refused("GET", f"/endpoints/{name}")[:2] == (404, "NotFoundException")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "endpoint"),
        (b"[]", "endpoint"),
        (b"[" * 5000, "endpoint"),
        (b'{"Address": "\\ud800"}', "endpoint"),
        (b'{"Address": NaN}', "endpoint"),
        (b'{"Metrics": {"a": 1e999}}', "endpoint"),
        ({"Address": "a"}, "no Address"),
        ({"ChannelType": "SMS"}, "no Address"),
        ({**GOOD, "Address": None}, "no Address"),
        ({**GOOD, "ChannelType": "FAX"}, "ChannelType"),
        ({**GOOD, "OptOut": True}, "OptOut"),
        ({**GOOD, "Attributes": {"a": "b"}}, "Attributes.a"),
        ({**GOOD, "Attributes": [1]}, "Attributes"),
        ({**GOOD, "Attributes": {f"a{n}": n for n in range(1000)}}, "Attributes.a0"),
        ({**GOOD, "Metrics": {"a": "b"}}, "Metrics.a"),
        ({**GOOD, "Metrics": {"a": [1]}}, "Metrics.a"),
        ({**GOOD, "User": "u"}, "User"),
        ({**GOOD, "User": {"UserId": "x" * 20_000}}, "longer"),
    ],
)
def test_what_is_no_endpoint_is_refused_and_nothing_is_stored(ask: Asking, body: Any, named: str) -> None:
    status, error, message = ask.refused("PUT", "/endpoints/e1", body)

    assert (status, error) == (400, "BadRequestException")
    assert named in message
    assert len(message) < 2000
    assert ask.stored() == []


def test_an_id_over_the_limit_is_refused(ask: Asking) -> None:
    assert ask.refused("PUT", f"/endpoints/{'x' * 513}", GOOD)[:2] == (400, "BadRequestException")


def test_a_batch_is_stored_and_of_one_id_the_last_counts(ask: Asking) -> None:
    items = [{**GOOD, "Id": f"e{n}", "Address": str(n)} for n in range(99)] + [{**GOOD, "Id": "e0", "Address": "last"}]
    ask.told("PUT", "/endpoints", {"Item": items}, status=202)

    assert len(ask.stored()) == 99
    assert ask.endpoint("e0")["Address"] == "last"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", {}, {"Item": None}, {"Item": {}}, {"Item": []}, {"Item": [1]}, {"Item": [GOOD]},
     {"Item": [{**GOOD, "Id": 7}]}, {"Item": [{**GOOD, "Id": ""}]}, {"Item": [{**GOOD, "Id": "a", "ChannelType": "x"}]},
     {"Item": [{**GOOD, "Id": str(n)} for n in range(101)]}],
)  # fmt: skip
def test_a_batch_that_is_none_is_refused_whole(ask: Asking, body: Any) -> None:
    status, error, message = ask.refused("PUT", "/endpoints", body)

    assert (status, error) == (400, "BadRequestException")
    assert len(message) < 2000
    assert ask.stored() == []


def test_a_batch_tells_which_endpoints_were_not_taken(ask: Asking) -> None:
    items = [{**GOOD, "Id": "a"}, {"Id": "b", "ChannelType": "SMS"}, {**GOOD, "Id": "c" * 600}]
    _, _, message = ask.refused("PUT", "/endpoints", {"Item": items})

    assert "2 of 3" in message
    assert ("Item.0" in message, "Item.1" in message, "Item.2" in message) == (False, True, True)
    assert [json.loads(line)["Id"] for line in ask.stored()] == ["a"]


def test_the_endpoints_of_a_user_are_found(ask: Asking) -> None:
    for name, user in (("a", "u.1"), ("b", "u.1"), ("c", "u.2")):
        ask.told("PUT", f"/endpoints/{name}", {**GOOD, "User": {"UserId": user}}, status=202)

    found = ask.told("GET", "/users/u.1")["Item"]
    assert {one["Id"] for one in found} == {"a", "b"}
    assert sorted(found, key=lambda one: one["Id"])[0] == ask.endpoint("a")


@pytest.mark.parametrize("name", ["nobody", "a" * 600, "%ED%A0%80", "a/b"])
def test_a_user_that_there_is_not_is_not_found(ask: Asking, name: str) -> None:
    assert ask.refused("GET", f"/users/{name}")[:2] == (404, "NotFoundException")
    ask.told("PUT", "/endpoints/e1", GOOD, status=202)
    assert ask.refused("GET", f"/users/{name}")[:2] == (404, "NotFoundException")
    assert ask.refused("GET", "/users/%00")[:2] == (400, "BadRequestException")


def test_a_user_of_too_many_endpoints_is_refused(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "MOST_OF_A_USER", 1)
    for name in ("a", "b"):
        ask.told("PUT", f"/endpoints/{name}", {**GOOD, "User": {"UserId": "u"}}, status=202)

    assert ask.refused("GET", "/users/u")[:2] == (413, "PayloadTooLargeException")


def test_what_csv_has_no_types_for_is_told_in_its_form(ask: Asking) -> None:
    ask.run(
        b"Id,ChannelType,Address,Metrics.miles,Metrics.none,Metrics.word,Attributes.Ride,Attributes.none,"
        b"Location.Latitude,Location.City,User.UserId,User.UserAttributes.k,OptOut\n"
        b"a,SMS,1,12.50,,x,Bus,,48.850,,u,v,\n",
        "CSV",
    )
    answer = ask("GET", "/endpoints/a")

    assert b'"miles":12.50' in answer.data.replace(b": ", b":"), "the digits of the file"
    found = answer.get_json()
    assert found["Metrics"] == {"miles": 12.5}
    assert found["Attributes"] == {"Ride": ["Bus"]}
    assert found["Location"] == {"Latitude": 48.85}
    assert found["User"] == {"UserId": "u", "UserAttributes": {"k": ["v"]}}
    assert found["OptOut"] == "NONE"


def test_a_header_that_is_repeated_is_an_attribute_of_several_values(ask: Asking) -> None:
    ask.run(b"Id,ChannelType,Address,Attributes.Ride,Attributes.Ride\na,SMS,1,Bus,Train\nb,SMS,1,Bus,\n", "CSV")

    assert ask.endpoint("a")["Attributes"] == {"Ride": ["Bus", "Train"]}
    assert ask.endpoint("b")["Attributes"] == {"Ride": ["Bus"]}


def test_endpoints_that_are_pushed_into_a_collection_that_keeps_are_refused(ask: Asking) -> None:
    ask.stage.run(ndjson({"Id": "a"}), collection="endpoints")

    for answer in (
        ask.refused("PUT", "/endpoints/a", GOOD),
        ask.refused("POST", "/jobs/import", {"S3Url": "s3://bucket/a", "RoleArn": "arn:aws:iam::123456789012:role/r",
                                             "Format": "JSON"}),
    ):  # fmt: skip
        assert answer[:2] == (409, "ConflictException")


_text = st.text('aé\0"\\ 1.-e😀', max_size=4)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_NAMES = [*FULL, "Id", "CreationDate"]


@given(st.dictionaries(st.sampled_from(_NAMES), _json), st.booleans())
def test_whatever_is_stored_is_told_in_the_form_of_an_endpoint(line: dict[str, Any], spaced: bool) -> None:
    payload = json.dumps(line, ensure_ascii=False, separators=(" , ", " : ") if spaced else (",", ":")).encode()
    event = StoredEvent("00000000-0000-4000-8000-000000000000", datetime(2026, 1, 1, tzinfo=UTC), payload)

    found = msgspec.json.decode(render.endpoint(event, "app"))

    assert all(isinstance(found[name], str) for name in ("Id", "CohortId", "CreationDate", "EffectiveDate", "OptOut"))
    for values in (*found["Attributes"].values(), *found["User"].get("UserAttributes", {}).values()):
        assert all(isinstance(value, str) for value in values)
    assert all(isinstance(value, (int, float)) for value in found["Metrics"].values())
    assert all(isinstance(value, str) for value in found["Demographic"].values())
