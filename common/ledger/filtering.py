"""A query as SQL over the rows of ``events``; ``common.model.query`` says what it means, and judges what SQL cannot.

The one place where SQL is put together: of the fragments below and nothing else. What a caller wrote travels in the
values, names of members included. No row can make it fail, whatever its payload and whatever plan Postgres chooses:

- Rows that are ``odd`` meet no operator of json, all of which fail on them. CASE says that, because AND and OR promise
  no order. Such rows are selected, for the reader to judge.
- The text of a number is cast only inside CASE, after a look at its length and its exponent.

A path is followed once, however many operators it has, inside a subquery (OFFSET 0 keeps the planner from pulling it
up and following the path for each mention). Over 1,000,000 events of 280 bytes a row costs 0.1 us unread, and for a
path 0.8 (exists), 0.9 (strings) to 1.3 us (numbers), 0.4 more for a second operator on it; followed for each mention, a
comparison of numbers took 2.9. Numbers are looked at for what they must not have: a pattern that counts their digits
({1,255}) took 25 to 50 us a row. In Python three conditions cost 4.7 us a row.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from common.model.query import MAX_DIGITS, TOO_GREAT, Condition, Operator, Query

_TEXT = """((held #>> '{}') COLLATE "C")"""
_IS_NULL = "coalesce(json_typeof(held) = 'null', true)"

_COMPARISONS = {
    Operator.EQ: "=",
    Operator.NEQ: "=",
    Operator.GT: ">",
    Operator.GTE: ">=",
    Operator.LT: "<",
    Operator.LTE: "<=",
}


class Selection(NamedTuple):
    """Which rows of ``events`` a query asks for."""

    #: SQL over the columns collection_id, time, odd and payload, with the values by name: ``%(q_..)s``.
    where: str
    values: dict[str, Any]
    #: Whether rows that are odd were let through, to be judged by ``query.matches(payload)``.
    judges_odd: bool

    def put_into(self, statement: str) -> str:
        """Return a statement of ``sql/`` with the condition in its places, which say ``/* selection */ true``."""
        return statement.replace("/* selection */ true", self.where)


def select_events(collection_id: int, query: Query, *, import_number: int | None = None) -> Selection:
    """Return the rows of a collection that a query asks for, as the condition of a WHERE.

    ``import_number``: of the rows of that import alone.
    """
    built = _Builder()
    where = [f"collection_id = {built.value(collection_id)}"]
    if import_number is not None:
        where.append(f"import_number = {built.value(import_number)}")
    if query.start is not None:
        where.append(f"time >= {built.value(query.start)}")
    if query.end is not None:
        where.append(f"time < {built.value(query.end)}")
    if query.conditions:
        where.append(f"CASE WHEN odd THEN true ELSE {built.conditions(query.conditions)} END")
    return Selection(" AND ".join(where), built.values, judges_odd=bool(query.conditions))


class _Builder:
    """Writes fragments, and keeps what they compare with."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def value(self, value: Any) -> str:
        """Return the name under which the statement finds a value."""
        name = f"q_{len(self.values)}"
        self.values[name] = value
        return f"%({name})s"

    def conditions(self, conditions: tuple[Condition, ...]) -> str:
        by_path = groupby(conditions, attrgetter("path"))
        return " AND ".join(self._path(path, list(group)) for path, group in by_path)

    def _path(self, path: tuple[str, ...], conditions: list[Condition]) -> str:
        # ``->`` with a text descends into objects only; with ``#>`` the path a.0 would reach into arrays. Of a repeated
        # name it takes the last, as Python does.
        steps = "".join(f" -> {self.value(name)}::text" for name in path)
        tests = " AND ".join(map(self._test, conditions))
        return f"(SELECT {tests} FROM (SELECT payload{steps} AS held OFFSET 0) AS followed)"  # noqa: S608  of names of values

    def _test(self, condition: Condition) -> str:
        """Return a fragment that is true or false, never null."""
        operator, operand = condition.operator, condition.operand
        if operator is Operator.EXISTS:
            return f"NOT {_IS_NULL}" if operand else _IS_NULL
        negated = "NOT " if operator is Operator.NEQ else ""
        return negated + self._compared(operator, operand)

    def _compared(self, operator: Operator, operand: Any) -> str:
        if operand is None:
            return _IS_NULL
        if operator is Operator.IN:
            return self._among(operand)
        if isinstance(operand, str):
            return _of_strings(self._text(operator, f"{self.value(operand)}::text"))
        if isinstance(operand, Decimal):
            return _of_numbers(f"{_COMPARISONS[operator]} {self.value(str(operand))}::numeric")
        return f"coalesce(held::text = {self.value(_spelt(operand))}, false)"

    def _among(self, operands: tuple[Any, ...]) -> str:
        if not operands:
            return "false"
        if isinstance(operands[0], str):
            return _of_strings(f"{_TEXT} = ANY ({self.value(list(operands))}::text[])")
        spelt = self.value([_spelt(operand) for operand in operands])
        if isinstance(operands[0], Decimal):
            return _of_numbers(f"= ANY ({spelt}::numeric[])")
        return f"coalesce(held::text = ANY ({spelt}::text[]), false)"

    @staticmethod
    def _text(operator: Operator, wanted: str) -> str:
        """Return how a string is looked at. No LIKE: none of its wildcards can slip in."""
        if operator is Operator.CONTAINS:
            return f"strpos({_TEXT}, {wanted}) > 0"
        if operator is Operator.STARTS_WITH:
            return f"starts_with({_TEXT}, {wanted})"
        if operator is Operator.ENDS_WITH:
            return f"right({_TEXT}, length({wanted})) = {wanted}"
        return f"{_TEXT} {_COMPARISONS[operator]} {wanted}"


def _spelt(operand: Any) -> str:
    """Return a number or a truth as JSON spells it."""
    return str(operand).lower()


def _of_strings(test: str) -> str:
    return f"CASE WHEN json_typeof(held) = 'string' THEN {test} ELSE false END"


def _of_numbers(comparison: str) -> str:
    comparable = f"length(held::text) <= {MAX_DIGITS} AND held::text !~ '{TOO_GREAT}'"
    test = f"CASE WHEN {comparable} THEN held::text::numeric {comparison} ELSE false END"
    return f"CASE WHEN json_typeof(held) = 'number' THEN {test} ELSE false END"
