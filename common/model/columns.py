"""The columns of a table: what each holds, which of them name a row, and what the first rows tell of them. Pure.

A table is a collection whose events are rows: objects of members without levels. A column is a hint for readers, and no
row is refused for what is in it; but for two roles, which say what names a row. A row of an existing key takes the
place of the stored one. So does, in a table without a key, a row of an existing timestamp. In a table that has neither,
each row is another.

What is declared comes first, then what is known of the table, then what the first rows tell; a key and a timestamp stay
what they were when the first rows came, since all stored ids are made of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from typing import Any, TypeVar

from common.model import mapping as mappings
from common.model.rules import Rules
from common.model.times import parse_any_time


class DataType(StrEnum):
    """What the values of a column are."""

    STRING = "string"
    NUMERIC = "numeric"
    #: Like temperatures: their sum says nothing.
    NUMERIC_MEASURE = "numericMeasure"
    LOGICAL = "logical"
    DATE = "date"
    #: Prose.
    TEXT = "text"


class Role(StrEnum):
    """What a column is for."""

    NONE = "none"
    #: When a row was. The time of the event that the row is.
    TIMESTAMP = "timestamp"
    TARGET = "target"
    FEATURE = "feature"
    #: Names a row.
    KEY = "key"


class Imputation(StrEnum):
    """What stands for a missing value. Remembered and told again; nothing here fills in values."""

    ZEROES = "zeroes"
    MEAN = "mean"
    MEDIAN = "median"
    MODE = "mode"
    MIN = "min"
    MAX = "max"


class Aggregation(StrEnum):
    """What stands for many values. Remembered and told again; nothing here puts rows together."""

    SUM = "sum"
    MEAN = "mean"
    MEDIAN = "median"
    MODE = "mode"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, as far as anybody has said or seen."""

    name: str
    type: DataType | None = None
    role: Role | None = None
    imputation: Imputation | None = None
    aggregation: Aggregation | None = None


#: In their order. Names differ.
Columns = tuple[Column, ...]

#: Of a table: further ones are stored, and not told of. So are those with longer names.
MOST_COLUMNS, NAME_BYTES = 10_000, 1024
#: Rows that are looked at.
FIRST_ROWS = 1000

#: How the rows of a table become events while nobody knows its columns yet.
TABLE_MAPPING = mappings.Mapping(
    id_names=(), time_names=(), on_duplicate=mappings.OnDuplicate.REPLACE, dots_nest=False, month_first=True
)


class ColumnsFault(ValueError):
    """What is declared of columns cannot be. By column: sentences that say why."""

    def __init__(self, faults: Mapping[str, list[str]]) -> None:
        """Take the sentences."""
        self.faults = {shorten(name): texts for name, texts in islice(faults.items(), _MOST_TOLD)}
        told = (
            f"Column '{name}' was supplied with invalid metadata. {texts[0]}" for name, texts in self.faults.items()
        )
        super().__init__(" ".join(told))


#: Faults that are told of: of 10,000 the text would be a megabyte, in a row of the ledger too.
_MOST_TOLD = 10
#: Characters that are shown of a name.
_SHOWN = 100
#: Names that one is compared with: 10,000 took 0.33 s, and 1,000 take 0.03.
_FEW = 1000


def shorten(name: str) -> str:
    """Return what is shown of a column's name: text that can be stored and sent, which not every string of JSON can."""
    return name[:_SHOWN].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# --- what is declared -----------------------------------------------------------------------------------------------

_Word = TypeVar("_Word", bound=StrEnum)
_MEMBERS = ("dataType", "role", "imputation", "aggregation")
_NUMBERS = {DataType.NUMERIC, DataType.NUMERIC_MEASURE}
_NAMING = {Role.KEY, Role.TIMESTAMP}
_HALF = re.compile("[\ud800-\udfff]")


