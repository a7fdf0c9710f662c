"""Times: what we take is what the page says, and comes out as datetime would count it."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.times import parse_month_first, parse_time, parse_times

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# Two days within what datetime holds, so that no zone leads out of it.
EARLY, LATE = datetime(1, 1, 3), datetime(9999, 12, 29)  # noqa: DTZ001 - hypothesis wants them naive
moments = st.datetimes(min_value=EARLY, max_value=LATE, timezones=zones)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def written(moment: datetime, between: str, basic: bool, digits: int, mark: str, zone: str) -> str:
    """Write a moment in one of the forms of ISO 8601."""
    dash, colon = ("", "") if basic else ("-", ":")
    clock = f"{moment.hour:02}{colon}{moment.minute:02}{colon}{moment.second:02}"
    fraction = f"{mark}{moment.microsecond:06}987"[: digits + 1] if digits else ""
    day = f"{moment.year:04}{dash}{moment.month:02}{dash}{moment.day:02}"
    return f"{day}{between}{clock}{fraction}{zone}"


@given(
    moments,
    st.sampled_from("Tt "),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from(".,"),
    st.integers(0, 4),
)
def test_every_form_counts_as_datetime_does(
    moment: datetime, between: str, basic: bool, digits: int, mark: str, form: int
) -> None:
    offset = moment.utcoffset()
    assert offset is not None
    minutes = abs(offset) // timedelta(minutes=1)
    sign = "-" if offset < timedelta(0) else "+"
    if form < 3:  # Z, z, none: UTC
        zone, moment = ("Z", "z", "")[form], moment.replace(tzinfo=UTC)
    else:
        zone = f"{sign}{minutes // 60:02}{'' if form == 3 else ':'}{minutes % 60:02}"
    kept = moment.microsecond // 10 ** max(6 - digits, 0) * 10 ** max(6 - digits, 0)

    expected = micros(moment.replace(microsecond=kept))

    assert parse_time(written(moment, between, basic, digits, mark, zone)) == expected


@given(moments)
def test_what_datetime_writes_is_read_back(moment: datetime) -> None:
    assert parse_time(moment.isoformat()) == micros(moment)
    assert parse_time(moment.isoformat(" ", "milliseconds")) == micros(moment) // 1000 * 1000
    assert parse_time(moment.strftime("%Y-%m-%dT%H:%M:%S.%f%z").zfill(31)) == micros(moment)


@given(st.dates())
def test_a_date_alone_is_its_midnight_in_utc(day: date) -> None:
    midnight = micros(datetime(day.year, day.month, day.day, tzinfo=UTC))

    assert parse_time(day.isoformat()) == midnight
    assert parse_time(day.isoformat().replace("-", "")) == midnight


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00", 0),
        ("1970-01-01T00:00:00.0000019999Z", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("1970-01-01T01+01", None),
        ("1970-01-01T01:00+01", 0),
        ("1970-01-01T01:00:00+0100", 0),
        ("19700101T010000+01:00", 0),
        ("2024-02-29", 1_709_164_800_000_000),
        ("0001-01-01T00:00:00Z", micros(FIRST)),
        ("9999-12-31T23:59:59.999999999Z", micros(LAST)),
    ],
)
def test_examples(text: str, time: int | None) -> None:
    assert parse_time(text) == time


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1700000000",
        "2023-02-29",
        "2024-13-01",
        "2024-00-01",
        "2024-1-1",
        "2024-06",
        "2024-W23-5",
        "2024-160",
        "24-06-01",
        "+2024-06-01",
        "0000-01-01",
        "10000-01-01",
        "2024-06-01T24:00:00Z",
        "2024-06-01T23:59:60Z",
        "2024-06-01T12:60:00Z",
        "2024-06-01T12Z",
        "2024-06-01T12:00:00.Z",
        "2024-06-01T12:00.5Z",
        "2024-06-01T1200Z",
        "20240601T12:00Z",
        "2024-0601",
        "2024-06-01_12:00:00Z",
        "2024-06-01  12:00:00Z",
        "2024-06-01T12:00:00 Z",
        "2024-06-01T12:00:00UTC",
        "2024-06-01T12:00:00+24:00",
        "2024-06-01T12:00:00+01:60",
        "2024-06-01T12:00:00+1",
        "2024-06-01T12:00:00+",
        "2024-06-01T12:00:00\u221201:00",
        "2024-06-01Z",
        "2024-06-01\n",
        " 2024-06-01",
        "2024-06-01T12:00:00Z\n",
        "２０２４-06-01",
        "2024-06-01T12:00:00.١٢٣Z",
        "2024-06-01T12:00:00.+12Z",
        "2024-06-01T12:00:00.1_2Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
    ],
)
def test_what_is_no_time_of_ours_is_refused(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("number", "time"),
    [
        (0, 0),
        (1, 1_000_000),
        (-1, -1_000_000),
        (1_700_000_000, 1_700_000_000_000_000),
        (1_700_000_000_123, 1_700_000_000_123_000),
        (10**11 - 1, (10**11 - 1) * 10**6),
        (10**11, 10**14),
        (-(10**11), -(10**14)),
        (1.5, 1_500_000),
        (0.000249, 249),
        (0.0000015, 2),
        (1_700_000_000.123457, 1_700_000_000_123_457),
        (1_700_000_000_123.456, 1_700_000_000_123_456),
        (253_402_300_799_999, micros(LAST) // 1000 * 1000),
        (253_402_300_800_000, None),
        (-62_135_596_800_000, micros(FIRST)),
        (-62_135_596_800_001, None),
        (-(10**11) + 1, None),
        (10**400, None),
        (1e300, None),
        (1.7976931348623157e308, None),
        (float("inf"), None),
        (float("-inf"), None),
        (float("nan"), None),
        (True, None),
        (False, None),
    ],
)
def test_numbers_count_seconds_or_milliseconds(number: float, time: int | None) -> None:
    assert parse_time(number) == time


@given(st.floats() | st.integers() | st.text())
def test_any_value_is_a_time_that_can_be_read_back_or_none(value: str | int | float) -> None:
    time = parse_time(value)

    assert time is None or FIRST <= EPOCH + timedelta(microseconds=time) <= LAST


shapes = st.sampled_from(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.000Z", "%Y-%m-%d", "%Y-%m-%dT%H:%M:61Z"])


@given(st.lists(st.tuples(moments.filter(lambda moment: moment.year >= 1000), shapes)), st.booleans())
def test_many_times_are_read_as_each_alone(drawn: list[tuple[datetime, str]], same: bool) -> None:
    texts = [moment.strftime(drawn[0][1] if same else shape) for moment, shape in drawn]
    each = [parse_time(text) for text in texts]

    assert parse_times(texts) == (None if None in each else each)


def test_more_days_than_are_remembered_are_still_read() -> None:
    days = [date.fromordinal(700_000 + n) for n in range(10_000)]

    assert [parse_time(f"{day}T00:00:00Z") for day in days] == [parse_time(str(day)) for day in days]


# --- as they are written in the US ------------------------------------------------------------------------------

#: What follows the day, as strptime has it.
CLOCKS = ["", *map("".join, product(" T", ("%H", "%I"), (":%M", ":%M:%S", ":%M:%S.%f"), ("", " %p", "%p")))]
CLOCKS = [clock for clock in CLOCKS if ("%I" in clock) == ("%p" in clock)]
in_letters = st.text("0123459/-: .TtAaPpMm", max_size=12)
nearly = st.tuples(
    st.integers(0, 13), st.sampled_from("/-"), st.integers(0, 32), st.sampled_from("/-"),
    st.sampled_from(["2017", "2016", "0001", "9999", "17", "0000"]),
    st.sampled_from(["", " 0:00", " 00:00", " 24:00", "T23:59:59.999999", " 5:3", " 5:60", " 0:30 AM", " 12:30am",
                     " 12:30 PM", " 13:00 PM", " 5:30:61", " 5:30:15.5 pM", "  5:30", " 5", " 5 PM", "Z", " 5:30Z"]),
).map(lambda drawn: "".join(map(str, drawn)))  # fmt: skip


def as_strptime_has_it(text: str) -> int | None:
    """Return the moment. It takes more than we do: one digit where we ask for two, and letters of any case."""
    for between, clock in product("/-", CLOCKS):
        with suppress(ValueError):
            return micros(datetime.strptime(f"{text} +0000", f"%m{between}%d{between}%Y{clock} %z"))
    return None


@given(st.datetimes(), st.sampled_from("/-"), st.sampled_from(CLOCKS), st.booleans())
def test_a_date_of_the_us_counts_as_strptime_reads_it(moment: datetime, between: str, clock: str, padded: bool) -> None:
    day = f"{moment.month}{between}{moment.day}" if not padded else f"{moment.month:02}{between}{moment.day:02}"
    text = f"{day}{between}{moment.year:04}{moment.strftime(clock)}"

    assert parse_month_first(text) == as_strptime_has_it(text) is not None
    assert parse_time(text) is None


@given(nearly | in_letters)
def test_what_is_taken_of_dates_of_the_us_strptime_takes_too(text: str) -> None:
    found = parse_month_first(text)

    assert found is None or found == as_strptime_has_it(text)
    # A date that the calendar lacks is no other one.
    assert parse_time(text) is None or found is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1/31/2017", "2017-01-31"),
        ("01-31-2017", "2017-01-31"),
        ("1/1/0001", "0001-01-01"),
        ("12/31/9999 23:59:59.999999", "9999-12-31T23:59:59.999999"),
        ("1/31/2017 5:30", "2017-01-31T05:30"),
        ("1/31/2017 5:30 PM", "2017-01-31T17:30"),
        ("1/31/2017 12:00 AM", "2017-01-31"),
        ("1/31/2017 12:00:00 pm", "2017-01-31T12:00"),
        ("1/31/2017T5:30:00.25PM", "2017-01-31T17:30:00.250"),
        ("1/31/2017 5:30:00.1234569", "2017-01-31T05:30:00.123456"),
    ],
)
def test_a_date_of_the_us_is_the_same_moment_as_the_one_of_iso(text: str, moment: str) -> None:
    assert parse_month_first(text) == parse_time(moment) is not None


@pytest.mark.parametrize(
    "text",
    ["31/1/2017", "1/31/17", "1/31-2017", "2/29/2017", "1.31.2017", "0/1/2017", "1/31/2017 0:30 PM",
     "1/31/2017 13:00 AM", "1/31/2017 24:00", "1/31/2017 5:60", "1/31/2017 5", "1/31/0000", " 1/31/2017", "1/31/2017\n",
     "1/31/2017Z", "\u0661/31/2017", ""],
)  # fmt: skip
def test_what_is_no_date_of_the_us_is_none(text: str) -> None:
    assert parse_month_first(text) is None
