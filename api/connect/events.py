"""Connect's documents of events: one, or a batch. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from common.errors import Refusal
from common.judging import count_commas, has_more_elements, on_one_line
from common.model.collections import check_collection

#: Bytes of a request that holds one event: white space around it is none of its own.
MAX_EVENT_BODY = 128 * 1024
#: Events of a batch, and its bytes.
MOST_EVENTS, MAX_BATCH_BODY = 5_000, 16 * 1024 * 1024

_BLANK = b" \t\r\n"
_BATCH = msgspec.json.Decoder(dict[str, list[msgspec.Raw]])
#: Names that are looked for one by one: 12 ms each in 16 MiB.
_FEW = 8
#: An escape in a string; that of half a surrogate pair has a group.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
#: Stands for half of a surrogate pair: no UTF-8, so that no name of a collection can have it.
_HALF = b"\xff\xfe\xff\xfe\xff\xfe"


def read_event(body: bytes) -> bytes:
    """Return the event that a request holds, as a line."""
    return on_one_line(body.strip(_BLANK))


def read_batch(body: bytes) -> dict[str, list[bytes | Refusal]]:
    """Return the events of a batch by collection: each as a line, in the bytes that it came in, or why it is none.

    Raises Refusal ``malformed_batch``, for a repeated name too (the events of the first would be lost without a word),
    and ``too_many_events``.
    """
    if has_more_elements(body, MOST_EVENTS, depths=(1, 2)):
        raise _too_many()
    try:
        batch = _decode(body)
        is_ambiguous = _names_one_twice(body, batch)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = "The body is not a JSON object whose members, named as collections, are arrays of events."
        raise Refusal("malformed_batch", text) from None
    if is_ambiguous:
        raise Refusal("malformed_batch", "The body names a collection twice: which of the two is meant?")
    if sum(map(len, batch.values())) > MOST_EVENTS:
        raise _too_many()
    return {name: [_taken(name, event) for event in events] for name, events in batch.items()}


def _too_many() -> Refusal:
    return Refusal("too_many_events", f"A batch has up to {MOST_EVENTS:,} events. Send these in several.")


def _names_one_twice(body: bytes, batch: Collection[str]) -> bool:
    """Return whether a collection is named twice: the members are more than the names."""
    if not batch or (len(batch) <= _FEW and b"\\u" not in body and all(_is_there_once(body, name) for name in batch)):
        return False
    return count_commas(body, depths=(1,), most=len(batch)) == len(batch)


def _is_there_once(body: bytes, name: str) -> bool:
    return body.count(f'"{name}"'.encode()) == 1


def _taken(collection: str, event: bytes) -> bytes | Refusal:
    try:
        check_collection(collection)
    except Refusal as refusal:
        return refusal
    return on_one_line(event)


def _decode(body: bytes) -> dict[str, list[bytes]]:
    """Decode a batch, whose events may be whatever JSON takes: one that no importer takes must not refuse the others.

    That is half of a surrogate pair, which JavaScript sends where it has cut a string in two, and msgspec refuses.
    """
    try:
        return _bytes(_BATCH.decode(body))
    except msgspec.MsgspecError:
        if rb"\u" not in body:
            raise
    mended = _ESCAPE.sub(lambda found: _HALF if found[1] else found[0], body)
    batch = _bytes(_BATCH.decode(mended))
    return {name: [event.replace(_HALF, rb"\ud800") for event in events] for name, events in batch.items()}


def _bytes(batch: dict[str, list[msgspec.Raw]]) -> dict[str, list[bytes]]:
    return {name: list(map(bytes, events)) for name, events in batch.items()}
