"""An import: the request as validated, the states of its row, and what a caller is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from common.model.chunks import Counts, Entry
from common.model.columns import Columns
from common.model.formats import Compression, Format, Layout
from common.model.mapping import Mapping
from common.model.segments import SegmentSpec
from common.model.sources import SourceRef


class ImportState(StrEnum):
    """Where an import stands. The first four are active: they hold one of the project's slots."""

    #: Accepted. The row is the promise; a planner will claim it, however many messages are lost.
    PENDING = "pending"
    #: A worker looks at the source: size, ETag, shape. A lost planner's lease ends and another begins anew.
    PLANNING = "planning"
    #: The chunks are rows; workers load them. Chunks commit in this state only (the fence of P7).
    RUNNING = "running"
    #: A caller stopped it for a while; no chunk can commit until it is resumed.
    PAUSED = "paused"
    #: Every chunk is committed, no line was rejected.
    COMPLETED = "completed"
    #: Every chunk is committed, and at least one line was rejected.
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    #: It could not go on; ``error`` says why. What was committed stays and is counted.
    FAILED = "failed"
    #: A caller ended it. What was committed stays and is counted.
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Return whether nothing can change any more."""
        return self not in ACTIVE


ACTIVE = frozenset({ImportState.PENDING, ImportState.PLANNING, ImportState.RUNNING, ImportState.PAUSED})

#: The moves an import may make. A trigger holds the table to the same list.
MOVES: dict[ImportState, frozenset[ImportState]] = {
    ImportState.PENDING: frozenset({ImportState.PLANNING, ImportState.CANCELLED, ImportState.FAILED}),
    ImportState.PLANNING: frozenset({ImportState.RUNNING, ImportState.CANCELLED, ImportState.FAILED}),
    ImportState.RUNNING: frozenset(
        {
            ImportState.PAUSED,
            ImportState.COMPLETED,
            ImportState.COMPLETED_WITH_ERRORS,
            ImportState.CANCELLED,
            ImportState.FAILED,
        }
    ),
    ImportState.PAUSED: frozenset({ImportState.RUNNING, ImportState.CANCELLED, ImportState.FAILED}),
    ImportState.COMPLETED: frozenset(),
    ImportState.COMPLETED_WITH_ERRORS: frozenset(),
    ImportState.FAILED: frozenset(),
    ImportState.CANCELLED: frozenset(),
}


class ImportOrder(StrEnum):
    """What imports are listed by."""

    ID = "id"
    #: By its name.
    COLLECTION = "collection"
    CREATED = "created"
    #: When it came to the state that it is in.
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Listing:
    """Which imports are listed, and in what order."""

    #: By its name; None: of all.
    collection: str | None = None
    #: When they were made: both within.
    since: datetime | None = None
    until: datetime | None = None
    by: ImportOrder = ImportOrder.CREATED
    #: Of equals in the order the earlier one comes first, or last where it is descending.
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys to the caller's S3. They never leave this object but sealed, and its repr shows none of them."""

    #: Printable ASCII, each: they go into HTTP headers.
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class IfSeen(StrEnum):
    """What an import does with objects that a completed one has taken in before, to the byte."""

    #: It takes them in again; its status names the earlier one.
    IMPORT = "import"
    #: It fails before anything is loaded.
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Terms:
    """What one door asks for on top of what all of them have."""

    #: Whose own limit counts; empty: the door has none.
    door: str = ""
    #: Active imports that came through it and a project may have, within those that it may have in all.
    limit: int | None = None
    #: Bytes of all objects, as they are in S3, above which the import fails.
    most_bytes: int | None = None
    #: What was asked for in the door's own words, which it tells again. Never credentials.
    asked: dict[str, Any] = field(default_factory=dict)


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """A validated request. Stored as it was asked, but for the credentials, which are sealed apart."""

    collection: str
    source: SourceRef
    mapping: Mapping
    #: None where the source has a role, or is one of our own buckets, which a setting names.
    credentials: Credentials | None = None
    #: Rejected lines above which the import fails; None for the service's own limit.
    max_rejects: int | None = None
    #: Fields of the mapping that the request names; the collection's mapping fills in the others. None: all of them.
    named: frozenset[str] | None = None

    #: Of all its objects; None: each one's content says it.
    format: Format | None = None
    compression: Compression | None = None
    if_seen: IfSeen = IfSeen.IMPORT
    terms: Terms = NO_TERMS
    #: A segment that its events are to be.
    segment: SegmentSpec | None = None
    #: What is declared of the columns of a table, whose others are found out before anything is loaded. None: the lines
    #: are those of no table.
    columns: Columns | None = None

    def mapping_within(self, collections: Mapping) -> Mapping:
        """Return the mapping to import with, given that of the collection."""
        if self.named is None:
            return self.mapping
        return replace(collections, **{name: getattr(self.mapping, name) for name in self.named})

    def as_asked(self) -> str:
        """Return the request in one form, without its credentials: equal texts ask for the same import.

        Holds only what differs from a default, so that a field of a later version changes no request of an earlier that
        does not use it. Knows no dialect, on purpose: who asks again on another wire, for the same mapping and rules
        too, gets the same import.
        A default that is named is another request than one that is left out: the collection may have something else.
        """
        asked = _asked(self)
        if self.named and (defaults := self.named - asked["mapping"].keys()):
            asked["named"] = sorted(defaults)
        return "import " + json.dumps(asked, sort_keys=True)


