"""Connect's own rules of an event, and the document of a batch."""

from __future__ import annotations

import contextlib
import json
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.connect import events
from common.errors import Refusal

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


@given(st.binary(max_size=60) | st.text('{}[]":,\\u.d8 _tp', max_size=40).map(str.encode))
def test_no_bytes_raise_anything_but_refusals(body: bytes) -> None:
    for read in (events.read_event, events.read_batch):
        assert refusal_of(read, body) in ("malformed_batch", None)


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
    for read in (events.read_event, events.read_batch):
        with contextlib.suppress(Refusal):
            read(text)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "body",
    [
        b'{"c":[%s]}' % b",".join([b"1"] * 1_000_000),
        b"{%s}" % b",".join(b'"%d":[]' % number for number in range(500_000)),
        b"{%s}" % b",".join(b'"%d":[1]' % number for number in range(200_000)),
    ],
    ids=["events", "collections", "both"],
)
def test_a_batch_without_end_is_refused_before_it_is_kept(body: bytes) -> None:
    tracemalloc.start()
    try:
        assert refusal_of(events.read_batch, body) == "too_many_events"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Kept one by one, each of these elements takes a hundred bytes.
    assert peak < 3 * len(body)


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
