from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Refusal
from common.model.query import EVERYTHING, MAX_CONDITIONS, MAX_LIST, Condition, Operator, Query, parse_query

NOW = datetime(2015, 7, 29, 10, 20, 30, 5, tzinfo=UTC)  # a Wednesday
#: Clocks that go over midnight, half hours, a day left out (Apia), and hours that differ for ever.
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Brisbane", "Australia/Lord_Howe", "America/Sao_Paulo",
    "America/Havana", "America/St_Johns", "Asia/Beirut", "Africa/Cairo", "Asia/Kathmandu", "Pacific/Apia",
    "Pacific/Kwajalein", "Asia/Tehran", "America/Toronto",
]  # fmt: skip


def window(timeframe: Any, *, now: datetime = NOW, zone: Any = None) -> tuple[datetime, datetime]:
    asked = {"timeframe": timeframe} if zone is None else {"timeframe": timeframe, "timezone": zone}
    query = parse_query(asked, now=now)
    assert query.start
    assert query.end
    return query.start, query.end


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("this_minute", "2015-07-29T10:20Z", "2015-07-29T10:21Z"),
        ("last_minute", "2015-07-29T10:19Z", "2015-07-29T10:20Z"),
        ("this_hour", "2015-07-29T10:00Z", "2015-07-29T11:00Z"),
        ("last_hour", "2015-07-29T09:00Z", "2015-07-29T10:00Z"),
        ("today", "2015-07-29T00:00Z", "2015-07-30T00:00Z"),
        ("yesterday", "2015-07-28T00:00Z", "2015-07-29T00:00Z"),
        ("this_week", "2015-07-26T00:00Z", "2015-08-02T00:00Z"),
        ("last_week", "2015-07-19T00:00Z", "2015-07-26T00:00Z"),
        ("this_month", "2015-07-01T00:00Z", "2015-08-01T00:00Z"),
        ("last_month", "2015-06-01T00:00Z", "2015-07-01T00:00Z"),
        ("this_quarter", "2015-07-01T00:00Z", "2015-10-01T00:00Z"),
        ("last_quarter", "2015-04-01T00:00Z", "2015-07-01T00:00Z"),
        ("this_year", "2015-01-01T00:00Z", "2016-01-01T00:00Z"),
        ("last_year", "2014-01-01T00:00Z", "2015-01-01T00:00Z"),
        ({"current": {"days": 3}}, "2015-07-27T00:00Z", "2015-07-30T00:00Z"),
        ({"previous": {"days": 3}}, "2015-07-26T00:00Z", "2015-07-29T00:00Z"),
        ({"current": {"weeks": 2}}, "2015-07-19T00:00Z", "2015-08-02T00:00Z"),
        ({"previous": {"months": 8}}, "2014-11-01T00:00Z", "2015-07-01T00:00Z"),
        ({"previous": {"quarters": 3}}, "2014-10-01T00:00Z", "2015-07-01T00:00Z"),
        ({"previous": {"years": 2014}}, "0001-01-01T00:00Z", "2015-01-01T00:00Z"),
        ({"previous": {"minutes": 90}}, "2015-07-29T08:50Z", "2015-07-29T10:20Z"),
    ],
)
def test_the_names_and_periods_mean_these_windows(name: Any, start: str, end: str) -> None:
    assert window(name) == (at(start), at(end))


@pytest.mark.parametrize(
    ("zone", "name", "start", "end"),
    [
        ("Australia/Brisbane", "today", "2015-07-28T14:00Z", "2015-07-29T14:00Z"),
        (-11, "today", "2015-07-28T11:00Z", "2015-07-29T11:00Z"),
        (9.5, "this_hour", "2015-07-29T09:30Z", "2015-07-29T10:30Z"),
        ("Asia/Kathmandu", "last_hour", "2015-07-29T09:15Z", "2015-07-29T10:15Z"),
        (14, "this_year", "2014-12-31T10:00Z", "2015-12-31T10:00Z"),
    ],
)
def test_a_zone_moves_the_window(zone: Any, name: str, start: str, end: str) -> None:
    assert window(name, zone=zone) == (at(start), at(end))


