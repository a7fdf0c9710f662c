"""What a query selects in Postgres is what it means in Python, of every payload that can be stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.ledger.filtering import select_events
from common.model.events import Identity
from common.model.mapping import Mapping
from common.model.query import Query, parse_query
from workers.imports.decoding import Decoder
from workers.imports.framing import Block

pytestmark = pytest.mark.services

NOW = datetime(2024, 5, 15, 12, tzinfo=UTC)
COLLECTION = -5
DECODER = Decoder(
    Mapping(), identity=Identity(b"k" * 32), import_number=1, source_ordinal=0, default_time=0, max_line=1 << 20
)


class Number(NamedTuple):
    """A number as it is spelt."""

    text: str


class Pairs(NamedTuple):
    """An object: its members in order, names repeated or not."""

    members: list[tuple[str, Any]]


NAMES = ["a", "b", "0", "", "é", "a b", '"', "\\", "\U0001f600", "x" * 300]
TEXTS = ["", "a", "A", "ab", "b%", "_", "5", "25", "true", "null", "é", "\uffff", "\U0001f600", "\\", "'", '"', "\n"]
SPELLINGS = [
    "0", "-0", "0.0", "-0e0", "1", "5", "25", "25.00", "2.5e1", "1e2", "100", "0.1", "1E-1", "0.10000000000000000001",
    "1e400", "-1e400", "1e-400", "1e0009999", "1e9999", "1e-9999", "1e00010000", "1e999999", "-1e-999999",
    "1e" + "9" * 50,
    "9" * 100, "9" * 99 + "8", "9" * 1000, "9" * 1001, "0." + "3" * 998, "0." + "3" * 999, "9007199254740993",
    "18446744073709551616", "0." + "1" * 980 + "e-9999",
]  # fmt: skip
ASKED = [
    0, 1, 5, 25, 100, -1, 0.1, 2.5, 1e300, 1e-300, 5e-324, 1.7976931348623157e308, 10**308, 9007199254740993,
    9007199254740992, int("9" * 100), 18446744073709551616,
]  # fmt: skip

#: Mostly two, so that what is asked for is there.
names = st.sampled_from(["a"] * 12 + ["b"] * 6 + NAMES)
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
integers = st.integers(-30, 130).map(str)
numbers = st.builds(Number, st.sampled_from(SPELLINGS) | integers | st.decimals(-3, 3, places=2).map(str))
scalars = st.none() | st.booleans() | texts | numbers
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.builds(Pairs, st.lists(st.tuples(names, inner), max_size=3)),
    max_leaves=5,
)
events = st.builds(Pairs, st.lists(st.tuples(names | texts, values), max_size=5))


@st.composite
def spelt(draw: st.DrawFn, value: Any) -> str:
    """A value as a line may have it: any string with escapes or without, blanks between tokens or none."""
    blank = draw(st.sampled_from(["", "", " ", "\t"]))
    match value:
        case Pairs(members):
            inner = (f"{draw(spelt(name))}:{blank}{draw(spelt(held))}" for name, held in members)
            return f"{{{blank}{','.join(inner)}}}"
        case Number(text):
            return text
        case list():
            return f"[{blank}{','.join(draw(spelt(one)) for one in value)}{blank}]"
        case str():
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
    return json.dumps(value)


@st.composite
def lines(draw: st.DrawFn) -> tuple[Pairs, bytes]:
    event = draw(events)
    return event, draw(spelt(event)).encode()


asked_texts = texts.filter(lambda text: "\0" not in text)
asked_numbers = st.sampled_from(ASKED) | st.integers(-30, 130) | st.floats(-3, 3)
ordered = asked_texts | asked_numbers
lists = st.lists(asked_texts, max_size=12) | st.lists(asked_numbers, max_size=12) | st.lists(st.booleans(), max_size=2)
asked_scalars = st.none() | st.booleans() | ordered
operators = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["eq", "neq"], asked_scalars),
        **dict.fromkeys(["gt", "gte", "lt", "lte"], ordered),
        "exists": st.booleans(),
        **dict.fromkeys(["contains", "startsWith", "endsWith"], asked_texts),
        "in": lists,
    },
).filter(bool)
one_operator = operators.map(lambda drawn: dict([next(iter(drawn.items()))]))
asked_names = names.filter(lambda name: len(name) < 256)
paths = st.lists(asked_names, min_size=1, max_size=2).map(".".join)
filters = st.dictionaries(paths, asked_scalars | lists | one_operator | operators, max_size=2)


def reached(event: Any, path: str) -> Any:
    for name in path.split("."):
        found = [held for own, held in event.members if own == name] if isinstance(event, Pairs) else []
        event = found[-1] if found else None
    return event


def in_words(value: Any) -> tuple[str, Any]:
    """A value's type, and what is compared within it; numbers as fractions."""
    match value:
        case None:
            return "null", None
        case bool():
            return "truth", value
        case str():
            return "text", [ord(character) for character in value]
        case Number(text):
            exponent = text.lower().partition("e")[2].lstrip("+-").lstrip("0")
            return ("number", Fraction(text)) if len(exponent) < 5 and len(text) <= 1000 else ("beyond", text)
        case int() | float():
            return "number", Fraction(repr(value))
    return "container", None


