"""Connect's own rules of an event, and the document of a batch."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.connect import events
from common.errors import Refusal

names = st.sampled_from(["a", "tp_a", "TP_a", "_id", "a.b", ".", 'q"', "é" * 255, "é" * 256, "tp", "", "\\", "\\u002e"])
members: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([1, None, "tp_a", "a.b", '":', '{"a.b":1}', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


#: Elements that a batch may have, though not all of them are events.
elements = st.sampled_from(
    [b"{}", b'{"a":"]}"}', rb'{"a":"\ud83d\ude00"}', rb'{"a":"\ud83d"}', b"1e999", b"7", rb'"\ud800\ud800"']
)


def refusal_of(read: Callable[[bytes], object], body: bytes) -> str | None:
    try:
        read(body)
    except Refusal as refusal:
        return refusal.code
    return None


def names_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for one in value for name in names_in(one)]
    return [*value, *names_in([*value.values()])] if isinstance(value, dict) else []


@given(
    event=st.dictionaries(names, members, max_size=4),
    ascii_only=st.booleans(),
    space=st.sampled_from(["", " ", "\n\t"]),
)
def test_names_are_judged_as_a_walk_through_the_event_would(event: Any, ascii_only: bool, space: str) -> None:
    text = json.dumps(event, ensure_ascii=ascii_only, separators=("," + space, space + ":" + space))
    forbidden = any("." in name or len(name) > 255 for name in names_in(event))
    forbidden |= any(name == "_id" or name.lower().startswith("tp_") for name in event)

    assert refusal_of(events.check_event, text.encode()) == ("invalid_event" if forbidden else None)


@given(st.binary(max_size=60) | st.text('{}[]":,\\u.d8 _tp', max_size=40).map(str.encode))
def test_no_bytes_raise_anything_but_refusals(body: bytes) -> None:
    for read in (events.read_event, events.read_batch):
        assert refusal_of(read, body) in ("invalid_event", "malformed_batch", None)


def test_an_event_may_have_64_kilobytes_and_no_byte_more() -> None:
    event = b'{"a":"%s"}' % (b"x" * (events.MAX_EVENT - 8))
    assert events.read_event(b" \n" + event + b"\r\n") == event
    with pytest.raises(Refusal) as refused:
        events.read_event(event.replace(b"a", b"aa"))
    assert refused.value.code == "event_too_large"


@given(
    st.dictionaries(st.text('ab{}[]",é', min_size=1, max_size=5), st.lists(elements), max_size=4),
    st.sampled_from(["", " ", "\t "]),
)
def test_events_of_a_batch_come_out_in_the_bytes_they_went_in(batch: dict[str, list[bytes]], space: str) -> None:
    parts = [
        json.dumps(name).encode() + b":[" + (space + ",").encode().join(found) + b"]" for name, found in batch.items()
    ]
    taken = events.read_batch(b"{" + b",".join(parts) + b"}")

    def seen(event: bytes) -> bytes:
        # Which half of a pair an event holds nobody asks: it is refused.
        return event.replace(rb"\ud83d\ude00", b"pair").replace(rb"\ud83d", rb"\ud800")

    assert list(taken) == list(batch)
    for name, found in batch.items():
        assert [seen(event) for event in taken[name] if isinstance(event, bytes)] == [seen(event) for event in found]


@pytest.mark.parametrize(
    "text", [b'{"a":"' + b"\\" * 100_000, b'"' * 100_000, b'{"a":' + b'"\\u002e":' * 20_000, b"[" * 100_000]
)
def test_no_event_takes_long(text: bytes) -> None:
    started = time.perf_counter()
    for read in (events.read_event, events.read_batch, lambda body: events.check_event(body[:60_000])):
        with contextlib.suppress(Refusal):
            read(text)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "body",
    [
        b'{"c": [{"id": 1}], "c": [{"id": 2}]}',
        b'{"c": [{"id": 1}], "d": [], "\\u0063": [{"id": 2}]}',
    ],
)
def test_a_batch_that_names_a_collection_twice_is_refused_before_an_event_is_lost(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        events.read_batch(body)
    assert refused.value.code == "malformed_batch"


def test_a_batch_may_hold_its_collections_name_deeper_too() -> None:
    body = b'{"c": [{"c": {"c": 1, "c": 2}}, {"\\u0063": 1}], "d": [{"c": "c"}]}'

    assert [len(found) for found in events.read_batch(body).values()] == [2, 1]
