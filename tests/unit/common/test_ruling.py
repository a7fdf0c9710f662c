"""The rules of a door: one verdict for an event, alone or among others, and nothing known but what is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.events import Event, Identity
from common.model.mapping import ColumnType, Mapping
from common.model.rejects import RejectCode
from common.model.rules import Reference, Rules
from common.model.things import thing_id
from common.ruling import Known, Ruling
from tests.unit.workers.imports.test_decoding import blocks
from workers.imports.decoding import Decoded, Decoder
from workers.imports.framing import Block
from workers.imports.rows import RowDecoder, _lay_out

ONE, TWO, THREE = (f"0000000{n}-000a-4000-8000-00000000000b" for n in (1, 2, 3))
NAMES = ["$package", "$pixel", "$time", "id", 'a"b', "\u00e9"]
KINDS = ["package", "pixel"]
IDENTITY = Identity(b"k" * 32)


def event(payload: str | bytes) -> Event:
    payload = payload.encode() if isinstance(payload, str) else payload
    return Event(b"i" * 16, False, 7, 1, rb"\u0000" in payload, payload)


# --- material -----------------------------------------------------------------------------------------------

names = st.sampled_from(NAMES)
some_names = st.lists(names, min_size=1, max_size=2, unique=True).map(tuple)
all_rules = st.builds(
    Rules,
    required=st.lists(some_names, max_size=2).map(tuple),
    references=st.lists(st.builds(Reference, st.sampled_from(KINDS), some_names), max_size=2).map(tuple),
    adds=st.dictionaries(names, st.sampled_from([ONE, TWO.upper(), "word", "", "\0", 'q"\\}']), max_size=2).map(
        lambda drawn: tuple(drawn.items())
    ),
)
things = st.frozensets(st.tuples(st.sampled_from(KINDS), st.sampled_from([ONE, TWO, "word"])))
spelt_names = names.map(json.dumps) | st.sampled_from([r'"\u0024package"', r'"$\u0070ixel"', r'"\u0069d"', '"n"'])
values = st.sampled_from(
    [
        f'"{ONE}"', f'"{ONE}"', f'"{ONE.upper()}"', f'"{TWO}"', f'"{THREE}"', '"word"', '"WORD"', r'"\u0077ord"',
        "null", "null", '""', "1", "1.5", "true", "[]", '{"$package":"word"}', "1e999", '"2024-05-01"', r'"\u0000"',
    ]
)  # fmt: skip
blanks = st.sampled_from(["", "", " ", "\t", "\r"])


@st.composite
def objects(draw: st.DrawFn) -> str:
    """An object whose names may be escaped, repeated, null."""
    members = [
        f"{draw(blanks)}{draw(spelt_names)}{draw(blanks)}:{draw(values)}{draw(blanks)}"
        for _ in range(draw(st.integers(0, 4)))
    ]
    return draw(blanks) + "{" + ",".join(members) + (draw(blanks) if members else "") + "}" + draw(blanks)


# --- an oracle that shares nothing with the ruling ----------------------------------------------------------


def verdict(text: str, rules: Rules, known: Known) -> RejectCode | dict[str, Any]:
    """Say the rules over again with the standard library: a code, or the members with what is added."""
    members = json.loads(text)

    def first(which: tuple[str, ...]) -> Any:
        return next((members[name] for name in which if members.get(name) is not None), None)

    for name, value in rules.adds:
        others = [one.names for one in rules.references if name in one.names]
        if first(others[0] if others else (name,)) is None:
            members[name] = value
    if any(first(entry) is None for entry in rules.required):
        return RejectCode.MISSING_MEMBER
    named = [(one.kind, first(one.names)) for one in rules.references if first(one.names) is not None]
    if rules.references and not named:
        return RejectCode.UNKNOWN_REFERENCE
    if not all(isinstance(value, str) for _, value in named):
        return RejectCode.UNKNOWN_REFERENCE
    return members if known.take((kind, thing_id(value)) for kind, value in named) else RejectCode.UNKNOWN_REFERENCE


limits = st.sampled_from([0, 0, 4, 5, 100])


@given(st.lists(objects(), max_size=6), all_rules, things, limits)
def test_verdicts_are_those_of_the_standard_library_and_the_rules(
    texts: list[str], rules: Rules, registered: frozenset[tuple[str, str]], most: int
) -> None:
    one, all_, said = (Known(registered, most=most) for _ in range(3))
    ruling = Ruling(rules, one, identity=IDENTITY)
    singly = [ruling.judge(event(text)) for text in texts]
    expected = [verdict(text, rules, said) for text in texts]
    at_once = Ruling(rules, all_, identity=IDENTITY).judge_all([event(text) for text in texts])

    for text, judged, wanted in zip(texts, singly, expected, strict=True):
        if isinstance(judged, RejectCode):
            assert judged == wanted
            continue
        payload = judged.payload.decode()
        assert json.loads(payload) == wanted
        before, brace, blanks_behind = text.rpartition("}")
        assert payload.startswith(before)
        assert payload.endswith(brace + blanks_behind)
        assert judged.odd == (r"\u0000" in payload)
        assert judged[:4] == event(text)[:4]
        lacked = [name for name, _ in rules.adds if json.loads(text).get(name) is None]
        assert lacked or payload == text
    assert one.named == said.named
    if at_once is None:
        assert any(isinstance(judged, RejectCode) for judged in singly)
        assert all_.named == set()
    else:
        assert at_once == singly
        assert all_.named == one.named


# --- one verdict, whichever way through ---------------------------------------------------------------------


def decoder(rules: Rules, known: Known) -> Decoder:
    return Decoder(
        Mapping(("$unique_id", "id"), ("$time",), rules=rules),
        identity=IDENTITY,
        import_number=7,
        source_ordinal=3,
        default_time=1,
        max_line=4000,
        known=known,
    )


@st.composite
def ruled_blocks(draw: st.DrawFn) -> Block:
    rows = draw(st.lists(objects().map(lambda text: text.strip("\r")), min_size=1, max_size=6))
    return Block(draw(st.sampled_from([0, 9])), "\n".join(rows).encode())


@given(ruled_blocks() | blocks, all_rules, things, limits)
def test_the_quick_the_slow_and_the_patient_way_never_differ(
    block: Block, rules: Rules, registered: frozenset[tuple[str, str]], most: int
) -> None:
    quick, slow, patient, whole = (decoder(rules, Known(registered, most=most)) for _ in range(4))
    patient._typed = None
    knowns = [one._ruling._known if one._ruling else Known() for one in (quick, slow, patient, whole)]

    expected = slow._decode_by_line(block, 5)
    at_once = quick._decode_at_once(block)

    assert at_once is None or at_once == expected
    assert patient.decode(block, 5) == expected
    assert whole.decode(block, 5) == expected
    assert [known.named for known in knowns[1:]] == [knowns[1].named] * 3
    assert knowns[0].named == (knowns[1].named if at_once else set())
    assert expected.lines == len(expected.events) + len(expected.rejects) + expected.blank


cells = st.sampled_from(["", "", ONE, ONE.upper(), TWO, "word", "1", "true", '"q""}"'])


@given(
    st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=40),
    st.sampled_from([(), (("$pixel", ColumnType.STRING),), (("$package", ColumnType.NUMBER),)]),
    all_rules,
    things,
    limits,
)
def test_rows_of_csv_are_held_to_the_rules_many_at_once_and_one_at_a_time(
    rows: list[list[str]],
    types: tuple[tuple[str, ColumnType], ...],
    rules: Rules,
    registered: frozenset[tuple[str, str]],
    most: int,
) -> None:
    mapping = Mapping(types=types, rules=rules)
    block = Block(100, "\n".join(map(",".join, rows)).encode())
    names = ("$package", "$pixel", "id")
    known = [Known(registered, most=most) for _ in range(3)]
    many, one, said = known
    kept = {"identity": Identity(b"k" * 32), "import_number": 7, "source_ordinal": 3, "default_time": 1}
    whole = RowDecoder(names, mapping, **kept, max_line=4000, known=many).decode(block, 0)
    single = RowDecoder(names, mapping, **kept, max_line=4000, known=one)
    singly = single._decode_one_by_one(_lay_out(block), RejectCode.INVALID_CSV)

    assert whole.events == singly.events
    assert [reject[1:] for reject in whole.rejects] == [reject[1:] for reject in singly.rejects]
    assert many.named == one.named
    # Without rules the same rows make the objects of which the rules are asked; an empty cell is none of them.
    bare = RowDecoder(names, replace(mapping, rules=Rules()), **kept, max_line=4000).decode(block, 0)
    expected = {
        judged.offset: verdict(
            json.dumps({name: value for name, value in json.loads(judged.payload).items() if value != ""}), rules, said
        )
        for judged in bare.events
    }
    found = {judged.offset: json.loads(judged.payload) for judged in whole.events}
    codes = {reject.offset: reject.code for reject in whole.rejects}
    for offset, wanted in expected.items():
        if isinstance(wanted, RejectCode):
            assert codes[offset] is wanted
        else:
            assert {name: value for name, value in found[offset].items() if value != "" or name in wanted} == wanted


# --- examples -----------------------------------------------------------------------------------------------

BOTH = (Reference("package", ("$package", "package")), Reference("pixel", ("$pixel",)))
REGISTERED = frozenset({("package", ONE), ("pixel", TWO), ("pixel", "word")})


def judged(payload: str, rules: Rules, known: Known | None = None) -> str:
    found = Ruling(rules, known or Known(REGISTERED), identity=IDENTITY).judge(event(payload))
    return str(found) if isinstance(found, RejectCode) else found.payload.decode()


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (f'{{"$package":"{ONE}"}}', None),
        (f'{{"$package":"{ONE.upper()}"}}', None),
        (f'{{"\\u0024package":"{ONE}"}}', None),
        (f'{{"package":"{ONE}"}}', None),
        (f'{{"$package":null,"package":"{ONE}"}}', None),
        (f'{{"$package":"{ONE}","package":"other"}}', None),
        (f'{{"$package":"{ONE}","$pixel":"word"}}', None),
        (f'{{"$package":"other","$package":"{ONE}"}}', None),
        (f'{{"$package":"{ONE}","$package":"other"}}', "unknown_reference"),
        (f'{{"$package":"{ONE}","$package":null}}', "unknown_reference"),
        (f'{{"$package":"{ONE}","$pixel":"other"}}', "unknown_reference"),
        (f'{{"$package":"{TWO}"}}', "unknown_reference"),
        (f'{{"$pixel":"{ONE}"}}', "unknown_reference"),
        ('{"$pixel":"WORD"}', "unknown_reference"),
        ('{"$pixel":""}', "unknown_reference"),
        ('{"$pixel":1}', "unknown_reference"),
        ('{"$pixel":["word"]}', "unknown_reference"),
        (f'{{"a":{{"$package":"{ONE}"}}}}', "unknown_reference"),
        ("{}", "unknown_reference"),
    ],
)
def test_a_line_names_something_registered_and_nothing_else(payload: str, code: str | None) -> None:
    assert judged(payload, Rules(references=BOTH)) == (code or payload)


def test_what_is_missing_is_said_before_what_is_unknown() -> None:
    rules = Rules(required=(("$time", "time"),), references=BOTH)

    assert judged('{"$pixel":"other"}', rules) == "missing_member"
    assert judged('{"$pixel":"other","time":0}', rules) == "unknown_reference"
    assert judged('{"$pixel":"word","$time":null,"time":false}', rules) == '{"$pixel":"word","$time":null,"time":false}'


def test_a_member_that_a_line_is_given_counts_but_does_not_hide_what_it_has() -> None:
    rules = Rules(required=(("$package",),), references=BOTH, adds=(("$package", ONE),))

    assert judged("{}", rules) == f'{{"$package":"{ONE}"}}'
    assert judged('{"$package":null} ', rules) == f'{{"$package":null,"$package":"{ONE}"}} '
    assert judged('{"$package":"other"}', rules) == "unknown_reference"
    assert judged('{"$pixel":"other"}', rules) == "unknown_reference"
    assert judged("{}", replace(rules, adds=(("$package", "other"),))) == "unknown_reference"
    named = f'{{"package":"{ONE.upper()}"}}'
    assert judged(named, replace(rules, required=())) == named, "it has one under the reference's other name"


@given(st.lists(st.sampled_from(["$package", "package"]), min_size=2))
def test_among_lines_with_different_names_each_counts_by_its_own(order: list[str]) -> None:
    others = {"$package": f'"{ONE}"', "package": f'"{TWO}"'}
    lines = [event(f'{{"{name}":{others[name]}}}') for name in order]
    known = Known(most=9)

    assert (
        Ruling(Rules(required=(("$package", "package"),), references=BOTH), known, identity=IDENTITY).judge_all(lines)
        == lines
    )
    assert {text for _, text in known.named} == {others[name][1:-1] for name in order}


def test_only_a_uuid_becomes_known_by_being_named_and_only_by_a_line_that_is_taken() -> None:
    rules = Rules(references=BOTH)
    known = Known(REGISTERED, most=5)

    assert judged('{"$pixel":"some"}', rules, known) == "unknown_reference"
    assert judged(f'{{"$package":"{TWO}","$pixel":"some"}}', rules, known) == "unknown_reference"
    assert judged(f'{{"$package":"{ONE}"}}', rules, known) != "unknown_reference"
    assert known.named == set()
    # Two have room.
    assert judged(f'{{"$package":"{TWO.upper()}"}}', rules, known) != "unknown_reference"
    assert judged(f'{{"$package":"{THREE}","$pixel":"{ONE}"}}', rules, known) == "unknown_reference"
    assert judged(f'{{"$package":"{THREE}"}}', rules, known) != "unknown_reference"
    assert judged(f'{{"$pixel":"{ONE}"}}', rules, known) == "unknown_reference"
    assert judged(f'{{"$package":"{TWO}"}}', rules, known) != "unknown_reference"
    assert known.named == {("package", TWO), ("package", THREE)}


def test_a_mapping_without_such_rules_has_no_ruling() -> None:
    assert decoder(Rules(longest=9), Known())._ruling is None


def test_lines_that_need_nothing_but_what_they_are_given_go_the_quick_way() -> None:
    rules = Rules(required=(("$package",),), references=BOTH, adds=(("$package", ONE),))
    body = b'{"id":"a"}\n\n{"id":"b","$package":null}\r\n{"id":"c","$pixel":"word"}'
    decoded = decoder(rules, Known(REGISTERED))._decode_at_once(Block(0, body))

    assert isinstance(decoded, Decoded)
    assert decoded.blank == 1
    assert [json.loads(one.payload)["$package"] for one in decoded.events] == [ONE] * 3


def test_a_reject_keeps_the_line_as_it_came() -> None:
    rules = Rules(required=(("$time",),), adds=(("$package", ONE),))
    (reject,) = decoder(rules, Known()).decode(Block(0, b'{"id":"a"}'), 0).rejects

    assert (reject.code, reject.body, reject.length) == (RejectCode.MISSING_MEMBER, b'{"id":"a"}', 10)


def test_a_line_without_an_id_says_one_of_its_own_and_every_way_the_same() -> None:
    rules = Rules(names_id="Id")
    body = b'{"n":1}\n{"Id":"a"}\n{"Id":null} \n{}'
    mapping = Mapping(("Id",), (), rules=rules)
    kept = {"identity": IDENTITY, "import_number": 7, "source_ordinal": 1, "default_time": 0, "max_line": 4000}
    quick = Decoder(mapping, **kept).decode(Block(0, body), 0).events
    slow = Decoder(mapping, **kept).decode(Block(0, body + b"\nno"), 0).events

    assert slow == quick
    payloads = [json.loads(one.payload) for one in quick]
    assert [one.has_id for one in quick] == [False, True, False, False]
    assert [one.event_id for one in quick] == [IDENTITY.of_string(said["Id"]) for said in payloads]
    assert quick[1].payload == b'{"Id":"a"}'
    assert len({one.event_id for one in quick}) == len(quick)
    elsewhere = Decoder(mapping, **{**kept, "import_number": 8}).decode(Block(0, body), 0).events
    assert {one.event_id for one in elsewhere} & {one.event_id for one in quick} == {IDENTITY.of_string("a")}
    uuids = [UUID(said["Id"]) for said in payloads if said["Id"] != "a"]
    assert {one.version for one in uuids} == {8}