def is_met(held: Any, operator: str, wanted: Any) -> bool:
    """The plain evaluator: no class, no decoder and no number of the module under test."""
    if operator == "neq":
        return not is_met(held, "eq", wanted)
    if operator == "exists":
        return (held is not None) == wanted
    if operator == "in":
        return any(is_met(held, "eq", one) for one in wanted)
    (kind, own), (asked_kind, asked) = in_words(held), in_words(wanted)
    if kind != asked_kind:
        return False
    length = len(asked) if kind == "text" else 0
    return {
        "eq": lambda: own == asked,
        "gt": lambda: own > asked,
        "gte": lambda: own >= asked,
        "lt": lambda: own < asked,
        "lte": lambda: own <= asked,
        "contains": lambda: any(own[at : at + length] == asked for at in range(len(own) + 1)),
        "startsWith": lambda: own[:length] == asked,
        "endsWith": lambda: own[len(own) - length :] == asked and len(own) >= length,
    }[operator]()


def is_wanted(event: Pairs, asked: dict[str, Any]) -> bool:
    for path, wanted in asked.items():
        spec = wanted if isinstance(wanted, dict) else {"in" if isinstance(wanted, list) else "eq": wanted}
        held = reached(event, path)
        if not all(is_met(held, operator, operand) for operator, operand in spec.items()):
            return False
    return True


@pytest.fixture(scope="module")
def connection(database_url: str) -> Iterator[Any]:
    opened = psycopg2.connect(database_url, options="-c timezone=UTC", client_encoding="UTF8")
    yield opened
    opened.close()


def store(cursor: Any, payloads: Sequence[bytes], times: Sequence[datetime] = ()) -> None:
    rows = [
        (COLLECTION, at, times[at] if times else NOW, f"{at:032x}", b"\\u0000" in payload, payload.decode())
        for at, payload in enumerate(payloads)
    ]
    psycopg2.extras.execute_values(
        cursor,
        "INSERT INTO events (collection_id, import_number, byte_offset, time, event_id, source_ordinal, odd, payload)"
        " VALUES %s",
        rows,
        template="(%s, -1, %s, %s, %s, 0, %s, %s)",
    )


def selected(cursor: Any, query: Query) -> set[int]:
    selection = select_events(COLLECTION, query)
    cursor.execute(f"SELECT byte_offset FROM events WHERE {selection.where}", selection.values)
    return {row[0] for row in cursor.fetchall()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lines(), min_size=1, max_size=12), st.lists(filters, min_size=1, max_size=6))
def test_postgres_and_python_select_the_same_events(
    connection: Any, drawn: list[tuple[Pairs, bytes]], asked: list[dict[str, Any]]
) -> None:
    payloads = [payload for _, payload in drawn]
    taken = DECODER.decode(Block(100, b"\n".join(payloads)), 0).events
    assert [event.payload for event in taken] == payloads, "lines that the import would not store"
    odd = {at for at, event in enumerate(taken) if event.odd}
    with connection.cursor() as cursor:
        try:
            store(cursor, payloads)
            for one in asked:
                query = parse_query({"filter": one}, now=NOW)
                wanted = {at for at, (event, _) in enumerate(drawn) if is_wanted(event, one)}
                assert {at for at, payload in enumerate(payloads) if query.matches(payload)} == wanted, one
                assert selected(cursor, query) == wanted | odd if one else {*range(len(payloads))}, one
                assert select_events(COLLECTION, query).judges_odd == bool(one)
        finally:
            connection.rollback()


