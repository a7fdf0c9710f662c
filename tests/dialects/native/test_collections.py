"""The native wire of collections: what they hold, their events, and their end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import collecting
from api.callers import PUSH, QUERY, create_key
from common.ledger import collections
from common.model.mapping import Mapping
from common.model.query import parse_query
from tests.stage import Stage, event, ndjson
from workers.sweep import sweep

BY_TIME = Mapping(id_names=("id",), time_names=("timestamp",))
LINES = [
    b'{"id":"a","timestamp":"2015-07-28T00:00:30.295Z","price": 25.00,"big":123456789012345678901234567890}',
    b'{"price":1e2, "id":"b","timestamp":"2015-07-28T00:00:31.000001Z","name":"\\u00fc","name":"\xc3\xbc"}',
    b'{"timestamp":"0001-01-01","id":"c","odd":"\\u0000","price":25}',
    b'{"timestamp":"9999-12-31T23:59:59.999999Z","id":"d"}',
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def get(client: FlaskClient, key: str) -> Any:
    return lambda path, **query: client.get(path, query_string=query, headers=bearer(key))


def pages(get: Any, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of a list until its end."""
    page: dict[str, Any] = {"next": None}
    while "items" not in page or page["next"]:
        cursor = {"cursor": page["next"]} if page["next"] else {}
        answer = get(path, **query, **cursor)
        assert answer.status_code == 200, answer.text
        page = answer.get_json()
        yield page


def test_collections_are_listed_by_name_with_what_they_hold(get: Any, stage: Stage) -> None:
    stage.run(b"\n".join(LINES) + b"\n", collection="orders", mapping=BY_TIME)
    stage.run(ndjson(event("a")), collection="Aa")
    stage.start(ndjson(event("a")), collection="empty")
    names = [item["name"] for page in pages(get, "/api/collections", limit=1) for item in page["items"]]
    assert sorted(names) == sorted(["orders", "Aa", "empty"])

    (orders,) = (item for item in get("/api/collections").get_json()["items"] if item["name"] == "orders")
    assert orders == get("/api/collections/orders").get_json()
    assert orders.pop("createdAt").endswith("Z")
    assert orders == {
        "name": "orders",
        "events": 4,
        "bytes": sum(len(line) + 1 for line in LINES),
        "firstTime": "0001-01-01T00:00:00.000000Z",
        "lastTime": "9999-12-31T23:59:59.999999Z",
        "timeIndex": False,
    }
    empty = get("/api/collections/empty").get_json()
    assert (empty["events"], empty["bytes"], empty["firstTime"]) == (0, 0, None)


def test_events_come_back_byte_for_byte_by_id_with_their_times(get: Any, stage: Stage) -> None:
    stage.run(b"\n".join(LINES) + b"\n", collection="orders", mapping=BY_TIME)
    answer = get("/api/collections/orders/events")
    page = answer.get_json()

    assert page["next"] is None
    assert [item["id"] for item in page["items"]] == sorted(item["id"] for item in page["items"])
    assert {item["time"] for item in page["items"]} == {
        "2015-07-28T00:00:30.295000Z",
        "2015-07-28T00:00:31.000001Z",
        "0001-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
    }
    assert all(b'"event":' + line + b"}" in answer.data for line in LINES)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"filter": '{"price": 25}'}, "ac"),
        ({"filter": '{"odd": {"exists": true}}'}, "c"),
        ({"filter": '{"odd": {"exists": false}}', "timeframe": '{"end": "2020-01-01"}'}, "ab"),
        ({"timeframe": '{"start": "2015-07-28T00:00:31Z"}'}, "bd"),
        ({"timeframe": "today"}, ""),
        ({"timeframe": "last_year", "timezone": "Australia/Brisbane"}, ""),
        ({"timeframe": '"today"', "timezone": "9.5"}, ""),
        ({"filter": "{}"}, "abcd"),
        ({"filter": ""}, "abcd"),
    ],
)
def test_a_query_chooses_events(get: Any, stage: Stage, query: dict[str, str], found: str) -> None:
    stage.run(b"\n".join(LINES) + b"\n", collection="orders", mapping=BY_TIME)
    items = [item for page in pages(get, "/api/collections/orders/events", limit=1, **query) for item in page["items"]]

    assert sorted(item["event"]["id"] for item in items) == list(found)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"filter": "{"}, 422, "filter"),
        ({"filter": "today"}, 422, "filter"),
        ({"filter": '{"price": {"near": 5}}'}, 422, "filter.price.near"),
        ({"timeframe": "tomorrow"}, 422, "timeframe"),
        ({"timezone": "9.5"}, 422, "timezone"),
        ({"timeframe": "today", "timezone": "Mars/Base"}, 422, "timezone"),
    ],
)
def test_a_query_that_is_none_is_refused_with_the_parameter_at_fault(
    get: Any, stage: Stage, query: dict[str, str], status: int, field: str
) -> None:
    stage.run(ndjson(event("a")))
    answer = get("/api/collections/events/events", **query)

    assert (answer.status_code, answer.get_json()["field"]) == (status, field)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"cursor": "7"}, {"filtre": "{}"}])