@pytest.mark.parametrize(
    ("zone", "now", "start", "hours"),
    [
        ("Europe/Berlin", "2024-03-31T12:00Z", "2024-03-30T23:00Z", 23),
        ("Europe/Berlin", "2024-10-27T12:00Z", "2024-10-26T22:00Z", 25),
        ("America/Sao_Paulo", "2018-11-04T12:00Z", "2018-11-04T03:00Z", 23),  # there was no midnight
        ("America/Havana", "2023-11-05T12:00Z", "2023-11-05T04:00Z", 25),  # there were two
        ("Australia/Lord_Howe", "2024-04-06T20:00Z", "2024-04-06T13:00Z", 24.5),
        ("America/St_Johns", "2006-10-29T12:00Z", "2006-10-29T02:30Z", 25),  # from 0:01 back to 23:01
        ("America/Toronto", "1919-03-31T12:00Z", "1919-03-31T04:30Z", 23.5),  # the clock went from 23:30 to 0:30
        ("Pacific/Apia", "2011-12-31T00:00Z", "2011-12-30T10:00Z", 24),
    ],
)
def test_a_day_is_as_long_as_its_zone_makes_it(zone: str, now: str, start: str, hours: float) -> None:
    begin, end = window("today", now=at(now), zone=zone)

    assert begin == at(start)
    assert end - begin == timedelta(hours=hours)


def test_a_day_that_its_zone_left_out_is_an_empty_window() -> None:
    start, end = window("yesterday", now=at("2011-12-30T12:00Z"), zone="Pacific/Apia")

    assert start == end == at("2011-12-30T10:00Z")


@cache
def first_shown(day: date, zone: str) -> datetime:
    """The oracle: only ever asks what a clock shows, in the end minute by minute."""
    shown = ZoneInfo(zone)
    instant = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=26)
    while instant.astimezone(shown).date() < day:
        instant += timedelta(hours=1)
    # A clock that goes back over midnight shows the day, then not, then again: the first time counts.
    instant -= timedelta(hours=3)
    while instant.astimezone(shown).date() < day:
        instant += timedelta(minutes=1)
    return instant


def week_of(day: date) -> date:
    while day.strftime("%a") != "Sun":
        day -= timedelta(days=1)
    return day


def month_of(day: date) -> date:
    while day.day != 1:
        day -= timedelta(days=1)
    return day


def quarter_of(day: date) -> date:
    while (day.month, day.day) not in ((1, 1), (4, 1), (7, 1), (10, 1)):
        day -= timedelta(days=1)
    return day


FIRST_DAYS: dict[str, Callable[[date], date]] = {
    "days": lambda day: day,
    "weeks": week_of,
    "months": month_of,
    "quarters": quarter_of,
    "years": lambda day: date(day.year, 1, 1),
}
transitions = st.sampled_from(
    ["2018-11-04", "2018-02-18", "2023-11-05", "2023-03-12", "2024-03-31", "2024-10-27", "2024-04-07", "2011-12-30",
     "1993-08-21", "2006-10-29", "2007-04-01", "2024-04-26", "2020-03-28", "2021-03-22"]
).map(date.fromisoformat)  # fmt: skip
days = st.dates(date(1990, 1, 1), date(2030, 12, 31)) | transitions
instants = st.builds(
    lambda day, seconds: datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=seconds),
    days,
    st.integers(-86400, 2 * 86400),
)


@settings(max_examples=120, deadline=None)
@given(instants, st.sampled_from(ZONES), st.sampled_from(sorted(FIRST_DAYS)), st.integers(1, 5))
def test_periods_begin_when_the_clocks_of_the_zone_first_show_them(
    now: datetime, zone: str, unit: str, count: int
) -> None:
    first_day = FIRST_DAYS[unit]
    starts = [first_day(now.astimezone(ZoneInfo(zone)).date())]
    for _ in range(count):
        starts.insert(0, first_day(starts[0] - timedelta(days=1)))
    after = starts[-1]
    while first_day(after) == starts[-1]:
        after += timedelta(days=1)
    edges = [first_shown(day, zone) for day in (starts[0], starts[1], starts[-1], after)]

    assert window({"current": {unit: count}}, now=now, zone=zone) == (edges[1], edges[3])
    assert window({"previous": {unit: count}}, now=now, zone=zone) == (edges[0], edges[2])