KINDS = [
    None, True, False, "", "5", "25", "true", "null", "a", "[]", Number("5"), Number("5.0"), Number("25"), [], ["5"],
    [Number("5")], Pairs([]), Pairs([("0", "5"), ("5", "5")]),
]  # fmt: skip
OPERANDS = [None, True, False, "", "5", "true", "null", "[", 5, 5.0, 24.5]


def test_types_never_mix(connection: Any) -> None:
    events = [Pairs([]), *(Pairs([("n", kind)]) for kind in KINDS)]
    payloads = [b"{}", *(plain(Pairs([("n", kind)])).encode() for kind in KINDS)]
    asked = [{"n": {name: one}} for name in ("eq", "neq") for one in OPERANDS]
    asked += [{"n": {name: one}} for name in ("gt", "gte", "lt", "lte") for one in OPERANDS[3:]]
    asked += [{"n": {name: one}} for name in ("contains", "startsWith", "endsWith") for one in OPERANDS[3:8]]
    asked += [{"n": [one]} for one in OPERANDS[1:]]
    asked += [{"n": {"exists": True}}, {"n": {"exists": False}}, {"n": []}, {"n.0": "5"}, {"n.5": {"neq": "5"}}]
    with connection.cursor() as cursor:
        try:
            store(cursor, payloads)
            for one in asked:
                query = parse_query({"filter": one}, now=NOW)
                wanted = {at for at, event in enumerate(events) if is_wanted(event, one)}
                assert {at for at, payload in enumerate(payloads) if query.matches(payload)} == wanted, one
                assert selected(cursor, query) == wanted, one
        finally:
            connection.rollback()


def plain(value: Any) -> str:
    """A value in its plainest spelling."""
    match value:
        case Pairs(members):
            return f"{{{','.join(f'{plain(name)}:{plain(held)}' for name, held in members)}}}"
        case Number(text):
            return text
        case list():
            return f"[{','.join(map(plain, value))}]"
    return json.dumps(value)


def test_numbers_are_compared_exactly_and_none_makes_the_statement_fail(connection: Any) -> None:
    spellings = [*SPELLINGS, "9" * 20000, "9" * 140000, "0." + "0" * 20000 + "1"]
    events = [Pairs([("n", Number(text))]) for text in spellings]
    payloads = [f'{{"n":{text}}}'.encode() for text in spellings]
    with connection.cursor() as cursor:
        try:
            store(cursor, payloads)
            for number in ASKED:
                for operator in ("eq", "neq", "gt", "gte", "lt", "lte"):
                    asked = {"n": {operator: number}}
                    query = parse_query({"filter": asked}, now=NOW)
                    wanted = {at for at, event in enumerate(events) if is_wanted(event, asked)}
                    assert {at for at, payload in enumerate(payloads) if query.matches(payload)} == wanted, asked
                    assert selected(cursor, query) == wanted, asked
        finally:
            connection.rollback()


@pytest.mark.parametrize("wanted", ["50%", "a_c", "'; DROP TABLE events; --", "%(q_0)s", "\\", "{}", '"'])
def test_no_text_of_a_caller_is_anything_but_text(connection: Any, wanted: str) -> None:
    payloads = [json.dumps({wanted: wanted}).encode(), b'{"50%":"50x"}', b'{"a_c":"abc"}']
    with connection.cursor() as cursor:
        try:
            store(cursor, payloads)
            for operator in ("eq", "contains", "startsWith", "endsWith"):
                asked = {wanted: {operator: wanted}}
                assert selected(cursor, parse_query({"filter": asked}, now=NOW)) == {0}
        finally:
            connection.rollback()


def test_a_line_of_512_levels_is_judged_by_both(connection: Any) -> None:
    payloads = [b'{"a":' * 511 + b"{}" + b"}" * 511, b'{"b":1,"a":' + b"[" * 511 + b"]" * 511 + b"}"]
    assert len(DECODER.decode(Block(100, b"\n".join(payloads)), 0).events) == 2
    query = parse_query({"filter": {".".join("a" * 32): {"exists": True}}}, now=NOW)
    with connection.cursor() as cursor:
        try:
            store(cursor, payloads)
            assert selected(cursor, query) == {at for at, line in enumerate(payloads) if query.matches(line)} == {0}
        finally:
            connection.rollback()


