"""The named families that events belong to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from common.errors import Refusal

MAX_NAME = 255


class Collection(NamedTuple):
    """A collection that callers can name: neither deleted nor about to be, in the transaction that found it."""

    #: Its number, which is that of its events and of none of another collection's, of the same name or not.
    id: int
    name: str
    #: That of the first import, as the ledger keeps it; None where nothing was imported since collections have any.
    mapping: Any


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """What a collection holds, as the ledger tells it."""

    name: str
    created_at: datetime
    #: Events that are stored.
    events: int
    #: Bytes of all events with a line break each: as a file of lines. None where some were stored by a version that did
    #: not measure.
    size: int | None
    #: Bounds, beyond which no event lies: exact but where events took the place of others. None where there is no event
    #: or nobody measured.
    first_time: datetime | None
    last_time: datetime | None
    #: Whether it has an index of its own for times in no order.
    time_index: bool


class StoredEvent(NamedTuple):
    """An event as a reader sees it."""

    #: As a UUID: 8-4-4-4-12 digits.
    id: str
    time: datetime
    #: The bytes that came in.
    payload: bytes


def check_collection(name: str, *, field: str = "collection") -> str:
    """Return the name. Raises Refusal where it is empty, over 255 characters, or holds what no URL can carry."""
    if not name.strip():
        raise Refusal("invalid_collection", "The collection's name is empty.", field=field)
    if len(name) > MAX_NAME:
        raise Refusal("invalid_collection", f"The collection's name is longer than {MAX_NAME} characters.", field=field)
    if not name.isprintable() or "/" in name or name in (".", ".."):
        text = "The collection's name holds a slash or a character that cannot be printed, or is a dot or two."
        raise Refusal("invalid_collection", text, field=field)
    return name


def unknown_collection(name: str) -> Refusal:
    """Return the one answer to a name that nothing has in this project."""
    return Refusal("not_found", f"There is no collection with the name {name[:MAX_NAME]!r} in this project.")