def read_columns(value: Any) -> Columns:
    """Return what a JSON object says of columns: by name, ``{"dataType", "role", "imputation", "aggregation"}``.

    Names of members and their words may be in letters of any case; null and empty strings say nothing. Raises
    ColumnsFault with everything that is wrong.
    """
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise ColumnsFault({"columns": ["The metadata of columns is an object by the names of the columns."]})
    if len(value) > MOST_COLUMNS:
        raise ColumnsFault({"columns": [f"There is metadata of more than {MOST_COLUMNS} columns."]})
    read = {name: _read_column(name, said) for name, said in value.items()}
    columns = tuple(column for column, _ in read.values())
    for role in sorted(_NAMING):
        for name in _named(columns, role)[1:]:
            read[name][1].append(f"A table has only one column whose role is {role}.")
    if faults := {name: wrong for name, (_, wrong) in read.items() if wrong}:
        raise ColumnsFault(faults)
    return columns


def _read_column(name: str, said: Any) -> tuple[Column, list[str]]:
    wrong = [] if _can_be_told(name) else [f"Its name is longer than {NAME_BYTES} bytes, or no valid Unicode."]
    if said is None:
        return Column(name), wrong
    if not isinstance(said, dict):
        return Column(name), [*wrong, "The metadata of a column is an object."]
    folded = {str(key).lower(): word for key, word in said.items()}
    words = [folded.get(member.lower()) for member in _MEMBERS]
    column = Column(
        name,
        _read_word(DataType, "dataType", words[0], wrong),
        _read_word(Role, "role", words[1], wrong),
        _read_word(Imputation, "imputation", words[2], wrong),
        _read_word(Aggregation, "aggregation", words[3], wrong),
    )
    if column.role is Role.TIMESTAMP:
        if column.type not in (None, DataType.DATE):
            wrong.append("Timestamp columns must have data type Date")
        column = replace(column, type=DataType.DATE)
    if column.role is Role.TARGET and column.type is not None and column.type not in _NUMBERS:
        wrong.append("Target columns must have data type Numeric")
    if column.type is DataType.TEXT and (column.imputation or column.aggregation):
        wrong.append("Text columns have neither imputation nor aggregation")
    return column, wrong


def _can_be_told(name: str) -> bool:
    """Return whether a name can be stored and sent. JSON, read by a library of less care, may have half a pair."""
    return len(name) <= NAME_BYTES and len(name.encode(errors="replace")) <= NAME_BYTES and not _HALF.search(name)


def _read_word(words: type[_Word], member: str, said: Any, wrong: list[str]) -> _Word | None:
    if said is None or said == "":
        return None
    if isinstance(said, str):
        for word in words:
            if word.lower() == said.lower():
                return word
    wrong.append(f"Its {member} is none of {', '.join(words)}.")
    return None


# --- what the first rows tell ----------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_PAIRS = [{"true", "false"}, {"on", "off"}, {"yes", "no"}]
_BITS = {"0", "1"}


def infer_columns(rows: Iterable[Mapping[str, Any]]) -> Columns:
    """Return what the first ``FIRST_ROWS`` rows, as JSON has them, tell of their columns.

    A column is numeric, logical or a date where all its values are, empty ones left out; else a string. Of one single
    date with another moment in each row it is the timestamp; one single number is the target; all others are features.
    """
    looked_at = list(islice(rows, FIRST_ROWS))
    values: dict[str, list[Any]] = {}
    for row in looked_at:
        for name, value in row.items():
            if name in values or (len(values) < MOST_COLUMNS and _can_be_told(name)):
                values.setdefault(name, []).append(value)
    columns = [
        _infer_column(name, [value for value in held if value not in (None, "")]) for name, held in values.items()
    ]
    dates = [column.name for column in columns if column.type is DataType.DATE]
    numbers = [column.name for column in columns if column.type is DataType.NUMERIC]
    roles = {name: Role.TARGET for name in numbers if len(numbers) == 1}
    roles |= {name: Role.TIMESTAMP for name in dates if len(dates) == 1 and _differ(values[name], len(looked_at))}
    return tuple(replace(column, role=roles.get(column.name, Role.FEATURE)) for column in columns)


