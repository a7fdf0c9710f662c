"""Nexosis' wire: datasets are put, read by pages and times, listed, and deleted."""

from __future__ import annotations

import csv
import io
import json
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from api.callers import PUSH, QUERY, create_key
from api.nexosis import rows as bodies
from tests.dialects.nexosis import seed
from tests.dialects.nexosis.asking import Asking
from tests.stage import Stage, event, ndjson

#: As a client put it, and the service told it: a recorded dataset, but for its rows.
COLUMNS = {"es6-client": {"DataType": "numeric", "Role": "target"}, "time": {"DataType": "date", "Role": "timestamp"}}
TOLD = {
    "time": {"dataType": "date", "role": "timestamp"},
    "es6-client": {"dataType": "numeric", "role": "target", "imputation": "zeroes", "aggregation": "sum"},
}


def a_day(at: int) -> dict[str, str]:
    return {"time": f"2017-04-{at:02}T00:00:00.0000000Z", "es6-client": f"{at}.1096082511868"}


def a_month(days: int = 30) -> dict[str, Any]:
    return {"data": [a_day(at) for at in range(1, days + 1)], "columns": COLUMNS}


def put(ask: Asking, data: Any, name: str = "table", **columns: Any) -> dict[str, Any]:
    document: dict[str, Any] = ask.told("PUT", f"/data/{name}", {"data": data, "columns": columns}, status=201)
    return document


# --- the recorded shapes


def test_a_dataset_that_is_put_is_answered_as_it_was_recorded(ask: Asking) -> None:
    answer = ask("PUT", "/data/TestNode", a_month())
    document = answer.get_json()
    assert answer.status_code == 201, answer.text
    assert list(document) == [*seed.TABLE_MEMBERS, "links"]
    assert document.pop("dataSetSize") > 0
    assert document == {
        "dataSetName": "TestNode",
        "isTimeSeries": True,
        "columns": TOLD,
        "links": [{"rel": "data", "href": "http://localhost/v1/data/TestNode"}],
    }
    assert answer.headers["Location"] == "http://localhost/v1/data/TestNode"


def test_a_dataset_is_read_as_it_was_recorded(ask: Asking) -> None:
    ask("PUT", "/data/TestNode", a_month())
    document = ask.told("GET", "/Data/TestNode", query={"page": 0, "pageSize": 20})
    assert list(document) == [*seed.TABLE_MEMBERS, "data", *seed.PAGE_MEMBERS]
    assert document["columns"] == TOLD
    assert document["data"] == [a_day(at) for at in range(1, 21)]
    assert [document[name] for name in seed.PAGE_MEMBERS[:-1]] == [0, 2, 20, 30]
    here = "http://localhost/v1/data/TestNode?page=0&pageSize=20"
    assert document["links"] == [
        {"rel": "self", "href": here},
        {"rel": "first", "href": f"{here}&page=0"},
        {"rel": "next", "href": f"{here}&page=1"},
        {"rel": "last", "href": f"{here}&page=1"},
    ]


def test_csv_is_answered_where_it_is_asked_for(ask: Asking) -> None:
    ask("PUT", "/data/TestNode", a_month())
    for accept in ("text/csv", "text/csv;q=0.9, application/json;q=0.1", "text/*"):
        answer = ask("GET", "/data/TestNode", query={"pageSize": 5, "page": 1}, Accept=accept)
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        read = csv.DictReader(io.StringIO(answer.text, newline=""), strict=True)
        assert list(read) == [a_day(at) for at in range(6, 11)]
        assert read.fieldnames == ["time", "es6-client"] or read.fieldnames == ["es6-client", "time"]
    for accept in ("*/*", "application/json", "text/html", "", "nonsense;;q=x", "application/json, text/csv"):
        answer = ask("GET", "/data/TestNode", Accept=accept)
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8", accept


def test_datasets_are_listed_by_name_in_the_shapes_of_both_versions(ask: Asking, stage: Stage) -> None:
    for name in ("TestRuby", "RubyTest2", "Location-A"):
        put(ask, [{"a": "1"}], name)
    stage.run(ndjson(event("x")), collection="events")
    document = ask.told("GET", "/data")
    assert list(document) == ["items", *seed.PAGE_MEMBERS]
    assert sorted(item["dataSetName"] for item in document["items"]) == [
        "Location-A",
        "RubyTest2",
        "TestRuby",
        "events",
    ]
    for item in document["items"]:
        counts = ["dateCreated", "lastModified", "rowCount", "columnCount"]
        assert list(item) == [*seed.TABLE_MEMBERS, *counts, "links"]
        assert (item["rowCount"], item["columnCount"]) == (1, len(item["columns"]))
        assert item["dateCreated"].endswith("+00:00")
        assert item["links"][0]["href"] == f"http://localhost/v1/data/{item['dataSetName']}"
    found = ask.told("GET", "/data", query={"partialName": "ruby", "pageSize": 1, "page": 1})
    assert (found["totalCount"], len(found["items"])) == (2, 1)
    assert "partialName=ruby" in found["links"][0]["href"]
    assert ask.told("GET", "/data", query={"partialName": ""})["totalCount"] == 4
    assert ask.told("GET", "/data", query={"partialName": "%"})["totalCount"] == 0
    assert int(ask("GET", "/data").headers["Nexosis-Account-DataSetCount-Current"]) == 4


