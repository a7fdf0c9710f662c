"""Mappings come back from where they are stored, and those of before are the same text: pushes are compared by it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from common.ledger.rows import mapping_json, mapping_of, remembered_json
from common.model.mapping import ColumnType, Mapping, OnDuplicate
from common.model.rules import NO_RULES, NameRules, Rules

texts = st.text(max_size=5)
names = st.lists(texts, max_size=2).map(tuple)
mappings = st.builds(
    Mapping,
    id_names=names,
    time_names=names,
    on_duplicate=st.sampled_from(OnDuplicate),
    types=st.dictionaries(texts, st.sampled_from(ColumnType), max_size=2).map(lambda drawn: tuple(drawn.items())),
    quoted_line_breaks=st.booleans(),
    dots_nest=st.booleans(),
    month_first=st.booleans(),
    id_is_time=st.booleans(),
    rules=st.just(NO_RULES)
    | st.builds(
        Rules,
        longest=st.none() | st.integers(0, 9),
        names=st.none() | st.just(NameRules(longest=9, periods=False)),
        required=st.lists(names, max_size=2).map(tuple),
        digits_are_text=st.booleans(),
    ),
)


@given(mappings)
def test_a_mapping_comes_back_from_where_it_is_stored(mapping: Mapping) -> None:
    assert mapping_of(json.loads(mapping_json(mapping))) == mapping
    assert mapping_of(json.loads(remembered_json(mapping))).rules == NO_RULES


@given(mappings, mappings)
def test_two_mappings_are_the_same_text_only_where_they_are_equal(one: Mapping, other: Mapping) -> None:
    assert (mapping_json(one) == mapping_json(other)) == (one == other)


def test_the_text_of_a_mapping_of_before_has_none_of_the_later_words() -> None:
    assert mapping_json(Mapping(("k",), types=(("n", ColumnType.NUMBER),))) == (
        '{"id": ["k"], "time": ["$time"], "onDuplicate": "keep", "types": {"n": "number"}, "quotedLineBreaks": true}'
    )
    assert mapping_of({"id": ["k"], "time": [], "onDuplicate": "keep"}) == Mapping(("k",), ())
