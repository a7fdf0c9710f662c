"""Which events of a collection somebody asks for: conditions on what they hold, and a window of time. Pure.

A query is JSON with up to three members, ``{"filter": {..}, "timeframe": .., "timezone": ..}``; ``{}`` is everything.

**filter**: ``{"path": wanted}``, all of them at once (there is no OR). A path is a name, or names joined by dots that
descend into objects, and into nothing else: not into arrays, and no member whose own name holds a dot is reached. Of a
repeated name the last counts. What is wanted is a scalar (``eq``), an array (``in``), or an object of operators, all
of them at once:

==================  ========================  ==================================================================
operator            takes                     matches where the path leads to
==================  ========================  ==================================================================
eq                  scalar                    an equal value of the same type; ``null``: to null or nowhere
neq                 scalar                    whatever ``eq`` does not, so also to nowhere
gt gte lt lte       number, string            a value of the same type in that order
exists              true, false               anything but null; ``false``: to null or nowhere
contains            string                    a string that has it somewhere, at its start, at its end, to the
startsWith                                    letter: case counts, and no character stands for others
endsWith
in                  scalars of one type       an equal value; of an empty array nothing
==================  ========================  ==================================================================

- A missing member and null are the same. Types never mix: 5 is neither "5" nor less than "6", true is not 1.
- Arrays and objects are seen by ``exists`` alone; to all other operators they are values that nothing equals.
- Numbers compare as numbers, exactly: 25.00 is 25, 1e2 is 100, integers of 100 digits differ in their last. A number
  of the query is an integer or a double, by the shortest decimal that means it (0.1 is 0.1). A number of an event of
  more than 1,000 characters, or with an exponent of five digits, is none that can be compared: to all operators but
  ``exists`` it is what an array is to them. (Postgres fails on the cast of 1e999999.)
- Strings compare by code point. Escapes are what they stand for.
- ``id`` is no path, nor is ``timestamp``: the time of an event is asked for by the timeframe.

**timeframe**: a window, its start included and its end not. One of 14 names (``this_``, ``last_`` and minute, hour,
week, month, quarter, year; today; yesterday); ``{"current": {"days": 3}}``, the present unit and the two before it, to
the end of the present one; ``{"previous": {"days": 3}}``, the three whole units before the present one; or absolute,
``{"start": .., "end": ..}``, either of which may be missing. Weeks begin on Sunday.

**timezone**: hours from UTC (9.5) or a name of the IANA database, only beside a relative timeframe. A day begins at
the first instant at which the zone's calendar shows its date or a later one, so it has 23 or 25 hours now and then,
and larger units begin with their first day. Minutes and hours are 60 and 3,600 s long, counted from where the present
one began.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple, NoReturn
from zoneinfo import ZoneInfo, available_timezones

from common.errors import Refusal
from common.model.times import parse_time

#: Operators that a query may name, all paths together. Each costs a look into the payload of every row.
MAX_CONDITIONS = 100
#: Names that a path may have, and characters that each may have (the dialects allow no longer names).
MAX_DEPTH = 32
MAX_NAME = 255
#: Characters of a string, and scalars of a list.
MAX_STRING = 4096
MAX_LIST = 1000
#: Numbers of a query lie between this and its negative: every double does.
MAX_NUMBER = 10**309
#: Numbers of an event that can be compared have no more characters than this, and no exponent as in this pattern (of
#: Postgres as well as of Python): well within what numeric holds, 131,072 digits before the point and 16,383 behind it.
MAX_DIGITS = 1000
TOO_GREAT = "[eE][+-]?0*[1-9][0-9]{4}"

_TOO_GREAT = re.compile(TOO_GREAT)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIXED_UNITS = {"minutes": timedelta(minutes=1), "hours": timedelta(hours=1)}
_MONTHS = {"months": 1, "quarters": 3, "years": 12}
_UNITS = (*_FIXED_UNITS, "days", "weeks", *_MONTHS)
_NAMED = {
    **{f"this_{unit[:-1]}": ("current", unit) for unit in _UNITS if unit != "days"},
    **{f"last_{unit[:-1]}": ("previous", unit) for unit in _UNITS if unit != "days"},
    "today": ("current", "days"),
    "yesterday": ("previous", "days"),
}

#: What an operator compares with; a number as a Decimal, of which equal ones are equal however they were spelt.
Scalar = str | Decimal | bool | None
Operand = Scalar | tuple[Scalar, ...]


class Operator(StrEnum):
    """How a value is compared; see above."""

    EQ = "eq"
    NEQ = "neq"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    EXISTS = "exists"
    CONTAINS = "contains"
    STARTS_WITH = "startsWith"
    ENDS_WITH = "endsWith"
    IN = "in"


_ORDERS = frozenset({Operator.GT, Operator.GTE, Operator.LT, Operator.LTE})
_TEXTUAL = frozenset({Operator.CONTAINS, Operator.STARTS_WITH, Operator.ENDS_WITH})


class _Number(str):
    """A number of an event as it is spelt; most are never compared, and some cannot be."""

    __slots__ = ()


class _Other:
    """What no operand equals: an array, an object, a number that cannot be compared."""


_OTHER = _Other()
_JSON = json.JSONDecoder(parse_float=_Number, parse_int=_Number)


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one path."""

    path: tuple[str, ...]
    operator: Operator
    #: For ``in`` a tuple, for ``exists`` a bool.
    operand: Operand

    def matches(self, event: Any) -> bool:
        """Return whether a decoded event is as the condition says."""
        value: Any = event
        for name in self.path:
            value = value.get(name) if type(value) is dict else None
        return _compare(_scalar(value), self.operator, self.operand)


