"""Read the time of an event.

A time is an ISO 8601 calendar date with or without a clock time, or a number of seconds or milliseconds since
1970. What is read can always be read back: it lies within the years 1 to 9999 in UTC, which is what Python's
datetime holds; Postgres would store more, and its driver then fails on the row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
#: The day 1970-01-01, counted as ``date.toordinal`` counts.
_EPOCH = date(1970, 1, 1).toordinal()
_FIRST = (date.min.toordinal() - _EPOCH) * _DAY
_LAST = (date.max.toordinal() + 1 - _EPOCH) * _DAY - 1
#: Numbers from here on are milliseconds: 10**11 s is the year 5138, 10**11 ms is March 1973.
_MILLISECONDS_FROM = 10**11

# Our own pattern, because ``datetime.fromisoformat`` takes any one character between date and time, ISO weeks
# and more, and what it takes moves with Python's releases; an upgrade must not change which lines are
# rejected. ``(?(dash)-)`` reads: a dash if there was one before. Date and clock time are both extended or
# both basic, as ISO 8601 asks; zones may be either, since ``strftime("%z")`` writes +0000 behind extended
# times.
_ISO_8601 = re.compile(
    r"""
    (?P<year>[0-9]{4}) (?P<dash>-)? (?P<month>[0-9]{2}) (?(dash)-) (?P<day>[0-9]{2})
    (?:
        [Tt ] (?P<hour>[0-9]{2}) (?(dash):) (?P<minute>[0-9]{2})
        (?: (?(dash):) (?P<second>[0-9]{2}) (?: [.,] (?P<fraction>[0-9]+) )? )?
        (?: [Zz] | (?P<sign>[+-]) (?P<zone_hour>[0-9]{2}) (?: :? (?P<zone_minute>[0-9]{2}) )? )?
    )?
    """,
    re.VERBOSE,
)


_MONTH_FIRST = re.compile(
    r"""
    (?P<month>[0-9]{1,2}) (?P<between>[/-]) (?P<day>[0-9]{1,2}) (?P=between) (?P<year>[0-9]{4})
    (?:
        [Tt ] (?P<hour>[0-9]{1,2}) : (?P<minute>[0-9]{2}) (?: : (?P<second>[0-9]{2}) (?: \. (?P<fraction>[0-9]+) )? )?
        (?: [ ]? (?P<half>[AaPp]) [Mm] )?
    )?
    """,
    re.VERBOSE,
)

_EPOCH_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def as_datetime(micros: int) -> datetime:
    """Return a time that was read, in microseconds since 1970-01-01 UTC, to the microsecond."""
    return _EPOCH_TIME + timedelta(microseconds=micros)


class _Days(dict[str, int]):
    """From "2024-02-29" to the microsecond it begins; KeyError if it is no date in that form.

    Bounded, since a hostile file names any of 3.6 million days: 4,096 are eleven years of events.
    """

    def __missing__(self, text: str) -> int:
        try:
            if not _DATE.fullmatch(text):
                raise KeyError(text)
            day = (date(int(text[:4]), int(text[5:7]), int(text[8:])).toordinal() - _EPOCH) * _DAY
        except ValueError:
            raise KeyError(text) from None
        if len(self) >= 4096:
            self.clear()
        self[text] = day
        return day


_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
# Tables, cut so that a slice of the text that is in them is right by being in them: 0.18 us a time, against
# 0.22 for ``fromisoformat`` and subtraction, and 2.1 for the pattern.
_DAYS = _Days()
_CLOCK = {f"{h:02}:{m:02}": (h * 60 + m) * 60 * _SECOND for h in range(24) for m in range(60)}
_MINUTES = {between + text: micros for between in "T " for text, micros in _CLOCK.items()}
_SECONDS = {f":{s:02}": s * _SECOND for s in range(60)}
_SECONDS_Z = {f"{text}Z": micros for text, micros in _SECONDS.items()}
_MILLIS = {f".{ms:03}": ms * 1000 for ms in range(1000)}
_MILLIS_Z = {f"{text}Z": micros for text, micros in _MILLIS.items()}
_MICROS = {f"{us:03}": us for us in range(1000)}
_ZONES = {f"+{text}": micros for text, micros in _CLOCK.items()}
_ZONES |= {f"-{text}": -micros for text, micros in _CLOCK.items()}


def parse_time(value: str | int | float) -> int | None:
    """Return a time in microseconds since 1970-01-01 UTC, or None if it is none that we take.

    A string is an ISO 8601 calendar date, alone (midnight) or with a clock time after T, t or a space;
    seconds and their fraction may be missing, and what a fraction says below a microsecond is dropped.
    Without zone it is UTC. Hour 24 and second 60 are refused: neither has a microsecond of its own.

    A number counts seconds, or milliseconds if it is 10**11 or more either way. A fraction is rounded to the
    nearest microsecond, because a float seldom holds the one that was written. A bool is no number.
    """
    if isinstance(value, str):
        micros = _parse_fixed(value)
        return micros if micros is not None else _parse_iso(value)
    if isinstance(value, bool):
        return None
    scaled = value * (_SECOND if abs(value) < _MILLISECONDS_FROM else 1000)
    # Compared before it is rounded: NaN and infinity are within no bounds, and cannot be rounded.
    return round(scaled) if _FIRST <= scaled <= _LAST else None


def parse_times(texts: Sequence[str]) -> list[int] | None:
    """Return ``[parse_time(text) for text in texts]``, sooner, or None if one of them is no time."""
    lengths = set(map(len, texts))
    days, minutes, seconds = _DAYS, _MINUTES, _SECONDS
    try:
        if lengths == {20}:
            return [days[t[:10]] + minutes[t[10:16]] + _SECONDS_Z[t[16:]] for t in texts]
        if lengths == {24}:
            return [days[t[:10]] + minutes[t[10:16]] + seconds[t[16:19]] + _MILLIS_Z[t[19:]] for t in texts]
    except KeyError:
        pass
    times = []
    for text in texts:
        time = parse_time(text)
        if time is None:
            return None
        times.append(time)
    return times


def _parse_fixed(text: str) -> int | None:
    """Read YYYY-MM-DDTHH:MM:SS[.fff[fff]] and Z or ±HH:MM; None says only that ``_parse_iso`` must look."""
    try:
        micros = _DAYS[text[:10]] + _MINUTES[text[10:16]] + _SECONDS[text[16:19]]
        if text.endswith("Z"):
            fraction = text[19:-1]
        else:
            micros -= _ZONES[text[-6:]]
            fraction = text[19:-6]
            if not _FIRST <= micros <= _LAST:
                return None
        if fraction:
            micros += _MILLIS[fraction[:4]]
            if len(fraction) > 4:
                micros += _MICROS[fraction[4:]]
    except KeyError:
        return None
    return micros


def _parse_iso(text: str) -> int | None:
    """Read any time we take that is written as text."""
    found = _ISO_8601.fullmatch(text)
    if found is None:
        return None
    part = found.groupdict(default="0")
    hour, minute, second = int(part["hour"]), int(part["minute"]), int(part["second"])
    zone_hour, zone_minute = int(part["zone_hour"]), int(part["zone_minute"])
    if hour > 23 or minute > 59 or second > 59 or zone_hour > 23 or zone_minute > 59:
        return None
    try:
        day = date(int(part["year"]), int(part["month"]), int(part["day"])).toordinal() - _EPOCH
    except ValueError:
        return None
    zone = (zone_hour * 60 + zone_minute) * (-1 if part["sign"] == "-" else 1)
    minutes = hour * 60 + minute - zone
    micros = day * _DAY + (minutes * 60 + second) * _SECOND + int(part["fraction"][:6].ljust(6, "0"))
    return micros if _FIRST <= micros <= _LAST else None


def parse_any_time(value: str | int | float) -> int | None:
    """Return a time as ``parse_time`` does, or else as ``parse_month_first`` does: no text is both."""
    micros = parse_time(value)
    return parse_month_first(value) if micros is None and isinstance(value, str) else micros


def parse_month_first(text: str) -> int | None:
    """Return a time as it is written in the US, in microseconds since 1970-01-01 UTC, or None if it is none.

    ``1/31/2017``, ``01-31-2017 17:30``, ``1/31/2017 5:30:00.250 PM``: UTC.
    """
    found = _MONTH_FIRST.fullmatch(text)
    if found is None:
        return None
    part = found.groupdict(default="0")
    hour = int(part["hour"])
    if found["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found["half"] in "Pp" else 0)
    day = f"{part['year']}-{int(part['month']):02}-{int(part['day']):02}"
    clock = f"{hour:02}:{part['minute'].zfill(2)}:{part['second'].zfill(2)}"
    return _parse_fixed(f"{day}T{clock}.{part['fraction'][:6]:0<6}Z")
