"""Nexosis' wire: imports are listed by filters, in orders and by pages."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.dialects.nexosis import seed
from tests.dialects.nexosis.asking import Asking
from tests.stage import Stage, event, ndjson


def listed(ask: Asking, **query: Any) -> list[str]:
    return [one["importId"] for one in ask.told("GET", "/imports", query=query)["items"]]


@pytest.fixture
def imports(ask: Asking) -> list[dict[str, Any]]:
    """Five imports, in the order in which they were requested; the first has ended."""
    started = [ask.start(seed.FILE, name) for name in ("b", "a", "c", "a", "b")]
    ask.finish(started[0])
    return started


def test_a_list_has_what_the_documents_has_and_its_pages(ask: Asking) -> None:
    ended = ask.run(seed.FILE, "s3-import-locationa")
    document = ask.told("GET", "/imports")
    expected = json.loads(seed.LISTED)

    assert list(document) == ["items", *seed.PAGE_MEMBERS]
    assert document["items"] == [ended]
    assert list(ended) == list(expected["items"][0])
    shape = {"importId", "requestedDate", "statusHistory", "parameters", "links", "columns"}
    assert {name: value for name, value in ended.items() if name not in shape} == {
        name: value for name, value in expected["items"][0].items() if name not in shape
    }
    assert ended["columns"] == {}, "one client cannot read the document's null"
    assert [document[name] for name in seed.PAGE_MEMBERS[:-1]] == [0, 1, 50, 1]
    assert document["links"] == [
        {"rel": "self", "href": "http://localhost/v1/imports?page=0&pageSize=50"},
        {"rel": "first", "href": "http://localhost/v1/imports?page=0&pageSize=50&page=0"},
        {"rel": "last", "href": "http://localhost/v1/imports?page=0&pageSize=50&page=0"},
    ]
    assert "Nexosis-Import-Status" not in ask("GET", "/imports").headers


def test_an_empty_list_is_one_of_no_pages(ask: Asking) -> None:
    document = ask.told("GET", "/Imports")
    assert [document[name] for name in ("items", "pageNumber", "totalPages", "totalCount")] == [[], 0, 0, 0]


def test_nobody_asked_for_an_order_and_the_newest_come_first(ask: Asking, imports: Any) -> None:
    assert listed(ask) == [one["importId"] for one in reversed(imports)]


def test_imports_of_a_dataset_are_those_of_its_exact_name(ask: Asking, imports: Any) -> None:
    expected = [one["importId"] for one in imports if one["dataSetName"] == "a"]
    assert listed(ask, dataSetName="a", sortBy="requestedDate") == expected
    assert listed(ask, datasetname="a", sortby="requesteddate", sortorder="DESC") == expected[::-1]
    assert listed(ask, dataSetName="A") == listed(ask, dataSetName="a%") == []


def test_imports_are_sorted_as_they_are_asked_for(ask: Asking, imports: Any) -> None:
    ids = [one["importId"] for one in imports]
    names = [one["dataSetName"] for one in ask.told("GET", "/imports", query={"sortBy": "dataSetName"})["items"]]
    assert names == ["a", "a", "b", "b", "c"]
    assert listed(ask, sortBy="id") == sorted(ids)
    assert listed(ask, sortBy="requestedDate", sortOrder="asc") == ids
    assert listed(ask, sortBy="currentStatusDate", sortOrder="desc")[0] == ids[0], "the others are as they were"


def test_imports_are_listed_by_when_they_were_requested_both_ends_within(ask: Asking, imports: Any) -> None:
    ids, at = [one["importId"] for one in imports], [one["requestedDate"] for one in imports]
    order = {"sortBy": "requestedDate"}
    assert listed(ask, requestedAfterDate=at[1], **order) == ids[1:]
    assert listed(ask, requestedBeforeDate=at[3], **order) == ids[:4]
    assert listed(ask, requestedAfterDate=at[1], requestedBeforeDate=at[3], **order) == ids[1:4]
    # As it comes where nobody encoded the plus.
    assert ask("GET", f"/imports?requestedAfterDate={at[4]}").get_json()["totalCount"] == 1
    assert len(listed(ask, requestedAfterDate="1-01-2017")) == len(ids)
    assert listed(ask, requestedBeforeDate="2017-01-01T00:00:00.000Z") == []


def test_a_timeframe_that_ends_before_it_starts_is_refused(ask: Asking) -> None:
    query = {"requestedAfterDate": "2017-02-01", "requestedBeforeDate": "2017-01-01"}
    assert ask.refused("GET", "/imports", query=query) == (
        400,
        "InvalidDateRange",
        "Start Date must be before End Date",
        query,
    )


def test_whoever_follows_the_links_sees_every_import_once(ask: Asking, imports: Any) -> None:
    href, seen = "http://localhost/v1/imports?pageSize=2&page=0&sortBy=requestedDate", []
    while href:
        page = ask.told("GET", urlsplit(href).path.removeprefix("/v1"), query=parse_qsl(urlsplit(href).query))
        links = {one["rel"]: one["href"] for one in page["links"]}
        assert ("prev" in links) == (page["pageNumber"] > 0)
        assert (page["totalPages"], page["totalCount"]) == (3, 5)
        seen += [one["importId"] for one in page["items"]]
        href = links.get("next", "")
    assert seen == [one["importId"] for one in imports]


def test_the_last_page_of_a_repeated_parameter_wins(ask: Asking, imports: Any) -> None:
    query = [("page", "0"), ("pageSize", "2"), ("sortBy", "requestedDate"), ("page", "2")]
    page = ask.told("GET", "/imports", query=query)
    assert (page["pageNumber"], [one["importId"] for one in page["items"]]) == (2, [imports[4]["importId"]])


def test_a_page_behind_the_last_is_empty(ask: Asking, imports: Any) -> None:
    page = ask.told("GET", "/imports", query={"page": 999_999_999, "pageSize": 1000})
    assert (page["items"], page["totalCount"], page["totalPages"]) == ([], len(imports), 1)


@pytest.mark.parametrize("query", [{"page": "-1"}, {"pageSize": "1001"}, {"pageSize": "0"}, {"sortBy": "x"}])
def test_nonsense_is_refused_by_its_parameter(ask: Asking, query: dict[str, str]) -> None:
    assert [*ask.faults("GET", "/imports", query=query)] == [*query]


def test_imports_of_other_wires_are_listed_and_those_of_other_projects_are_not(ask: Asking, stage: Stage) -> None:
    other = Stage(stage.settings, stage.bucket)
    other.start(ndjson(event("a")))
    import_id = stage.start(ndjson(event("a"), b"{bad"), collection="events")
    assert listed(ask) == [str(uuid.UUID(import_id))]
    other.close()


def test_a_list_tells_of_rejected_rows_as_the_import_itself_does(ask: Asking) -> None:
    ended = ask.run(b"a,b\n1,2\n1\n3,4\n", contentType="csv")
    assert ask.told("GET", "/imports")["items"] == [ended]
    assert [message["severity"] for message in ended["messages"]] == ["warning", "warning"]
    assert ended["messages"][0]["message"].startswith("Row 3: The row has")
    assert ended["status"] == "completed"