def _scalar(value: Any) -> Scalar | _Other:
    """Return a value of an event as operands are written."""
    if type(value) is _Number:
        return _OTHER if len(value) > MAX_DIGITS or _TOO_GREAT.search(value) else Decimal(value)
    return value if value is None or type(value) in (str, bool) else _OTHER


def _compare(value: Scalar | _Other, operator: Operator, operand: Any) -> bool:
    if operator is Operator.EXISTS:
        return (value is not None) is operand
    if operator is Operator.NEQ:
        return not _equals(value, operand)
    if operator is Operator.EQ:
        return _equals(value, operand)
    if operator is Operator.IN:
        return any(_equals(value, one) for one in operand)
    return type(value) is type(operand) and _COMPARE[operator](value, operand)


def _equals(value: Scalar | _Other, operand: Scalar) -> bool:
    return type(value) is type(operand) and value == operand


_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.GT: lambda value, operand: value > operand,
    Operator.GTE: lambda value, operand: value >= operand,
    Operator.LT: lambda value, operand: value < operand,
    Operator.LTE: lambda value, operand: value <= operand,
    Operator.CONTAINS: lambda value, operand: operand in value,
    Operator.STARTS_WITH: str.startswith,
    Operator.ENDS_WITH: str.endswith,
}


@dataclass(frozen=True, slots=True)
class Query:
    """Conditions, all of which an event has to meet, and a window of time: from ``start`` on, before ``end``; UTC."""

    #: In the order of their paths and operators, so that equal queries are equal however they were written.
    conditions: tuple[Condition, ...] = ()
    start: datetime | None = None
    end: datetime | None = None

    def matches(self, payload: bytes) -> bool:
        """Return whether an event meets the conditions. Its time is no part of the payload, and is not looked at.

        ``payload`` is a line that the import takes; of such a line nothing is raised, if fewer than 450 calls are under
        way (Python reads 512 levels of nesting by as many calls of its own).
        """
        if not self.conditions:
            return True
        event = _JSON.decode(payload.decode())
        return all(condition.matches(event) for condition in self.conditions)

    def also(self, conditions: tuple[Condition, ...]) -> Query:
        """Return the query for those of its events that meet more conditions, one operator on one path twice or not.

        Raises Refusal ``invalid_query`` where they would be too many together.
        """
        if len(self.conditions) + len(conditions) > MAX_CONDITIONS:
            _refuse("query.filter", f"A filter has at most {MAX_CONDITIONS} conditions, those of the key included.")
        return replace(self, conditions=_in_order([*conditions, *self.conditions]))

    def as_json(self) -> dict[str, Any]:
        """Return the query as JSON values, absolute: ``from_json`` makes an equal query of them at any time.

        ``parse_query`` does too, unless conditions were added: an array of filters, which nobody can ask for, holds
        those that have one operator on one path. A reader that knows no arrays fails, and shows nothing.
        """
        asked: dict[str, Any] = {}
        if self.conditions:
            filters = _filters_of(self.conditions)
            asked["filter"] = filters if len(filters) > 1 else filters[0]
        bounds = {"start": self.start, "end": self.end}
        window = {name: _time_as_json(bound) for name, bound in bounds.items() if bound is not None}
        if window:
            asked["timeframe"] = window
        return asked

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Query:
        """Return the query that ``as_json`` wrote."""
        filters = stored.get("filter")
        if not isinstance(filters, list):
            return parse_query(stored, now=_EPOCH)
        parts = [parse_query({**stored, "filter": one}, now=_EPOCH) for one in filters]
        return replace(parts[0], conditions=_in_order([condition for part in parts for condition in part.conditions]))


