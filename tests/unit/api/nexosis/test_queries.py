"""Queries of this wire: their pages, their times, and the addresses of other pages."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.nexosis import queries, render
from common.errors import Refusal
from common.model.imports import ImportOrder, Listing


def refused(read: Any, *pairs: tuple[str, str]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(pairs)
    return caught.value


def test_of_a_repeated_page_the_last_counts() -> None:
    pairs = [("page", "0"), ("pageSize", "30"), ("PAGE", "7"), ("page", "")]
    assert queries.import_list(pairs).paging == queries.Paging(7, 30, "page=7&pageSize=30")


def test_what_nobody_asks_for_has_the_services_defaults() -> None:
    found = queries.import_list([("dataSetName", ""), ("sortBy", ""), ("later", "1")])
    assert found == queries.ImportList(queries.Paging(0, 50, "page=0&pageSize=50"), Listing(descending=True))


@pytest.mark.parametrize(
    ("text", "by"),
    [
        ("id", ImportOrder.ID),
        ("dataSetName", ImportOrder.COLLECTION),
        ("RequestedDate", ImportOrder.CREATED),
        ("CURRENTSTATUSDATE", ImportOrder.CHANGED),
    ],
)
@pytest.mark.parametrize(
    ("order", "descending"), [([], False), ([("sortOrder", "ASC")], False), ([("sortorder", "Desc")], True)]
)
def test_orders_have_the_services_names(text: str, by: ImportOrder, order: Any, *, descending: bool) -> None:
    found = queries.import_list([("sortBy", text), *order])
    assert (found.listing.by, found.listing.descending) == (by, descending)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("page", value) for value in ("-1", "1.0", "x", "٣", "1e3", " 1", "9" * 30, "0x1")),
        *(("pageSize", value) for value in ("0", "1001", "-5", "all", "9" * 5000)),
        *(("sortBy", value) for value in ("name", "date")),
        *(("sortOrder", value) for value in ("up", "1")),
        *(
            ("requestedAfterDate", value)
            for value in ("yesterday", "2017-13-01", "31-01-2017", "1/2", "0", "2017-01-01T25:00")
        ),
        ("dataSetName", "a/b"),
        ("dataSetName", "a\0b"),
    ],
)
def test_nonsense_is_refused_by_the_name_of_its_parameter(name: str, value: str) -> None:
    refusal = refused(queries.import_list, (name.upper(), value))
    (texts,) = refusal.details["faults"].values()
    assert (refusal.code, [*refusal.details["faults"]]) == ("invalid_request", [name])
    assert texts == [f"The value '{value[:64]}' is not valid for {name}."]


def test_all_that_is_wrong_with_a_page_is_told_at_once() -> None:
    refusal = refused(queries.row_list, ("page", "x"), ("pageSize", "0"))
    assert [*refusal.details["faults"]] == ["page", "pageSize"]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2017-01-01", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01T00:00:00.000Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01T00:00:00.0000000Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01T00:00:00+00:00", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01T02:00:00 02:00", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01T02:00:00.000 0200", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01 02:00", datetime(2017, 1, 1, 2, tzinfo=UTC)),
        ("2017-01-01 02:00:00 02:00", datetime(2017, 1, 1, tzinfo=UTC)),
        ("1-01-2017", datetime(2017, 1, 1, tzinfo=UTC)),
        ("1/31/2017 5:30 PM", datetime(2017, 1, 31, 17, 30, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_clients_write_them(text: str, moment: datetime) -> None:
    assert queries.timeframe([("STARTDATE", text)]) == queries.Timeframe(moment, None)
    assert queries.import_list([("requestedBeforeDate", text)]).listing.until == moment


def test_a_timeframe_that_ends_before_it_starts_is_refused_with_both_ends() -> None:
    for read, names in (
        (queries.timeframe, ("startDate", "endDate")),
        (queries.row_list, ("startDate", "endDate")),
        (queries.import_list, ("requestedAfterDate", "requestedBeforeDate")),
    ):
        refusal = refused(read, (names[0], "2017-01-02"), (names[1], "1/1/2017"))
        assert (refusal.code, refusal.public) == ("invalid_date_range", "Start Date must be before End Date")
        assert refusal.details["faults"] == dict(zip(names, ("2017-01-02", "1/1/2017"), strict=True))
    same = queries.timeframe([("startDate", "2017-01-01"), ("endDate", "2017-01-01T00:00")])
    assert same.since == same.until, "both ends are within"


def test_what_is_not_known_or_empty_deletes_nothing() -> None:
    assert queries.timeframe([("CASCADE", "all"), ("cascade", "")]) == queries.Timeframe(None, None)
    for empty in ("startDate", "ENDDATE"):
        refusal = refused(queries.timeframe, ("startDate", "2017-01-01"), (empty, ""))
        assert [*refusal.details["faults"]] == [empty]
    refusal = refused(queries.timeframe, ("startDate", "2017-01-01"), ("end", ""), ("From", "x"))
    assert [*refusal.details["faults"]] == ["From", "end"]


@pytest.mark.parametrize(
    ("values", "include"),
    [
        ([], None),
        ([""], None),
        (["a"], {"a"}),
        (["a,b"], {"a", "b", "a,b"}),
        (["a", "b,c"], {"a", "b", "c", "b,c"}),
    ],
)
def test_columns_are_included_by_repetition_or_by_commas(values: list[str], include: set[str] | None) -> None:
    assert queries.row_list([("include", value) for value in values]).include == include


@given(
    st.lists(
        st.sampled_from([("page", "2"), ("pageSize", "7"), ("include", "a,b"), ("include", "é&=+ c"), ("x", "y")])
    ),
    st.integers(0, 5),
    st.integers(0, 99),
)
def test_whoever_follows_links_sees_all_pages_by_one_query(
    pairs: list[tuple[str, str]], number: int, total: int
) -> None:
    """However often they are followed: no address becomes longer."""
    asked = queries.row_list([*pairs, ("page", str(number))])
    document = render.page(asked.paging, total, "/v1/data/a%2Cb", lambda path: f"https://host{path}")
    links = {one["rel"]: one["href"] for one in document["links"]}
    pages = max(-(-total // asked.paging.size), 1)

    assert document["totalPages"] == -(-total // asked.paging.size)
    assert [*links] == [
        "self",
        "first",
        *(["prev"] if number else []),
        *(["next"] if number + 1 < pages else []),
        "last",
    ]
    expected = {"self": number, "first": 0, "prev": number - 1, "next": number + 1, "last": pages - 1}
    for rel, href in links.items():
        followed = queries.row_list(parse_qsl(urlsplit(href).query))
        assert urlsplit(href).path == "/v1/data/a%2Cb"
        assert (followed.paging.number, followed.include, followed.times) == (expected[rel], asked.include, asked.times)
        assert followed.paging.size == asked.paging.size
        assert len(followed.paging.query) <= len(asked.paging.query) + 2
        assert href.count("page=") == (1 if rel == "self" else 2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["page", "pageSize", "startDate", "include", "sortBy", "dataSetName", "PAGE"]), st.text()
        )
    )
)
def test_a_query_with_anything_in_it_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    for read in (queries.import_list, queries.table_list, queries.row_list, queries.timeframe):
        with contextlib.suppress(Refusal):
            read(pairs)