# --- rows


def test_cells_are_strings_with_the_digits_that_came_in(ask: Asking) -> None:
    body = b'{"data": [{"k": "1", "n": 25.00, "big": 123456789012345678901234567890, "t": true, "e": 1e2, "z": null, \
"o": {"a": [1.0]}, "s": "\\u00e9"}]}'
    ask("PUT", "/data/table", body)
    assert ask.rows() == [
        {
            "k": "1",
            "n": "25.00",
            "big": "123456789012345678901234567890",
            "t": "true",
            "e": "1e2",
            "z": None,
            "o": '{"a": [1.0]}',
            "s": "é",
        }
    ]


def test_a_row_of_a_known_key_takes_the_place_of_the_one_before(ask: Asking) -> None:
    key = {"id": {"role": "key"}}
    put(ask, [{"id": "a", "n": 1}, {"id": "b", "n": 2}], **key)
    put(ask, [{"id": "b", "n": 3}, {"id": "c", "n": 4}])
    assert {row["id"]: row["n"] for row in ask.rows()} == {"a": "1", "b": "3", "c": "4"}
    assert ask.told("GET", "/data/table")["isTimeSeries"] is False


def test_a_row_of_a_known_moment_takes_the_place_of_the_one_before_however_it_is_written(ask: Asking) -> None:
    put(ask, [{"time": "2017-01-01", "n": 1}, {"time": "2017-01-02", "n": 2}])
    put(ask, [{"time": "1/2/2017 0:00", "n": 3}, {"time": "2017-01-03T01:00:00+01:00", "n": 4}])
    days = [f"2017-01-0{at}T00:00:00.0000000Z" for at in (1, 2, 3)]
    assert [(row["time"], row["n"]) for row in ask.rows()] == [(days[0], "1"), (days[1], "3"), (days[2], "4")]


def test_rows_without_key_or_timestamp_are_all_others(ask: Asking) -> None:
    for _ in range(2):
        put(ask, [{"n": "1"}, {"n": "1"}])
    assert ask.rows() == [{"n": "1"}] * 4


def test_csv_is_put_as_json_is(ask: Asking) -> None:
    body = b'time,es6-client\r\n2017-04-01,"1,5"\r\n\r\n2017-04-02,\r\n'
    document = ask.told("PUT", "/data/table", body, status=201, Content_Type="text/csv; charset=utf-8")
    assert document["isTimeSeries"] is True
    assert [row["es6-client"] for row in ask.rows()] == ["1,5", ""]


def test_rows_are_chosen_by_their_times_both_ends_within(ask: Asking) -> None:
    ask("PUT", "/data/table", a_month())
    for query, days in (
        ({"startDate": "2017-04-28"}, [28, 29, 30]),
        ({"endDate": "04/02/2017"}, [1, 2]),
        ({"startDate": "2017-04-03T00:00:00.000Z", "endDate": "2017-04-04"}, [3, 4]),
        ({"startDate": "2018-01-01"}, []),
        ({"startDate": "", "endDate": ""}, [*range(1, 31)]),
    ):
        document = ask.told("GET", "/data/table", query=query)
        assert document["data"] == [a_day(at) for at in days], query
        assert document["totalCount"] == len(days)


def test_columns_are_chosen_by_include(ask: Asking) -> None:
    put(ask, [{"a": "1", "A": "2", "b": "3"}])
    for query, names in (
        ([("include", "a,b")], ["a", "b"]),
        ([("include", "b"), ("Include", "A")], ["A", "b"]),
        ([("include", "B,nothing")], ["b"]),
        ([("include", "nothing")], []),
    ):
        document = ask.told("GET", "/data/table", query=query)
        assert [*document["data"][0]] == names
        assert sorted(document["columns"]) == sorted(names)
        text = ask("GET", "/data/table", query=query, Accept="text/csv").text
        assert sorted(text.splitlines()[0].split(",")) == sorted(names or [""])


def test_whoever_follows_the_links_sees_every_row_once_in_order(ask: Asking) -> None:
    ask("PUT", "/data/a%2Cb%20c", a_month())
    href, seen = "http://localhost/v1/data/a%2Cb%20c?pageSize=7&startDate=2017-04-02", []
    while href:
        page = ask.told("GET", urlsplit(href).path.removeprefix("/v1"), query=parse_qsl(urlsplit(href).query))
        seen += page["data"]
        href = {one["rel"]: one["href"] for one in page["links"]}.get("next", "")
    assert seen == [a_day(at) for at in range(2, 31)]


