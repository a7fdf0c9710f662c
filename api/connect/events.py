"""Connect's events: the document that holds them, and the rules of its own that they have to keep. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import msgspec

from common.errors import Refusal
from common.judging import on_one_line
from common.model.collections import check_collection

#: Bytes of an event, and of a request that holds one: white space around it is none of its own.
MAX_EVENT, MAX_EVENT_BODY = 64 * 1024, 128 * 1024
#: Events of a batch, and its bytes.
MOST_EVENTS, MAX_BATCH_BODY = 5_000, 16 * 1024 * 1024
MAX_NAME = 255

_BLANK = b" \t\r\n"
_BATCH = msgspec.json.Decoder(dict[str, list[msgspec.Raw]])
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAME = msgspec.json.Decoder(str)
#: Every string of a JSON text, one after the other; those that are names have a group. Cannot backtrack.
_STRING = re.compile(rb'("(?:[^"\\]++|\\.)*+")[ \t\r\n]*+(:?)', re.DOTALL)
#: An escape in a string; that of half a surrogate pair has a group.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
#: Stands for half of a surrogate pair: no UTF-8, so that no name of a collection can have it.
_HALF = b"\xff\xfe\xff\xfe\xff\xfe"


def read_event(body: bytes) -> bytes:
    """Return the event that a request holds, as a line. Raises Refusal as ``check_event`` does."""
    event = body.strip(_BLANK)
    check_event(event)
    return on_one_line(event)


def read_batch(body: bytes) -> dict[str, list[bytes | Refusal]]:
    """Return the events of a batch by collection: each as a line, in the bytes that it came in, or why it is none.

    Raises Refusal ``malformed_batch``, for a repeated name too (the events of the first would be lost without a word),
    and ``too_many_events``.
    """
    try:
        batch = _decode(body)
        is_ambiguous = _names_one_twice(body, batch)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = "The body is not a JSON object whose members, named as collections, are arrays of events."
        raise Refusal("malformed_batch", text) from None
    if is_ambiguous:
        raise Refusal("malformed_batch", "The body names a collection twice: which of the two is meant?")
    if sum(map(len, batch.values())) > MOST_EVENTS:
        raise Refusal("too_many_events", f"A batch has up to {MOST_EVENTS:,} events. Send these in several.")
    return {name: [_taken(name, event) for event in events] for name, events in batch.items()}


def _names_one_twice(body: bytes, batch: Iterable[str]) -> bool:
    """Return whether a collection is named twice. Looked into only where a name, or an escape, might say so."""
    if b"\\u" not in body and all(body.count(f'"{name}"'.encode()) == 1 for name in batch):
        return False
    counts: list[int] = []

    def count(pairs: list[tuple[str, object]]) -> None:
        counts[:] = [len(pairs) - len(dict(pairs))]  # that of the outermost object comes last

    json.loads(body, object_pairs_hook=count)
    return bool(counts[0])


def _taken(collection: str, event: bytes) -> bytes | Refusal:
    try:
        check_collection(collection)
        check_event(event)
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


def check_event(event: bytes) -> None:
    """Raise Refusal where an event breaks a rule that other importers do not have: of its size, or of its names.

    Takes any bytes, JSON or not: the importer's own rules are none of this.
    """
    if len(event) > MAX_EVENT:
        raise too_large()
    for found in _STRING.finditer(event):
        # Most names have none of these, and are looked into no further.
        if found[2] and (b"." in found[1] or b"\\" in found[1] or len(found[1]) > MAX_NAME):
            _check_name(found[1])
    for name in _names_at_root(event):
        if name.lower().startswith("tp_"):
            raise Refusal("invalid_event", "Property names starting with tp_ are reserved and cannot be set.")
        if name == "_id":
            raise Refusal("invalid_event", "The property name _id is reserved and cannot be set.")


def _check_name(token: bytes) -> None:
    try:
        name = _NAME.decode(token)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    if "." in name:
        raise Refusal("invalid_event", "Property names cannot contain a period (.).")
    if len(name) > MAX_NAME:
        raise Refusal("invalid_event", f"Property names cannot be longer than {MAX_NAME} characters.")


def _names_at_root(event: bytes) -> list[str]:
    try:
        return list(_MEMBERS.decode(event))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []


def too_large() -> Refusal:
    """Return the answer to an event over the limit."""
    return Refusal("event_too_large", "Maximum event size of 64kb exceeded.")
