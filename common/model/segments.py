"""Named sets of events: those that an import brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

from common.errors import Refusal


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """A segment that an import is to define."""

    #: Of the segment that it is to be a version of; None: of a new one.
    id: str | None = None
    name: str | None = None
    _: KW_ONLY
    #: The member by which its events are counted.
    counted_by: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A version of a segment."""

    id: str
    #: The order among segments.
    number: int
    version: int
    name: str | None
    created_at: datetime
    #: When the version was defined.
    modified_at: datetime
    #: The import whose events it has.
    import_id: str
    #: How many it brought; None until it has ended.
    members: int | None
    #: How many of them said what by a member as the import ended, the hundred most frequent; nothing before that.
    by_member: Mapping[str, int]


def unknown_segment(segment_id: str) -> Refusal:
    """Return the answer to the id of no segment of the project."""
    return Refusal("not_found", f"This project has no segment {segment_id[:64]!r}.")
