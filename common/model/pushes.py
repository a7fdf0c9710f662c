"""Events that are pushed one by one or in batches: what becomes of each, and what they come to together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from common.model.chunks import Bulk
from common.model.events import Event
from common.model.mapping import OnDuplicate
from common.model.rejects import RejectCode
from common.model.times import as_datetime


class Outcome(StrEnum):
    """What became of an event that was taken."""

    #: Its id was free.
    STORED = "stored"
    #: It took the place of an event of an earlier import or push.
    REPLACED = "replaced"
    #: Another event has its id, stored before or in the same push. That one stays.
    DUPLICATE = "duplicate"


#: What the judge says of a line, and in the end the store.
Judged: TypeAlias = Event | RejectCode
Verdict: TypeAlias = Outcome | RejectCode


def verdict_of(text: str) -> Verdict:
    """Return the verdict that was written so."""
    return Outcome(text) if text in list(Outcome) else RejectCode(text)


@dataclass(frozen=True, slots=True)
class Push:
    """The events of one request for one collection, and their place among imports."""

    #: Drawn from the sequence of the imports' own: where a collection replaces, the larger one wins.
    number: int
    project_id: str
    collection_id: int
    api_key_id: str | None
    on_duplicate: OnDuplicate


class Stored(NamedTuple):
    """What became of a push's events, whose ids all differ."""

    fresh: frozenset[bytes]
    #: Bytes of the payload whose place each took, by id.
    replaced: Mapping[bytes, int]


class Receipt(NamedTuple):
    """What a push came to. ``events`` + ``replaced`` + ``duplicates`` are the events that it took."""

    events: int
    replaced: int
    duplicates: int
    bulk: Bulk


def keep_one_of_each(judged: Iterable[Judged], on_duplicate: OnDuplicate) -> dict[bytes, Event]:
    """Return one event of each id: the first, or the last where the collection replaces. As a chunk does."""
    kept: dict[bytes, Event] = {}
    for event in judged:
        if isinstance(event, Event) and (on_duplicate is OnDuplicate.REPLACE or event.event_id not in kept):
            kept[event.event_id] = event
    return kept


def verdicts(judged: Sequence[Judged], kept: Mapping[bytes, Event], stored: Stored) -> list[Verdict]:
    """Return what became of each line, in their order."""
    return [one if isinstance(one, RejectCode) else _outcome(one, kept, stored) for one in judged]


def _outcome(event: Event, kept: Mapping[bytes, Event], stored: Stored) -> Outcome:
    if kept[event.event_id] is not event:
        return Outcome.DUPLICATE
    if event.event_id in stored.fresh:
        return Outcome.STORED
    return Outcome.REPLACED if event.event_id in stored.replaced else Outcome.DUPLICATE


def add_up(judged: Iterable[Judged], kept: Mapping[bytes, Event], stored: Stored) -> Receipt:
    """Return the receipt of a push."""
    taken = sum(isinstance(one, Event) for one in judged)
    written = [event for key, event in kept.items() if key in stored.fresh or key in stored.replaced]
    size = sum(len(event.payload) for event in written) + len(stored.fresh) - sum(stored.replaced.values())
    times = [as_datetime(event.time) for event in written]
    return Receipt(
        events=len(stored.fresh),
        replaced=len(stored.replaced),
        duplicates=taken - len(written),
        bulk=Bulk(size, min(times, default=None), max(times, default=None)),
    )
