"""Read the header of CSV: the names of the columns, and the form that they give to the object made of each row.

The header is the source's first record; no blank line comes before it. Dots nest: of the columns ``Type`` and
``Location.Country`` a row becomes ``{"Type":..,"Location":{"Country":..}}``; where the mapping does not let them, they
are part of the name. A name that is repeated holds a list, in the order of its columns. Members stand in the order in
which their names come up first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from common.errors import SourceFailed
from common.judging import MAX_DEPTH
from common.model.mapping import Mapping
from workers.imports.framing import NEWLINE
from workers.imports.records import BYTE_ORDER_MARK, Quotes, State, read_rows

#: The longest header taken. 10,000 columns have 100 bytes each.
HEADER_BYTES = 1 << 20
#: The longest name of a column. Each row's object repeats all names, so what they cost goes with the rows.
NAME_BYTES = 1024
#: Levels that all names may have in sum: 10,000 columns have 13 each. Half a million took 100 MB and 0.4 s.
_MOST_LEVELS = 1 << 17
#: Characters of a name that a reason shows.
_SHOWN = 60

_Tree: TypeAlias = "dict[str, _Tree | list[int]]"


@dataclass(frozen=True, slots=True)
class Form:
    """How the object of a row is put together of its cells."""

    #: The object with ``%b`` in the place of each cell, which comes as JSON.
    template: bytes
    #: Which column's cell is put in each place.
    columns: tuple[int, ...]

    @property
    def overhead(self) -> int:
        """Bytes that the names add to each row: a row of n bytes becomes an object of about n + this."""
        return len(self.template)


def read_header(sample: bytes, mapping: Mapping, *, whole: bool) -> tuple[str, ...]:
    """Return the names of the columns as they stand in the header that ``sample`` begins with.

    ``sample`` is the beginning of the source, ``whole`` whether it is all of it; ``HEADER_BYTES + 5`` bytes (a byte
    order mark, a line end) are always enough. SourceFailed ``invalid_header`` where the header cannot be read, a name
    cannot become a member, or a column that ``mapping`` names is more than one value.
    """
    text = _header_text(sample.removeprefix(BYTE_ORDER_MARK), whole=whole, breaks=mapping.quoted_line_breaks)
    names = tuple(read_rows([text])[0])
    check_mapped(names, mapping)
    return names


def check_mapped(names: Sequence[str], mapping: Mapping) -> None:
    """Refuse names that cannot become members, and a column that the mapping names and that is not one value of a row.

    SourceFailed ``invalid_header``.
    """
    tree = _grow(names, dots_nest=mapping.dots_nest)
    # An id or a time is a member of the object itself: a name whose dots nest is none of CSV's.
    mapped = [[name] for name in (*mapping.id_names, *mapping.time_names)]
    mapped += [name.split(".") if mapping.dots_nest else [name] for name, _ in mapping.types]
    for levels in mapped:
        found: _Tree | list[int] | None = tree
        for level in levels:
            found = found.get(level) if isinstance(found, dict) else None
        if isinstance(found, dict):
            at = _first_column(found)
            raise _invalid(f"{_column(at, names[at])} lies inside {'.'.join(levels)!r}, which has to be a value itself")
        if found is not None and len(found) > 1:
            raise _invalid(f"{_column(found[1], names[found[1]])} is there twice, and has to be one value")


def lay_out(names: Sequence[str], *, dots_nest: bool = True) -> Form:
    """Return the form of the rows under the names that ``read_header`` returned; SourceFailed if it would not have."""
    columns: list[int] = []
    template = "".join(_parts(_grow(names, dots_nest=dots_nest), columns))
    return Form(template.encode(), tuple(columns))


def _header_text(sample: bytes, *, whole: bool, breaks: bool) -> str:
    """Return the first record without its line end; it is well-formed."""
    end = Quotes().end(sample) if breaks else sample.find(NEWLINE)
    if end < 0:
        end = len(sample) if whole else HEADER_BYTES + 2
    record = sample[:end].removesuffix(b"\r")
    if len(record) > HEADER_BYTES or end > len(sample):
        shown = min(HEADER_BYTES, len(sample))
        raise _invalid(f"it does not end within {shown:,} bytes; perhaps a quote is not closed, or it is no CSV")
    if not record.strip(b" \t\r"):
        raise _invalid("the first line is blank; the names of the columns belong there")
    quotes = Quotes()
    quotes.end(record)
    if quotes.state is State.QUOTED:
        raise _invalid("a quote in it is not closed" + ("" if breaks else " on its line"))
    if quotes.state in (State.FAULT, State.RETURN):
        raise _invalid(
            "a quote stands inside a name without quotes, text follows a closing quote, or a carriage return stands "
            "outside quotes (lines end with a line feed, or with both)"
        )
    try:
        return record.decode()
    except UnicodeDecodeError:
        raise _invalid("it is not UTF-8") from None


def _grow(names: Sequence[str], *, dots_nest: bool) -> _Tree:
    """Return the members, nested, in the order in which they come up, with the columns of each value."""
    tree: _Tree = {}
    levels = 0
    for at, name in enumerate(names):
        *above, last = _levels(at, name, dots_nest=dots_nest)
        levels += len(above) + 1
        if levels > _MOST_LEVELS:
            raise _invalid(f"with {_column(at, name)} its names come to more than {_MOST_LEVELS:,} levels in sum")
        level = tree
        for part in above:
            inner = level.setdefault(part, {})
            if isinstance(inner, list):
                raise _inside(names, at, inner[0])
            level = inner
        value = level.setdefault(last, [])
        if isinstance(value, dict):
            raise _inside(names, _first_column(value), at)
        value.append(at)
        if len(above) + 1 == MAX_DEPTH and len(value) > 1:
            raise _too_deep(at, name)  # a list of values is a level, too
    return tree


def _levels(at: int, name: str, *, dots_nest: bool) -> list[str]:
    levels = name.split(".") if dots_nest else [name]
    if len(levels) > MAX_DEPTH:
        raise _too_deep(at, name)
    if len(name.encode()) > NAME_BYTES:
        raise _invalid(f"the name of {_column(at, name)} is longer than {NAME_BYTES:,} bytes")
    # An empty name is as good a member as any: data frames are written with their index first, which has none.
    if not dots_nest:
        return levels
    if not name:
        raise _invalid(f"{_column(at, name)} has no name")
    if "" in levels:
        raise _invalid(f"{_column(at, name)} has nothing before, between or behind its dots; they nest the names")
    return levels


def _first_column(tree: _Tree) -> int:
    """Return the first of the columns in a tree."""
    inner: _Tree | list[int] = tree
    while isinstance(inner, dict):
        inner = next(iter(inner.values()))
    return inner[0]


def _parts(tree: _Tree, columns: list[int]) -> Iterator[str]:
    """Yield the template in parts and add the column of each place. No recursion: there may be 512 levels."""
    open_levels = [iter(tree.items())]
    yield "{"
    comma = ""
    while open_levels:
        name, inner = next(open_levels[-1], (None, None))
        if name is None:
            open_levels.pop()
            yield "}"
            comma = ","
            continue
        yield comma + msgspec.json.encode(name).decode().replace("%", "%%") + ":"
        if isinstance(inner, dict):
            open_levels.append(iter(inner.items()))
            yield "{"
            comma = ""
        elif inner is not None:
            columns += inner
            yield "%b" if len(inner) == 1 else "[" + ",".join(["%b"] * len(inner)) + "]"
            comma = ","


def _column(at: int, name: str) -> str:
    """Name a column by its place, from 1, and what fits of its name."""
    return f"column {at + 1} ({name[:_SHOWN]!r}{'...' if len(name) > _SHOWN else ''})"


def _inside(names: Sequence[str], at: int, outer: int) -> SourceFailed:
    return _invalid(f"{_column(at, names[at])} lies inside {_column(outer, names[outer])}, which is a value itself")


def _too_deep(at: int, name: str) -> SourceFailed:
    return _invalid(f"{_column(at, name)} is nested more deeply than {MAX_DEPTH} levels")


def _invalid(what: str) -> SourceFailed:
    return SourceFailed(
        "invalid_header",
        f"The header of the CSV cannot be used: {what}. Mend the first line and import the object again; nothing of it "
        "was imported.",
    )