def _asked(part: Any) -> Any:
    if isinstance(part, tuple):
        return [_asked(one) for one in part]
    if not is_dataclass(part):
        return part
    # The limits are the service's: who asks again once an operator has moved one asks for the same. So is what segments
    # are counted by.
    apart = ("credentials", "named", "limit", "most_bytes", "counted_by")
    said = {one.name: (getattr(part, one.name), one.default) for one in fields(part) if one.name not in apart}
    return {name: _asked(value) for name, (value, default) in said.items() if value != default}


@dataclass(frozen=True, slots=True)
class Import:
    """An import's row, as the engine reads it."""

    id: str
    #: Drawn from a sequence when the row was written: the order among imports.
    number: int
    project_id: str
    collection_id: int
    state: ImportState
    created_at: datetime
    source: SourceRef
    mapping: Mapping
    max_rejects: int
    #: As declared for all its objects; None: each one's content says it.
    format: Format | None = None
    compression: Compression | None = None
    if_seen: IfSeen = IfSeen.IMPORT
    most_bytes: int | None = None
    #: As declared; None: no table.
    columns: Columns | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a planner holds while it looks at the source."""

    job: Import
    lease_token: int


#: The seed shows a rate and names no window; ten seconds is the design's.
RATE_WINDOW_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is: sums over its committed chunks."""

    counts: Counts = field(default_factory=Counts)
    bytes_done: int = 0
    chunks_done: int = 0
    #: Events imported or replaced in the ten seconds before the question.
    imported_lately: int = 0


def sum_progress(entries: Iterable[Entry], *, now_ms: int) -> Progress:
    """Return the sums over committed chunks; ``now_ms`` by the clock that stamped them."""
    since = now_ms - RATE_WINDOW_SECONDS * 1000
    rows = [(*astuple(e.counts), e.bytes, 1, e.counts.stored if e.done_ms > since else 0) for e in entries]
    if not rows:
        return Progress()
    *counts, bytes_done, chunks_done, lately = map(sum, zip(*rows, strict=True))
    return Progress(Counts(*counts), bytes_done, chunks_done, lately)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an import failed: a stable word and a sentence."""

    code: str
    message: str


#: Stands for a format or a compression that each object's content says.
AUTO = "auto"
#: Objects of an import that its status shows one by one.
SHOWN_OBJECTS = 100


class PieceState(StrEnum):
    """How far one of an import's objects is."""

    #: Under way, or left so by an import that ended before it.
    UNFINISHED = "unfinished"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """One of an import's objects."""

    key: str
    #: Bytes.
    size: int
    #: None until it was looked at.
    layout: Layout | None
    state: PieceState
    error: Failure | None


@dataclass(frozen=True, slots=True)
class Pieces:
    """An import's objects: how many there are, and what they turned out to be."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    formats: tuple[Format, ...] = ()
    compressions: tuple[Compression, ...] = ()
    #: The first of them.
    objects: tuple[ObjectStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportStatus:
    """All that a caller may be told; a room renders what its dialect knows of it."""

    id: str
    number: int
    collection: str
    state: ImportState
    source: SourceRef
    mapping: Mapping
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: The database's clock when the row was read: what elapsed times are measured against.
    read_at: datetime
    #: None until the object was looked at.
    bytes_total: int | None
    chunks_total: int
    chunks_running: int
    progress: Progress
    error: Failure | None
    history: tuple[tuple[ImportState, datetime], ...]
    #: The id of the key that made it.
    key_id: str | None = None
    #: The latest import of the collection that completed and took one of the same objects.
    previous_id: str | None = None
    pieces: Pieces = Pieces()
    #: As asked for: of all objects, or ``auto``.
    format: str = AUTO
    compression: str = AUTO
    #: What the trust policy of the source's role has to ask for; None where it has no role.
    external_id: str | None = None
    #: What the door it came through tells again; empty where it came through another.
    asked: dict[str, Any] = field(default_factory=dict)
    #: The segment that its events are.
    segment_id: str | None = None
    #: As declared; None: no table.
    columns: Columns | None = None

    def as_admitted(self) -> ImportStatus:
        """Return the status as it was when the import's row was written: what its first caller was told."""
        return replace(
            self,
            state=ImportState.PENDING,
            started_at=None,
            finished_at=None,
            bytes_total=None,
            chunks_total=0,
            chunks_running=0,
            progress=Progress(),
            error=None,
            history=self.history[:1],
            previous_id=None,
            pieces=Pieces(),
        )

    @property
    def percent(self) -> float:
        """Return committed bytes of all bytes, 0 to 100 with two decimals, cut and not rounded.

        Of committed bytes only, so it never falls; cut, so that 100 means all. An empty object that
        completed has 100.
        """
        if self.bytes_total:
            return int(self.progress.bytes_done * 10_000 // self.bytes_total) / 100
        return 100.0 if self.state in (ImportState.COMPLETED, ImportState.COMPLETED_WITH_ERRORS) else 0.0

    @property
    def events_per_second(self) -> int:
        """Return events imported or replaced a second: over the last ten while running, then over the whole run."""
        if self.started_at is None:
            return 0
        elapsed = ((self.finished_at or self.read_at) - self.started_at).total_seconds()
        if self.state.ended:
            return round(self.progress.counts.stored / elapsed) if elapsed > 0 else 0
        return round(self.progress.imported_lately / max(min(elapsed, RATE_WINDOW_SECONDS), 0.1))

    @property
    def eta_seconds(self) -> int | None:
        """Return seconds until the end at the pace so far, or None while nothing is known."""
        if self.state is not ImportState.RUNNING or not self.started_at or not self.progress.bytes_done:
            return None
        elapsed = (self.read_at - self.started_at).total_seconds()
        left = (self.bytes_total or 0) - self.progress.bytes_done
        return max(round(elapsed * left / self.progress.bytes_done), 0)
