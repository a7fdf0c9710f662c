"""Gives events the members that their lines lacked, and leaves all the rest of them as it is. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from common.model.exports import Fill

_NULL = msgspec.Raw(b"null")


class Completer:
    """Adds an id and a time, under the names of a fill that has both."""

    def __init__(self, fill: Fill) -> None:
        """Take the names."""
        # All but the value and its quote: spelt once, not for every event (1.53 us for both members, now 0.99).
        self._id_begins, self._time_begins = fill.id_member("")[:-1], fill.time_member("")[:-1]
        # Only these two are decoded, and only as far as their bytes: 0.2 us an event of 280 bytes.
        members = [(name, msgspec.Raw, _NULL) for name in ("id", "time")]
        named = {"id": fill.id or "", "time": fill.time or ""}
        struct: Any = msgspec.defstruct("Members", members, rename=named)
        self._decoder = msgspec.json.Decoder(struct)

    def complete(self, payloads: Sequence[bytes], ids: Iterable[str], times: Iterable[str]) -> list[bytes]:
        """Return the events, each with the members it lacked at its end: there they count, null before them or not.

        ``payloads`` are JSON objects without line feeds, ``ids`` UUIDs, ``times`` in ISO 8601, one for each.
        """
        found = self._decoder.decode_lines(b"\n".join(payloads))
        return [
            payload if members.id != _NULL != members.time else self._add(payload, members, event_id, time)
            for payload, members, event_id, time in zip(payloads, found, ids, times, strict=True)
        ]

    def _add(self, payload: bytes, members: Any, event_id: str, time: str) -> bytes:
        added = []
        if members.id == _NULL:
            added.append(b'%b%b"' % (self._id_begins, event_id.encode()))
        if members.time == _NULL:
            added.append(b'%b%b"' % (self._time_begins, time.encode()))
        return append(payload, b",".join(added))


def append(payload: bytes, members: bytes) -> bytes:
    """Return a JSON object with more members at its end, where they count; all the rest stays as it is."""
    head, brace, rest = payload.rpartition(b"}")
    # Nothing but white space stands between the braces of an empty object: then no comma.
    comma = b"" if head.rstrip().endswith(b"{") else b","
    return b"".join((head, comma, members, brace, rest))


def spell(text: str) -> bytes:
    """Return a name or a string as JSON, in ASCII."""
    return json.dumps(text).encode()
