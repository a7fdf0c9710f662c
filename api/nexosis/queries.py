"""The queries of lists: filters, orders, pages, and the times of rows. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from api.nexosis.parse import invalid
from common.errors import Refusal
from common.model.collections import MAX_NAME, check_collection
from common.model.imports import ImportOrder, Listing
from common.model.times import as_datetime, parse_any_time

#: Items of a page that nobody asks the size of, and at the most.
PAGE, MOST_OF_A_PAGE = 50, 1000
#: Characters that are shown of what a request says.
_SHOWN = 64

_ORDERS = {
    "id": ImportOrder.ID,
    "datasetname": ImportOrder.COLLECTION,
    "requesteddate": ImportOrder.CREATED,
    "currentstatusdate": ImportOrder.CHANGED,
}
_DIRECTIONS = {"asc": False, "desc": True}

_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
#: The end of a time whose plus stands for a space, as it does in a query that nobody encoded.
_LOST_PLUS = re.compile(r" (?=[0-9]{2}:?[0-9]{2}\Z)")
#: What a deletion may say.
_OF_DELETION = frozenset({"startdate", "enddate", "cascade"})


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is asked for, and by which query."""

    #: From 0.
    number: int
    size: int
    #: All that was asked for, in one form.
    query: str


@dataclass(frozen=True, slots=True)
class ImportList:
    """Which imports are to be listed, and how."""

    paging: Paging
    listing: Listing


@dataclass(frozen=True, slots=True)
class TableList:
    """Which datasets are to be listed."""

    paging: Paging
    containing: str | None


@dataclass(frozen=True, slots=True)
class Timeframe:
    """Which rows are asked for, both ends within."""

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class RowList:
    """Which rows of a dataset are to be told, and what of them."""

    paging: Paging
    times: Timeframe
    #: Names of columns; None: all.
    include: frozenset[str] | None


#: The parameters of a request, each as often as it is there.
Pairs = Iterable[tuple[str, str]]


class _Asked:
    """The parameters of a query, whose names may be in letters of any case. An empty one is none; the last counts."""

    def __init__(self, pairs: Pairs, names: Sequence[str]) -> None:
        spelled = {name.lower(): name for name in names}
        self._values: dict[str, list[str]] = {name: [] for name in names}
        for name, value in pairs:
            if value and (known := spelled.get(name.lower())):
                self._values[known].append(value)
        self.faults: dict[str, list[str]] = {}

    def values(self, name: str) -> list[str]:
        return self._values[name]

    def last(self, name: str) -> str | None:
        return self._values[name][-1] if self._values[name] else None

    def read(self, name: str, read: Callable[[str], Any], default: Any = None) -> Any:
        """Return what the last value says, given what reads it, or gives None where it says nothing."""
        text = self.last(name)
        if text is None:
            return default
        value = read(text)
        if value is None:
            self.faults[name] = [f"The value '{text[:_SHOWN]}' is not valid for {name}."]
        return value

    def paging(self) -> Paging:
        number, size = self.read("page", _read_number, 0), self.read("pageSize", _read_size, PAGE)
        self.check()
        # Without what was asked before: a client that follows the links must not make it longer with each.
        others = [name for name in self._values if name not in ("page", "pageSize")]
        said = [(name, value) for name in others for value in self._told(name)]
        return Paging(number, size, urlencode([("page", number), ("pageSize", size), *said]))

    def _told(self, name: str) -> list[str]:
        values = self._values[name]
        return values if name == "include" else values[-1:]

    def times(self, since: str, until: str) -> Timeframe:
        times = Timeframe(self.read(since, _read_time), self.read(until, _read_time))
        self.check()
        if times.since and times.until and times.since > times.until:
            faults = {since: self.last(since), until: self.last(until)}
            raise Refusal("invalid_date_range", "Start Date must be before End Date", faults=faults)
        return times

    def check(self) -> None:
        """Raise Refusal ``invalid_request`` where something read so far says nothing."""
        if self.faults:
            raise invalid(self.faults)


def import_list(pairs: Pairs) -> ImportList:
    """Return what a query asks for. Raises Refusal ``invalid_request``, ``invalid_date_range``."""
    after, before = "requestedAfterDate", "requestedBeforeDate"
    asked = _Asked(pairs, ["page", "pageSize", "dataSetName", after, before, "sortBy", "sortOrder"])
    by = asked.read("sortBy", lambda text: _ORDERS.get(text.lower()), ImportOrder.CREATED)
    # The order that nobody asks for is that of the later recordings: the newest first.
    default = asked.last("sortBy") is None
    descending = asked.read("sortOrder", lambda text: _DIRECTIONS.get(text.lower()), default)
    name = asked.read("dataSetName", _read_name)
    paging, times = asked.paging(), asked.times(after, before)
    return ImportList(paging, Listing(name, times.since, times.until, by, descending))


def table_list(pairs: Pairs) -> TableList:
    """Return what a query asks for. Raises Refusal ``invalid_request``."""
    asked = _Asked(pairs, ["page", "pageSize", "partialName"])
    part = asked.read("partialName", lambda text: text if text.isprintable() and len(text) <= MAX_NAME else None)
    return TableList(asked.paging(), part)


def row_list(pairs: Pairs) -> RowList:
    """Return what a query asks for. Raises Refusal ``invalid_request``, ``invalid_date_range``."""
    asked = _Asked(pairs, ["page", "pageSize", "startDate", "endDate", "include"])
    times, named = asked.times("startDate", "endDate"), asked.values("include")
    # A name with a comma in it can be asked for, too, where it stands alone.
    include = frozenset(name for value in named for name in (value, *value.split(",")))
    return RowList(asked.paging(), times, include or None)


def timeframe(pairs: Pairs) -> Timeframe:
    """Return which rows are to be deleted. Raises Refusal ``invalid_request``, ``invalid_date_range``.

    For parameters that are not known or empty, too: without its timeframe a request would delete everything.
    """
    given = list(pairs)
    unknown = sorted({name[:_SHOWN] for name, _ in given if name.lower() not in _OF_DELETION})
    # Which is what a client sends whose variable is not set.
    empty = sorted({name for name, value in given if not value and name.lower() != "cascade"} - {*unknown})
    if unknown or empty:
        faults = {name: ["It is not known here, and so nothing was deleted."] for name in unknown}
        faults |= {name: ["It is empty, and so nothing was deleted."] for name in empty}
        raise invalid(faults)
    return _Asked(given, ["startDate", "endDate"]).times("startDate", "endDate")


def _read_number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _read_size(text: str) -> int | None:
    size = _read_number(text)
    return size if size is not None and 1 <= size <= MOST_OF_A_PAGE else None


def _read_name(text: str) -> str | None:
    try:
        return check_collection(text)
    except Refusal:
        return None


def _read_time(text: str) -> datetime | None:
    micros = parse_any_time(text)
    if micros is None:
        micros = parse_any_time(_LOST_PLUS.sub("+", text))
    return None if micros is None else as_datetime(micros)