def test_names_keep_their_case_and_what_they_are_written_with(ask: Asking) -> None:
    for name in ("Imports", "imports", "S3", "a b", "ü,&?#%", "a+b"):
        document = put(ask, [{"a": name}], quote(name, safe=""))
        assert document["dataSetName"] == name
        assert ask.rows(quote(name, safe="")) == [{"a": name}]
        (link,) = document["links"]
        assert urlsplit(link["href"]).path == f"/v1/data/{quote(name, safe='')}"
    assert ask.told("GET", "/data")["totalCount"] == 6


def test_a_collection_of_another_wire_is_a_dataset_too(ask: Asking, stage: Stage) -> None:
    stage.run(b'{"$unique_id": "a", "$time": "2017-01-01T00:00:00Z", "n": 1.50}\n', collection="events")
    document = ask.told("GET", "/data/events")
    assert document["data"] == [{"$unique_id": "a", "$time": "2017-01-01T00:00:00.0000000Z", "n": "1.50"}]
    assert document["columns"]["$time"] == {"dataType": "date", "role": "timestamp"}


# --- what is refused


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"data": []}', "NoData"),
        (b"{}", "NoData"),
        (b"", "RequestValidation"),
        (b"[]", "RequestValidation"),
        (b'{"data": {}}', "RequestValidation"),
        (b'{"data": [{}], "columns": {"a": {"dataType": "text", "role": "target"}}}', "InvalidColumnMetadata"),
        (b'{"data": [{"a": 1}], "columns": {"b": {"role": "key"}}}', "RequestValidation"),
    ],
)
def test_a_body_that_cannot_be_taken_is_refused_and_makes_nothing(ask: Asking, body: bytes, kind: str) -> None:
    status, found, _, details = ask.refused("PUT", "/data/table", body)
    assert (status, found) == (400, kind)
    assert details
    assert ask("GET", "/data/table").status_code == 404


def test_where_one_row_is_not_taken_none_is_and_each_is_told_by_its_place(ask: Asking) -> None:
    put(ask, [{"id": "a"}], id={"role": "key"})
    rows: list[Any] = [{"id": "b"}, {}, 7, {"id": None}, {"id": "c"}]
    faults = ask.faults("PUT", "/data/table", {"data": rows})
    assert [*faults] == ["data[1]", "data[2]", "data[3]"]
    assert [row["id"] for row in ask.rows()] == ["a"]
    assert len(ask.faults("PUT", "/data/table", {"data": [{}] * 50})) == 10, "the first of them"


def test_what_names_the_rows_stays_what_it_was(ask: Asking) -> None:
    put(ask, [{"key": "a", "n": 1}], key={"role": "key", "dataType": "string"})
    changed = {"key": {"dataType": "numeric", "role": "key"}}
    *refusal, details = ask.refused("PUT", "/data/table", {"data": [{"key": "b"}], "columns": changed})
    assert refusal == [400, "InvalidColumnMetadata", "One or more columns were supplied with invalid metadata"]
    assert details == {"key": [seed.KEY_CHANGED.split("metadata. ")[1]]}


def test_a_collection_that_keeps_what_it_has_is_not_put_into(ask: Asking, stage: Stage) -> None:
    stage.run(ndjson(event("a")), collection="events")
    assert ask.refused("PUT", "/data/events", {"data": [{"a": 1}]})[:2] == (409, "MappingConflict")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.nexosis.routes.MAX_BODY", 100)
    assert ask("PUT", "/data/table", b'{"data":[{"a":"%s"}]}' % (b"x" * 60)).status_code == 201
    assert ask.refused("PUT", "/data/table", b'{"data":[{"a":"%s"}]}' % (b"x" * 90))[0] == 413
    monkeypatch.setattr(bodies, "MOST_ROWS", 2)
    assert ask.refused("PUT", "/data/table", b'{"data":[{},{},{}]}')[0] == 413
    assert ask.refused("PUT", "/data/table", b"{}", Content_Encoding="gzip")[0] == 415


@pytest.mark.parametrize("name", ["a%2Fb", "%00", "%0a", "n" * 256, "%20"])
def test_what_can_be_no_name_is_refused_where_it_is_put_and_nowhere_else_found(ask: Asking, name: str) -> None:
    expected = (404, 404, 404) if name == "a%2Fb" else (404, 400, 404)
    answers = [ask(method, f"/data/{name}", b'{"data":[{}]}') for method in ("GET", "PUT", "DELETE")]
    assert tuple(answer.status_code for answer in answers) == expected


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"page": "-1"}, "page"),
        ({"pageSize": "5000"}, "pageSize"),
        ({"startDate": "soon"}, "startDate"),
        ({"endDate": "2017-02-30"}, "endDate"),
    ],
)
def test_nonsense_is_refused_by_its_parameter(ask: Asking, query: dict[str, str], name: str) -> None:
    ask("PUT", "/data/table", a_month())
    assert [*ask.faults("GET", "/data/table", query=query)] == [name]