def test_a_parameter_that_is_none_is_refused(get: Any, stage: Stage, query: dict[str, Any]) -> None:
    stage.run(ndjson(event("a")))
    assert get("/api/collections/events/events", **query).status_code == 422


EVENTS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans(), st.integers(0, 60)), min_size=1, max_size=25
)


@given(data=st.data(), drawn=EVENTS, limit=st.integers(1, 7), looks=st.integers(1, 9), most_bytes=st.integers(1, 300))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_hold_each_event_that_matches_once_wherever_they_end(
    stage: Stage, data: st.DataObject, drawn: list[tuple[int, int, bool, int]], limit: int, looks: int, most_bytes: int
) -> None:
    lines = [
        json.dumps({"id": n, "price": price, "note": "\0" if odd else "", "filler": "x" * size}).encode()
        for n, price, odd, size in drawn
    ]
    name = uuid.uuid4().hex  # not drawn: a replayed example must not meet its own rows
    stage.runtime.settings = stage.worker(import_limit=10**6).settings
    stage.run(b"\n".join(lines) + b"\n", collection=name, mapping=BY_TIME)
    asked = data.draw(st.sampled_from([{}, {"filter": {"price": {"gt": 1}}}, {"filter": {"price": 9}}]))
    found: list[bytes] = []
    after = None
    with stage.runtime.database.transaction() as tx:
        collection = collections.find(tx, stage.caller.project_id, name)
        assert collection
        query = parse_query(asked, now=collections.read_clock(tx))
    for _ in range(len(lines) + 2):
        with stage.runtime.database.transaction() as tx:
            items, after = collections.read_events(
                tx, collection.id, query, after=after, limit=limit, most_bytes=most_bytes, most_looks=looks
            )
        assert len(items) <= limit
        assert sum(len(item.payload) for item in items[:-1]) < most_bytes
        found += [item.payload for item in items]
        if after is None:
            break
    assert after is None, "it never ends"
    stored = [row.payload for row in stage.rows(name)]
    assert sorted(found) == sorted(payload for payload in stored if query.matches(payload))


def test_a_page_ends_where_it_has_looked_at_enough(get: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_PAGE_LOOKS", 3)
    stage.run(ndjson(*({"$unique_id": n, "n": n} for n in range(10))))
    found = list(pages(get, "/api/collections/events/events", filter='{"n": 4}'))

    assert len(found) == 4
    assert [item["event"]["n"] for page in found for item in page["items"]] == [4]


def test_a_deleted_collection_answers_404_and_its_name_starts_anew(
    client: FlaskClient, get: Any, stage: Stage, key: str
) -> None:
    stage.run(ndjson(event("a")))
    deleted = client.delete("/api/collections/events", headers=bearer(key))
    assert (deleted.status_code, deleted.data) == (204, b"")

    for answer in (
        client.delete("/api/collections/events", headers=bearer(key)),
        get("/api/collections/events"),
        get("/api/collections/events/events"),
    ):
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
    assert get("/api/collections").get_json() == {"items": [], "next": None}
    stage.run(ndjson(event("a"), event("b")))
    sweep(stage.runtime)
    assert get("/api/collections/events").get_json()["events"] == 2


def test_a_collection_in_use_is_not_deleted_and_says_by_whom(client: FlaskClient, stage: Stage, key: str) -> None:
    import_id = stage.start(ndjson(event("a")))
    answer = client.delete("/api/collections/events", headers=bearer(key))
    problem = answer.get_json()

    assert (answer.status_code, problem["code"]) == (409, "collection_in_use")
    assert (problem["activeImports"], problem["activeExports"]) == ([import_id], [])


def test_each_verb_asks_for_its_scope(client: FlaskClient, stage: Stage) -> None:
    stage.run(ndjson(event("a")))
    with stage.runtime.database.transaction() as tx:
        push = create_key(tx, stage.caller.project_id, [PUSH])
        query = create_key(tx, stage.caller.project_id, [QUERY])
    assert client.get("/api/collections", headers=bearer(push)).status_code == 200
    assert client.get("/api/collections/events/events", headers=bearer(push)).status_code == 403
    assert client.get("/api/collections/events/events", headers=bearer(query)).status_code == 200
    for key in (push, query):
        assert client.delete("/api/collections/events", headers=bearer(key)).status_code == 403
    assert client.get("/api/collections").status_code == 401


def test_another_projects_collection_is_unknown(get: Any, stage: Stage, settings: Any) -> None:
    other = Stage(settings, stage.bucket)
    other.run(ndjson(event("a")), collection="theirs")
    other.close()

    assert get("/api/collections/theirs").status_code == 404
    assert get("/api/collections/theirs/events").status_code == 404
    assert get("/api/collections").get_json()["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/collections/a%00", 404),
        ("GET", "/api/collections/a%00/events", 404),
        ("DELETE", "/api/collections/a%00", 404),
        ("GET", "/api/collections?cursor=a%00", 422),
    ],
)
def test_a_name_that_no_row_can_have_is_no_mistake_of_ours(
    client: FlaskClient, key: str, method: str, path: str, status: int
) -> None:
    assert client.open(path, method=method, headers=bearer(key)).status_code == status