@given(instants, st.sampled_from(ZONES), st.sampled_from(["minutes", "hours"]), st.integers(1, 5000))
def test_minutes_and_hours_are_counted_from_where_the_present_one_began(
    now: datetime, zone: str, unit: str, count: int
) -> None:
    length = timedelta(**{unit: 1})
    start, end = window({"current": {unit: count}}, now=now, zone=zone)
    shown = (end - length).astimezone(ZoneInfo(zone))

    assert end - length <= now < end
    assert end - start == count * length
    assert window({"previous": {unit: count}}, now=now, zone=zone) == (start - length, end - length)
    if shown.utcoffset() == now.astimezone(ZoneInfo(zone)).utcoffset():
        assert (shown.second, shown.microsecond) == (0, 0)
        assert unit == "minutes" or shown.minute == 0


def test_what_stands_together_is_asked_for_together() -> None:
    asked = {
        "filter": {"b.c": {"lt": 10, "gt": 5}, "a": [1, 2.0], "": "x", "n": None},
        "timeframe": {"start": "2015-07-28", "end": "2015-07-28T12:00:00+10:00"},
    }

    query = parse_query(asked, now=NOW)

    assert query == Query(
        (
            Condition(("",), Operator.EQ, "x"),
            Condition(("a",), Operator.IN, (1, 2)),  # type: ignore[arg-type]
            Condition(("b", "c"), Operator.GT, 5),  # type: ignore[arg-type]
            Condition(("b", "c"), Operator.LT, 10),  # type: ignore[arg-type]
            Condition(("n",), Operator.EQ, None),
        ),
        at("2015-07-28T00:00Z"),
        at("2015-07-28T02:00Z"),
    )