def rows_in(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects among lines of JSON. Those that are none, or cannot be read, are for others to judge.

    A number is the text of its digits: Python reads no integer of more than 4,300, and 1e999 as infinity.
    """
    for line in lines:
        try:
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _infer_column(name: str, values: list[Any]) -> Column:
    """Return a column with its type; ``values`` are not empty ones."""
    if values and all(isinstance(value, bool) for value in values):
        return Column(name, DataType.LOGICAL)
    texts = [value if isinstance(value, str) else str(value) for value in values if _is_plain(value)]
    if not values or len(texts) < len(values):
        return Column(name, DataType.STRING)
    kind = _infer_type(texts)
    # Seen of the service whose words these are: what is 0 or 1 is a number that is not summed up.
    if kind is DataType.NUMERIC and _BITS.issuperset(texts):
        return Column(name, kind, imputation=Imputation.MODE, aggregation=Aggregation.MODE)
    return Column(name, kind)


def _infer_type(texts: list[str]) -> DataType:
    # Before dates: the digits of 20170101 are one, too.
    if all(map(_NUMBER.fullmatch, texts)):
        return DataType.NUMERIC
    lowered = set(map(str.lower, texts))
    if any(lowered <= pair for pair in _PAIRS):
        return DataType.LOGICAL
    return DataType.STRING if None in map(parse_any_time, texts) else DataType.DATE


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _differ(values: list[Any], count: int) -> bool:
    """Tell whether each of so many rows has a moment of its own."""
    moments = {parse_any_time(value) for value in values if isinstance(value, str)} - {None}
    return len(moments) == count > 0


# --- what they come to -----------------------------------------------------------------------------------------------


def agree(
    mapping: mappings.Mapping, stored: Columns | None, declared: Columns, found: Columns
) -> tuple[Columns, mappings.Mapping]:
    """Return the columns of a table after an import or a push, and the collection's mapping.

    ``mapping`` is the collection's, ``stored`` what is known of its columns, None where no rows have come yet. The
    mapping changes with the first rows and never after them. Raises ColumnsFault where what is declared would make
    another column name the rows.
    """
    is_new = stored is None and not (mapping.id_names or mapping.time_names)
    declared = _spell_as([column.name for column in (*(stored or ()), *found)], declared)
    if not is_new:
        _check_names(mapping, stored or (), declared)
    columns = tuple(_merge(stored or (), declared, found, is_new=is_new))
    if not is_new:
        return columns, mapping
    keys, timestamps = _named(columns, Role.KEY), _named(columns, Role.TIMESTAMP)
    return columns, replace(mapping, id_names=keys, time_names=timestamps, id_is_time=not keys and bool(timestamps))


def _spell_as(names: Iterable[str], declared: Columns) -> Columns:
    """Return what is declared of columns under the names that the table, or else its rows, spell them with.

    Callers of a service that did not mind declare ``Timestamp`` over a header that has ``timestamp``. Exact names go
    first, and of two that only letters tell apart neither is meant.
    """
    exact = dict.fromkeys(names)
    folded: dict[str, list[str]] = {}
    for name in exact:
        folded.setdefault(name.lower(), []).append(name)
    own = {column.name for column in declared}
    spelt: dict[str, Column] = {}
    for column in declared:
        alike = folded.get(column.name.lower(), [])
        is_other = column.name not in exact and len(alike) == 1 and alike[0] not in own
        spelt.setdefault(alike[0] if is_other else column.name, column)
    return tuple(replace(column, name=name) for name, column in spelt.items())


def lay_over(upper: Columns, lower: Columns) -> Columns:
    """Return what two declare of columns, of whom the one above is right: a request, and the file that it names.

    A role that only one column may have is the one's above, and so is the type that keeps a column from a role.
    """
    said, below = ({column.name: column for column in columns} for columns in (upper, lower))
    taken = {column.role for column in upper} & _NAMING
    columns = []
    for name in dict.fromkeys([*said, *below]):
        under = below.get(name, Column(name))
        if under.role in taken or not _may_be(said.get(name), under.role):
            under = replace(under, role=None)
        columns.append(_over(said.get(name), under))
    return tuple(columns)


def rules_of(columns: Columns) -> Rules:
    """Return what the rows of a table have to keep to: what names them has to be there."""
    names = (*_named(columns, Role.KEY), *_named(columns, Role.TIMESTAMP))
    # The cells of CSV are strings, and the same keys come as numbers elsewhere.
    return Rules(required=tuple((name,) for name in names), digits_are_text=True)


def check_named(rules: Rules, names: Sequence[str]) -> None:
    """Raise ColumnsFault where rows that have members of these names alone, if any, lack what names them."""
    for (name,) in rules.required:
        if names and name not in names:
            folded = {other.lower(): other for other in names[:_FEW]}
            alike = get_close_matches(name.lower(), folded, 1)
            meant = f" Is '{shorten(folded[alike[0]])}' meant?" if alike else ""
            text = f"It is the key or the timestamp of the table, and the file has no such column.{meant}"
            raise ColumnsFault({name: [text]})


def with_defaults(column: Column) -> Column:
    """Return the column with what is done by default about missing and about many values."""
    imputation, aggregation = _DEFAULTS.get(column.type, (None, None))
    return replace(column, imputation=column.imputation or imputation, aggregation=column.aggregation or aggregation)


_DEFAULTS: dict[DataType | None, tuple[Imputation, Aggregation]] = {
    DataType.NUMERIC: (Imputation.ZEROES, Aggregation.SUM),
    DataType.NUMERIC_MEASURE: (Imputation.MEAN, Aggregation.MEAN),
    DataType.LOGICAL: (Imputation.MODE, Aggregation.MODE),
    DataType.STRING: (Imputation.MODE, Aggregation.MODE),
}


def _named(columns: Iterable[Column], role: Role) -> tuple[str, ...]:
    return tuple(column.name for column in columns if column.role is role)


def _merge(stored: Columns, declared: Columns, found: Columns, *, is_new: bool) -> Iterator[Column]:
    """Yield the columns, those first that are known: of each what is declared, else known, else found."""
    said = {column.name: column for column in declared}
    known = {column.name: column for column in stored}
    seen = {column.name: column for column in found}
    roles = {column.role for column in declared}
    for name in islice(dict.fromkeys([*known, *said, *seen]), MOST_COLUMNS):
        guess = seen.get(name, Column(name))
        # What the first rows suggest gives way to what anybody has said of any column, and of this one's type.
        gives_way = not is_new or (guess.role in _NAMING and roles & _NAMING) or guess.role in roles
        if guess.role and (gives_way or not _may_be(said.get(name), guess.role)):
            guess = replace(guess, role=Role.FEATURE)
        yield _over(said.get(name), _over(known.get(name), guess))


def _may_be(said: Column | None, role: Role | None) -> bool:
    """Tell whether a column of the type that is declared may have a role that nobody has declared with it."""
    kinds = {Role.TIMESTAMP: {DataType.DATE}, Role.TARGET: _NUMBERS}.get(role) if role else None
    return said is None or said.type is None or kinds is None or said.type in kinds


def _over(upper: Column | None, lower: Column) -> Column:
    if upper is None:
        return lower
    # What is done by default about values belongs to their type.
    same = upper.type in (None, lower.type)
    return Column(
        upper.name,
        upper.type or lower.type,
        upper.role or lower.role,
        upper.imputation or (lower.imputation if same else None),
        upper.aggregation or (lower.aggregation if same else None),
    )


def _check_names(mapping: mappings.Mapping, stored: Columns, declared: Columns) -> None:
    """Raise ColumnsFault where what is declared would make another column name the rows than the mapping says."""
    known = {column.name: column for column in stored}
    faults: dict[str, list[str]] = {}
    for column in declared:
        before = known.get(column.name, Column(column.name))
        for role, word, names in (
            (Role.KEY, "key", mapping.id_names),
            (Role.TIMESTAMP, "timestamp", mapping.time_names),
        ):
            if before.role is role and column.type not in (None, before.type):
                # The service's own sentence, whose words these are.
                is_one = f"Column '{shorten(column.name)}' is specified as the {word} for the dataset"
                text = f"{is_one}, and so its data type cannot be changed."
            elif before.role is role and column.role not in (None, role):
                text = f"It is the {word} of the table, and so its role cannot be changed."
            elif column.role is role and column.name not in names:
                others = " or ".join(f"'{shorten(name)}'" for name in names)
                has = f"in column {others}" if names else "in no column"
                text = f"It cannot become the {word}: the table's rows have theirs {has}. Delete the table first."
            else:
                continue
            faults.setdefault(column.name, [text])
    if faults:
        raise ColumnsFault(faults)
