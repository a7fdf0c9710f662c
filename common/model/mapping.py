"""How a line's fields become an event: what a dialect hands to the engine instead of its name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from common.model.rules import NO_RULES, Rules


class OnDuplicate(StrEnum):
    """What happens to a line whose id is stored already."""

    #: The stored event stays; the line is counted as a duplicate.
    KEEP = "keep"
    #: The later line takes the place of the stored event.
    REPLACE = "replace"


class ColumnType(StrEnum):
    """What the cells of a CSV column are, that without a type stay strings."""

    STRING = "string"
    #: A number of JSON; the cell's own digits are kept.
    NUMBER = "number"
    #: ``true`` or ``false``, in letters of any case.
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which members of a line, in order of preference, hold its id and its time, and what else differs by dialect.

    The first name whose member is present and not null counts. Names are looked up at the top level of the
    object only, and exactly (no dotted paths).
    """

    id_names: tuple[str, ...] = ("$unique_id",)
    time_names: tuple[str, ...] = ("$time",)
    on_duplicate: OnDuplicate = OnDuplicate.KEEP
    #: Of CSV: types by column, named as in the header (``Metrics.price``).
    types: tuple[tuple[str, ColumnType], ...] = ()
    #: Of CSV: whether a quoted cell may hold line breaks.
    quoted_line_breaks: bool = True
    #: Of CSV: whether dots in the names of columns nest. Otherwise they are part of the name.
    dots_nest: bool = True
    #: Whether dates as they are written in the US are times too: ``1/31/2017``.
    month_first: bool = False
    #: A line that none of ``id_names`` gives an id, and that has a time, has that moment for its id: however it is
    #: written, and to the microsecond.
    id_is_time: bool = False
    #: Of the request alone: no collection remembers them.
    rules: Rules = NO_RULES