@pytest.mark.parametrize("value", [None, {}, {"filter": {}}, {"filter": None, "timeframe": None, "timezone": None}])
def test_nothing_asked_for_is_everything(value: Any) -> None:
    assert parse_query(value, now=NOW) == EVERYTHING
    assert EVERYTHING.as_json() == {}
    assert EVERYTHING.matches(b'{"a":1}')


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "q"),
        ("today", "q"),
        ({"select": {"n": "count"}}, "q.select"),
        ({"groupBy": "a"}, "q.groupBy"),
        ({"interval": "daily"}, "q.interval"),
        ({"x\ud800": 1}, "q.x?"),
        ({"filter": []}, "q.filter"),
        ({"filter": {"id": "a"}}, "q.filter.id"),
        ({"filter": {"timestamp": {"gt": "2015"}}}, "q.filter.timestamp"),
        ({"filter": {"a\0": 1}}, "q.filter.a\0"),
        ({"filter": {"x." * 32: 1}}, "q.filter." + "x." * 32),
        ({"filter": {"x" * 256: 1}}, "q.filter." + "x" * 80 + "..."),
        ({"filter": {"a": {}}}, "q.filter.a"),
        ({"filter": {"a": {"ne": 1}}}, "q.filter.a.ne"),
        ({"filter": {"a": {"endsWidth": "x"}}}, "q.filter.a.endsWidth"),
        ({"filter": {"a": {"b": {"c": 1}}}}, "q.filter.a.b"),
        ({"filter": {"a": {"eq": [1]}}}, "q.filter.a.eq"),
        ({"filter": {"a": {"eq": {}}}}, "q.filter.a.eq"),
        ({"filter": {"a": {"gt": None}}}, "q.filter.a.gt"),
        ({"filter": {"a": {"lte": True}}}, "q.filter.a.lte"),
        ({"filter": {"a": {"exists": 1}}}, "q.filter.a.exists"),
        ({"filter": {"a": {"exists": None}}}, "q.filter.a.exists"),
        ({"filter": {"a": {"contains": 5}}}, "q.filter.a.contains"),
        ({"filter": {"a": {"startsWith": None}}}, "q.filter.a.startsWith"),
        ({"filter": {"a": {"in": "abc"}}}, "q.filter.a.in"),
        ({"filter": {"a": [1, "1"]}}, "q.filter.a.in"),
        ({"filter": {"a": [1, True]}}, "q.filter.a.in"),
        ({"filter": {"a": ["x", None]}}, "q.filter.a.in"),
        ({"filter": {"a": [None]}}, "q.filter.a.in"),
        ({"filter": {"a": [[1]]}}, "q.filter.a.in"),
        ({"filter": {"a": ["x"] * (MAX_LIST + 1)}}, "q.filter.a.in"),
        ({"filter": {"a": "x" * 4097}}, "q.filter.a.eq"),
        ({"filter": {"a": "x\0"}}, "q.filter.a.eq"),
        ({"filter": {"a": "é\udc00"}}, "q.filter.a.eq"),
        ({"filter": {"a": float("inf")}}, "q.filter.a.eq"),
        ({"filter": {"a": float("nan")}}, "q.filter.a.eq"),
        ({"filter": {"a": -(10**400)}}, "q.filter.a.eq"),
        ({"filter": {f"a{n}": n for n in range(MAX_CONDITIONS + 1)}}, "q.filter"),
        ({"timeframe": "tomorrow"}, "q.timeframe"),
        ({"timeframe": "Today"}, "q.timeframe"),
        ({"timeframe": 5}, "q.timeframe"),
        ({"timeframe": {}}, "q.timeframe"),
        ({"timeframe": {"start": None, "end": None}}, "q.timeframe"),
        ({"timeframe": {"start": "2015-07-28", "from": 1}}, "q.timeframe.from"),
        ({"timeframe": {"start": "yesterday"}}, "q.timeframe.start"),
        ({"timeframe": {"end": 1438038030}}, "q.timeframe.end"),
        ({"timeframe": {"end": "10000-01-01"}}, "q.timeframe.end"),
        ({"timeframe": {"start": "2015-07-28", "end": "2015-07-27"}}, "q.timeframe"),
        ({"timeframe": {"current": {"days": 1}, "previous": {"days": 1}}}, "q.timeframe"),
        ({"timeframe": {"current": {"days": 1}, "end": "2015-07-28"}}, "q.timeframe"),
        ({"timeframe": {"current": 5}}, "q.timeframe.current"),
        ({"timeframe": {"current": {}}}, "q.timeframe.current"),
        ({"timeframe": {"current": {"days": 1, "hours": 1}}}, "q.timeframe.current"),
        ({"timeframe": {"current": {"day": 1}}}, "q.timeframe.current.day"),
        ({"timeframe": {"current": {"days": 0}}}, "q.timeframe.current.days"),
        ({"timeframe": {"previous": {"days": 1.5}}}, "q.timeframe.previous.days"),
        ({"timeframe": {"previous": {"days": True}}}, "q.timeframe.previous.days"),
        *(
            ({"timeframe": {"previous": {unit: 10**size}}}, f"q.timeframe.previous.{unit}")
            for unit in ("minutes", "hours", "days", "weeks", "months", "quarters", "years")
            for size in (10, 20, 400)
        ),
        ({"timeframe": {"current": {"years": 2016}}}, "q.timeframe.current.years"),
        ({"timezone": 10}, "q.timezone"),
        ({"timezone": "UTC", "timeframe": {"start": "2015-07-28"}}, "q.timezone"),
        ({"timezone": 24, "timeframe": "today"}, "q.timezone"),
        ({"timezone": -(10**400), "timeframe": "today"}, "q.timezone"),
        ({"timezone": float("nan"), "timeframe": "today"}, "q.timezone"),
        ({"timezone": True, "timeframe": "today"}, "q.timezone"),
        ({"timezone": [], "timeframe": "today"}, "q.timezone"),
        ({"timezone": "+10:00", "timeframe": "today"}, "q.timezone"),
        ({"timezone": "../../etc/passwd", "timeframe": "today"}, "q.timezone"),
        ({"timezone": "America", "timeframe": "today"}, "q.timezone"),
        ({"timezone": "localtime", "timeframe": "today"}, "q.timezone"),
        ({"timezone": "UTC\0", "timeframe": "today"}, "q.timezone"),
    ],
)
def test_what_is_no_query_is_refused_by_the_field_at_fault(value: Any, field: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_query(value, now=NOW, field="q")

    assert (refused.value.code, refused.value.field) == ("invalid_query", field)
    json.dumps(refused.value.public, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("now", "timeframe", "zone"),
    [
        ("9999-12-31T23:00Z", "this_year", None),
        ("9999-12-31T23:00Z", "this_minute", 14),
        ("9999-12-31T23:59:30Z", "this_minute", None),
        ("0001-01-01T00:00Z", "today", "America/New_York"),
        ("0001-01-03T00:00Z", "this_week", None),
    ],
)
def test_a_window_beyond_the_years_is_refused(now: str, timeframe: str, zone: Any) -> None:
    with pytest.raises(Refusal, match="years 1 to 9999"):
        parse_query({"timeframe": timeframe, "timezone": zone}, now=at(now))


odd_texts = st.text("aé.\0\ud800\U0001f600", max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    ["filter", "timeframe", "timezone", "select", "a", "a.b", "eq", "in", "gt", "exists", "current", "previous",
     "start", "end", "days", "years", "today", "2015-07-28", "UTC"]
)  # fmt: skip
near_queries = st.recursive(
    words | json_values,
    lambda inner: st.dictionaries(words, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=10,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["filter", "timeframe", "timezone"], near_queries)))