def test_as_many_conditions_and_as_long_a_list_as_are_taken_are_carried_out(connection: Any) -> None:
    asked: dict[str, Any] = {f"n{at}.{'x.' * 30}y": {"neq": "z" * 4096} for at in range(98)}
    asked |= {"n": list(range(1000)), "t": [f"t{at}" for at in range(1000)]}
    query = parse_query({"filter": asked}, now=NOW)
    with connection.cursor() as cursor:
        try:
            store(cursor, [b'{"n":999.0,"t":"t0"}', b'{"n":1000,"t":"t0"}', b"{}"])
            assert selected(cursor, query) == {0}
        finally:
            connection.rollback()


def test_a_window_includes_its_start_and_not_its_end(connection: Any) -> None:
    instant = timedelta(microseconds=1)
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    times = [first, NOW - instant, NOW, NOW + instant, last]
    windows: list[tuple[datetime | None, datetime | None, set[int]]] = [
        (None, None, {0, 1, 2, 3, 4}),
        (NOW, None, {2, 3, 4}),
        (None, NOW, {0, 1}),
        (NOW, NOW, set()),
        (NOW - instant, NOW + instant, {1, 2}),
        (first, last, {0, 1, 2, 3}),
    ]
    with connection.cursor() as cursor:
        try:
            store(cursor, [b"{}"] * 4 + [rb'{"odd":"\\u0000"}'], times)
            for start, end, wanted in windows:
                assert selected(cursor, Query((), start, end)) == wanted
        finally:
            connection.rollback()


def test_a_window_can_be_found_by_an_index_on_time(connection: Any) -> None:
    with connection.cursor() as cursor:
        try:
            cursor.execute(
                "INSERT INTO events (collection_id, import_number, byte_offset, time, event_id, source_ordinal, odd,"
                " payload) SELECT %s, -1, n, %s::timestamptz - n * interval '1 minute', gen_random_uuid(), 0, false,"
                " '{}' FROM generate_series(1, 20000) AS n",
                (COLLECTION, NOW),
            )
            cursor.execute("CREATE INDEX by_time ON events (collection_id, time)")
            cursor.execute("ANALYZE events")
            query = parse_query({"filter": {"a.b": {"gt": 5}}, "timeframe": "last_hour"}, now=NOW)
            selection = select_events(COLLECTION, query)
            cursor.execute(f"EXPLAIN SELECT payload FROM events WHERE {selection.where}", selection.values)
            plan = "\n".join(row[0] for row in cursor.fetchall())
        finally:
            connection.rollback()

    (condition,) = (line for line in plan.splitlines() if "Index Cond" in line)
    assert "collection_id" in condition
    assert '"time" >=' in condition
    assert '"time" <' in condition


def test_strings_are_ordered_by_code_point_whatever_the_database_thinks_of_letters(database_url: str) -> None:
    """Ours is made with the order of bytes; another's may put "a" before "B", and "ä" beside "a"."""
    with_letters = psycopg2.connect(database_url)
    with_letters.autocommit = True
    with with_letters.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_collation WHERE collname = 'en-x-icu'")
        if not cursor.fetchone():
            pytest.skip("this Postgres is built without ICU")
        cursor.execute("DROP DATABASE IF EXISTS letters")
        cursor.execute("CREATE DATABASE letters TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")
    with_letters.close()
    letters = psycopg2.connect(psycopg2.extensions.make_dsn(database_url, dbname="letters"))
    with letters.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE events (collection_id int, import_number int, byte_offset int, time timestamptz,"
            " event_id uuid, source_ordinal int, odd boolean, payload json)"
        )
        store(cursor, [f'{{"n":"{text}"}}'.encode() for text in ("a", "B", "ä", "z")])
        assert selected(cursor, parse_query({"filter": {"n": {"lt": "a"}}}, now=NOW)) == {1}
        assert selected(cursor, parse_query({"filter": {"n": {"gt": "z"}}}, now=NOW)) == {2}
    letters.close()