EVERYTHING = Query()


def _in_order(conditions: list[Condition]) -> tuple[Condition, ...]:
    return tuple(sorted(conditions, key=lambda condition: (condition.path, condition.operator)))


def _filters_of(conditions: tuple[Condition, ...]) -> list[dict[str, dict[str, Any]]]:
    """Return filters that are all the conditions together: one, unless an operator stands twice at one path."""
    filters: list[dict[str, dict[str, Any]]] = []
    for condition in conditions:
        path, operator = ".".join(condition.path), condition.operator.value
        free = next((one for one in filters if operator not in one.get(path, {})), None)
        if free is None:
            filters.append(free := {})
        free.setdefault(path, {})[operator] = _operand_as_json(condition.operand)
    return filters


def _operand_as_json(operand: Operand) -> Any:
    if isinstance(operand, tuple):
        return [_operand_as_json(one) for one in operand]
    if not isinstance(operand, Decimal):
        return operand
    # An integer that a double does not mean exactly came as an integer; so did those that a double spells as one.
    if operand == operand.to_integral_value() and (abs(operand) < 10**15 or _decimal(float(operand)) != operand):
        return int(operand)
    return float(operand)


def _time_as_json(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_query(value: Any, *, now: datetime, field: str = "query") -> Query:
    """Return the query that decoded JSON asks for; None and ``{}`` ask for everything.

    ``now`` (aware) is what a relative timeframe is relative to, ``field`` what the request calls the query. Raises
    Refusal ``invalid_query`` with the dotted field at fault.
    """
    if value is None:
        return EVERYTHING
    if not isinstance(value, dict):
        _refuse(field, 'A query is a JSON object such as {"filter": {..}, "timeframe": ..}.')
    for name in value:
        if name not in ("filter", "timeframe", "timezone"):
            _refuse(f"{field}.{_shown(name)}", "Events are chosen by filter, timeframe and timezone only.")
    conditions = _parse_filter(value.get("filter"), f"{field}.filter")
    zone = _parse_zone(value.get("timezone"), value.get("timeframe"), f"{field}.timezone")
    start, end = _parse_timeframe(value.get("timeframe"), now, zone, f"{field}.timeframe")
    return Query(conditions, start, end)


def _refuse(field: str, text: str) -> NoReturn:
    raise Refusal("invalid_query", text, field=field)


def _shown(name: Any) -> str:
    """Return a name of the caller's as it may stand in an answer: bounded, and nothing that cannot be written."""
    text = str(name)
    return (text if len(text) <= 80 else f"{text[:80]}...").encode(errors="replace").decode()


def _parse_filter(value: Any, field: str) -> tuple[Condition, ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        _refuse(field, 'A filter is a JSON object of paths and what is wanted there, such as {"price": {"gt": 5}}.')
    conditions: list[Condition] = []
    for text, wanted in value.items():
        at = f"{field}.{_shown(text)}"
        path = _parse_path(text, at)
        conditions += (Condition(path, *pair) for pair in _parse_wanted(wanted, at))
        if len(conditions) > MAX_CONDITIONS:
            _refuse(field, f"A filter has at most {MAX_CONDITIONS} conditions.")
    return _in_order(conditions)


def _parse_path(text: str, field: str) -> tuple[str, ...]:
    if text == "id":
        _refuse(field, "Events cannot be chosen by their id.")
    if text == "timestamp":
        _refuse(field, "The time of an event is asked for by the query's timeframe, not by a filter.")
    path = tuple(text.split("."))
    if len(path) > MAX_DEPTH or any(len(name) > MAX_NAME for name in path):
        _refuse(field, f"A path has at most {MAX_DEPTH} names of at most {MAX_NAME} characters.")
    _check_characters(text, field)
    return path


def _parse_wanted(wanted: Any, field: str) -> Iterator[tuple[Operator, Operand]]:
    if isinstance(wanted, list):
        wanted = {"in": wanted}
    elif not isinstance(wanted, dict):
        wanted = {"eq": wanted}
    if not wanted:
        _refuse(field, f"Name at least one operator: {_listed(Operator)}.")
    for name, operand in wanted.items():
        at = f"{field}.{_shown(name)}"
        if name not in _OPERATORS:
            _refuse(at, f"There is no such operator. There are {_listed(Operator)}.")
        operator = Operator(name)
        yield operator, _parse_operand(operator, operand, at)


_OPERATORS = frozenset(operator.value for operator in Operator)


def _listed(names: Any) -> str:
    return ", ".join(names)


def _parse_operand(operator: Operator, value: Any, field: str) -> Operand:
    if operator is Operator.IN:
        return _parse_list(value, field)
    operand = _parse_scalar(value, field)
    if operator is Operator.EXISTS and not isinstance(operand, bool):
        _refuse(field, "The operator exists takes true or false.")
    if operator in _TEXTUAL and not isinstance(operand, str):
        _refuse(field, f"The operator {operator} takes a string.")
    if operator in _ORDERS and not isinstance(operand, str | Decimal):
        _refuse(field, f"The operator {operator} takes a number or a string.")
    return operand


def _parse_list(value: Any, field: str) -> tuple[Scalar, ...]:
    if not isinstance(value, list):
        _refuse(field, "The operator in takes an array.")
    if len(value) > MAX_LIST:
        _refuse(field, f"An array has at most {MAX_LIST} values.")
    operands = tuple(_parse_scalar(one, field) for one in value)
    if len(set(map(type, operands))) > 1 or None in operands:
        _refuse(field, "The values of an array are all strings, all numbers, or all true and false.")
    return operands


def _parse_scalar(value: Any, field: str) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > MAX_STRING:
            _refuse(field, f"A string has at most {MAX_STRING} characters.")
        _check_characters(value, field)
        return value
    if isinstance(value, int | float):
        # False for NaN and infinity, too.
        if not -MAX_NUMBER < value < MAX_NUMBER:
            _refuse(field, "The number is too large, or none at all.")
        return _decimal(value)
    _refuse(field, "A value is a string, a number, true, false or null.")


def _decimal(number: int | float) -> Decimal:
    # Of a double not the 50 digits that it is, but the few by which it is written.
    return Decimal(number) if isinstance(number, int) else Decimal(repr(number))


def _check_characters(text: str, field: str) -> None:
    """Refuse what a string of Postgres cannot hold, so that no query differs between here and there."""
    if "\0" in text or (not text.isascii() and re.search("[\ud800-\udfff]", text)):
        _refuse(field, "The text holds the character U+0000 or half of a surrogate pair; neither can be asked for.")


def _parse_zone(value: Any, timeframe: Any, field: str) -> tzinfo:
    if value is None:
        return UTC
    if not isinstance(timeframe, str) and not (isinstance(timeframe, dict) and _RELATIVE & {*timeframe}):
        _refuse(field, "A timezone is taken only beside a relative timeframe, such as today.")
    if isinstance(value, str):
        if value not in _zone_names():
            _refuse(field, "There is no such timezone. Give an IANA name such as Australia/Brisbane, or hours.")
        return ZoneInfo(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -24 < value < 24:
        _refuse(field, "A timezone is a number of hours from UTC, such as 9.5, or an IANA name.")
    return timezone(timedelta(hours=value))


@cache
def _zone_names() -> frozenset[str]:
    """Return the names of zones; without "localtime", which is the zone of whatever machine this is."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


_RELATIVE = frozenset({"current", "previous"})
_Window = tuple[datetime | None, datetime | None]


class _Period(NamedTuple):
    """So many units, with the present one the last of them or, previous, just before it."""

    direction: str
    unit: str
    units: int


def _parse_timeframe(value: Any, now: datetime, zone: tzinfo, field: str) -> _Window:
    if value is None:
        return None, None
    if isinstance(value, str):
        if value not in _NAMED:
            _refuse(field, f"There is no such timeframe. There are {_listed(_NAMED)}.")
        return _relative(_Period(*_NAMED[value], 1), now, zone, field)
    if not isinstance(value, dict) or not value:
        _refuse(field, "A timeframe is a name such as today, or an object of current, previous, or start and end.")
    for direction in _RELATIVE & {*value}:
        if len(value) > 1:
            _refuse(field, f"A timeframe with {direction} has no other member.")
        unit, count = _parse_count(value[direction], f"{field}.{direction}")
        return _relative(_Period(direction, unit, count), now, zone, f"{field}.{direction}.{unit}")
    return _absolute(value, field)


def _parse_count(value: Any, field: str) -> tuple[str, int]:
    if not isinstance(value, dict) or len(value) != 1:
        _refuse(field, f'Name one unit and how many of it, such as {{"days": 3}}. Units are {_listed(_UNITS)}.')
    ((unit, count),) = value.items()
    if unit not in _UNITS:
        _refuse(f"{field}.{_shown(unit)}", f"There is no such unit. There are {_listed(_UNITS)}.")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        _refuse(f"{field}.{unit}", "How many units is a whole number from 1 on.")
    return unit, count


def _absolute(value: Mapping[str, Any], field: str) -> _Window:
    for name in value:
        if name not in ("start", "end"):
            text = "A timeframe has start and end, either of which may be missing, or current, or previous."
            _refuse(f"{field}.{_shown(name)}", text)
    start, end = (_parse_bound(value.get(name), f"{field}.{name}") for name in ("start", "end"))
    if start is None and end is None:
        _refuse(field, "A timeframe needs a start or an end; leave it out for all time.")
    if start and end and end < start:
        _refuse(field, "The timeframe ends before it starts.")
    return start, end


def _parse_bound(value: Any, field: str) -> datetime | None:
    if value is None:
        return None
    micros = parse_time(value) if isinstance(value, str) else None
    if micros is None:
        _refuse(field, "A time is an ISO 8601 date with or without a clock time, such as 2015-07-28T00:00:30.295Z.")
    return _EPOCH + timedelta(microseconds=micros)


def _relative(period: _Period, now: datetime, zone: tzinfo, field: str) -> _Window:
    last = 1 if period.direction == "current" else 0
    try:
        local = now.astimezone(zone)
        return _begin(period.unit, last - period.units, local), _begin(period.unit, last, local)
    except (OverflowError, ValueError):
        _refuse(field, "The timeframe reaches beyond the years 1 to 9999.")


def _begin(unit: str, steps: int, now: datetime) -> datetime:
    """Return where the unit so many after the present one begins; OverflowError, ValueError beyond the years."""
    if unit in _FIXED_UNITS:
        length = _FIXED_UNITS[unit]
        hour = datetime.combine(now.date(), time(now.hour))
        return now.astimezone(UTC) - (now.replace(tzinfo=None) - hour) % length + steps * length
    today = now.date()
    if unit in _MONTHS:
        length_in_months = _MONTHS[unit]
        month = (today.year * 12 + today.month - 1) // length_in_months * length_in_months + steps * length_in_months
        day = date(month // 12, month % 12 + 1, 1)
    elif unit == "weeks":
        day = today + timedelta(days=steps * 7 - today.isoweekday() % 7)
    else:
        day = today + timedelta(days=steps)
    return _midnight(day, now.tzinfo or UTC)


def _midnight(day: date, zone: tzinfo) -> datetime:
    """Return the first instant, in UTC, at which the zone's calendar shows the day or a later one."""
    # Of two midnights (the clock went back over one) fold 0 is the first.
    begin = datetime.combine(day, time(), zone).astimezone(UTC)
    if begin.astimezone(zone).replace(tzinfo=None) == datetime.combine(day, time()):
        return begin
    # There is none: the clock went forward over it (Sao Paulo until 2018; Samoa left out a whole day). Read with the
    # offset from before, the midnight lies at or behind that moment; with the one from after, before it.
    early = datetime.combine(day, time(fold=1), zone).astimezone(UTC)
    while begin - early > timedelta(seconds=1):
        middle = early + (begin - early) // timedelta(seconds=2) * timedelta(seconds=1)
        early, begin = (early, middle) if middle.astimezone(zone).date() >= day else (middle, begin)
    return begin