def test_any_json_is_a_query_or_refused_and_a_query_survives_its_json(value: Any) -> None:
    try:
        query = parse_query(value, now=NOW)
    except Refusal:
        return

    written = json.loads(json.dumps(query.as_json()))
    assert parse_query(written, now=datetime(1, 1, 1, tzinfo=UTC)) == query
    assert hash(parse_query(written, now=datetime.max.replace(tzinfo=UTC))) == hash(query)


@given(st.lists(st.integers(-(10**309) + 1, 10**309 - 1) | st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_survive_the_json_of_a_query(numbers: list[int | float]) -> None:
    query = parse_query({"filter": {"a": numbers}}, now=NOW)

    assert parse_query(json.loads(json.dumps(query.as_json())), now=NOW) == query


wanted = st.sampled_from([None, 1, True, "x", {"gt": 1}, {"gt": 2}, {"neq": 1}, {"neq": None, "exists": True}, [1, 2]])
few_filters = st.dictionaries(st.sampled_from(["a", "a.b", "c"]), wanted, max_size=3)


@given(
    few_filters, few_filters, few_filters, st.dictionaries(st.sampled_from("ac"), st.sampled_from([1, 2, "x", True]))
)
def test_added_conditions_hold_beside_all_others_and_survive_the_json(
    asked: Any, first: Any, second: Any, event: dict[str, Any]
) -> None:
    queries = [
        parse_query({"filter": one, "timeframe": {"start": "2015-01-01"}}, now=NOW) for one in (asked, first, second)
    ]
    query = queries[0].also(queries[1].conditions).also(queries[2].conditions)
    payload = json.dumps(event).encode()

    assert query.matches(payload) == all(one.matches(payload) for one in queries)
    written = json.loads(json.dumps(query.as_json()))
    assert Query.from_json(written) == query
    try:
        # The version before this one reads what is stored, too: all of it, or it fails.
        assert parse_query(written, now=NOW) == query
    except Refusal:
        assert isinstance(written["filter"], list)


def test_with_added_conditions_there_are_no_more_than_with_any() -> None:
    most = parse_query({"filter": {f"n{n}": 1 for n in range(MAX_CONDITIONS - 1)}}, now=NOW)
    one = parse_query({"filter": {"n1": 1}}, now=NOW).conditions

    assert Query.from_json(most.also(one).as_json()) == most.also(one)
    with pytest.raises(Refusal, match="at most 100 conditions"):
        most.also(one).also(one)


def test_the_order_of_what_is_asked_does_not_matter() -> None:
    one = parse_query({"filter": {"a": {"gt": 1, "lt": 25.0}, "b": 1}}, now=NOW)

    assert one == parse_query({"filter": {"b": {"eq": 1.0}, "a": {"lt": 25, "gt": 1}}}, now=NOW)