def test_times_of_a_dataset_without_any_are_refused(ask: Asking) -> None:
    put(ask, [{"n": "1"}])
    for method in ("GET", "DELETE"):
        status, kind, _, details = ask.refused(method, "/data/table", query={"startDate": "2017-01-01"})
        assert (status, kind) == (400, "RequestValidation")
        assert "no timestamp" in json.dumps(details)
    query = {"startDate": "2017-02-01", "endDate": "2017-01-01"}
    assert ask.refused("GET", "/data/table", query=query)[1] == "InvalidDateRange"


def test_an_unknown_dataset_is_404_and_so_is_another_projects(ask: Asking, stage: Stage) -> None:
    other = Stage(stage.settings, stage.bucket)
    other.run(ndjson(event("a")), collection="theirs")
    for name in ("theirs", "nobodys"):
        for method in ("GET", "DELETE"):
            assert ask.refused(method, f"/data/{name}") == (
                404,
                "NotFound",
                f"Item of type dataSet with identifier {name} was not found",
                {"itemType": "dataSet", "itemId": name},
            )
    other.close()


# --- the end of a dataset


def test_a_dataset_is_deleted_and_its_name_is_free(ask: Asking) -> None:
    put(ask, [{"key": "a"}], key={"role": "key"})
    answer = ask("DELETE", "/data/table", query={"cascade": "session"})
    assert (answer.status_code, answer.data) == (204, b"")
    assert ask("GET", "/data/table").status_code == 404
    put(ask, [{"other": "1"}], other={"role": "key"})
    assert ask.rows() == [{"other": "1"}]


def test_rows_between_two_times_are_deleted(ask: Asking) -> None:
    ask("PUT", "/data/table", a_month())
    answer = ask("DELETE", "/data/table", query={"startDate": "2017-04-02", "endDate": "2017-04-29"})
    assert (answer.status_code, answer.data) == (204, b"")
    assert ask.rows() == [a_day(1), a_day(30)]
    assert ask("DELETE", "/data/table", query={"endDate": "2017-04-01"}).status_code == 204
    assert ask.rows() == [a_day(30)]


def test_nothing_is_deleted_by_a_misspelt_or_an_empty_timeframe(ask: Asking) -> None:
    put(ask, [{"a": "1"}])
    assert [*ask.faults("DELETE", "/data/table", query={"startDate": "", "endDate": ""})] == ["endDate", "startDate"]
    assert [*ask.faults("DELETE", "/data/table", query={"start": "2017-01-01"})] == ["start"]
    assert ask.rows() == [{"a": "1"}]


def test_a_dataset_is_not_deleted_while_an_import_goes_on(ask: Asking) -> None:
    started = ask.start(seed.FILE)
    assert ask.refused("DELETE", "/data/table")[:2] == (409, "CollectionInUse")
    ask.finish(started)
    assert ask("DELETE", "/data/table").status_code == 204


@pytest.mark.parametrize(("scope", "statuses"), [(PUSH, [201, 403, 200, 403]), (QUERY, [403, 200, 200, 403])])
def test_a_key_does_what_its_scope_says(ask: Asking, stage: Stage, scope: str, statuses: list[int]) -> None:
    put(ask, [{"a": "1"}])
    with stage.runtime.database.transaction() as tx:
        other = Asking(ask.client, stage, create_key(tx, stage.caller.project_id, [scope]))
    times = {"startDate": "2017-01-01"}
    calls: list[tuple[str, str, Any]] = [
        *(("PUT", "/data/table", {}), ("GET", "/data/table", {})),
        *(("GET", "/data", {}), ("DELETE", "/data/table", times)),
    ]
    answers = [other(method, path, {"data": [{"a": "2"}]}, query=query) for method, path, query in calls]
    assert [answer.status_code for answer in answers] == statuses


def test_rows_that_are_put_twice_with_a_key_are_stored_once(ask: Asking) -> None:
    body = {"data": [{"n": "1"}, {"n": "1"}]}
    answers = [ask("PUT", "/data/table", body, Idempotency_Key="once") for _ in "12"]
    other = ask("PUT", "/data/table", {"data": [{"n": "2"}]}, Idempotency_Key="once")
    assert [answer.status_code for answer in (*answers, other)] == [201, 201, 422]
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert len(ask.rows()) == 2
