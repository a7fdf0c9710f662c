"""An export: the request as validated, the states of its row, and what a caller is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from common.errors import Refusal
from common.model.formats import Compression, Format
from common.model.imports import Credentials, Failure
from common.model.query import EVERYTHING, Query
from common.model.sources import DEFAULT_REGION, SourceRef


class ExportState(StrEnum):
    """Where an export stands. The first two are active."""

    #: Accepted. The row is the promise; a worker will claim it, however many messages are lost.
    PENDING = "pending"
    #: A worker has claimed it at least once. An attempt that dies is begun again, with a snapshot of its own.
    RUNNING = "running"
    #: All of its objects are in the bucket, whole.
    COMPLETED = "completed"
    #: It could not go on; ``error`` says why. Nothing of it stays in the bucket.
    FAILED = "failed"
    #: A caller ended it. Nothing of it stays in the bucket.
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Return whether nothing can change any more."""
        return self not in (ExportState.PENDING, ExportState.RUNNING)


#: The moves an export may make. A trigger holds the table to the same list.
MOVES: dict[ExportState, frozenset[ExportState]] = {
    ExportState.PENDING: frozenset({ExportState.RUNNING, ExportState.CANCELLED, ExportState.FAILED}),
    ExportState.RUNNING: frozenset({ExportState.COMPLETED, ExportState.CANCELLED, ExportState.FAILED}),
    ExportState.COMPLETED: frozenset(),
    ExportState.FAILED: frozenset(),
    ExportState.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an export goes. No address but bucket, prefix and region: the endpoint is ours to choose."""

    bucket: str
    #: What the keys of all its objects begin with: nothing, or it ends in a slash.
    prefix: str
    region: str = DEFAULT_REGION
    #: ARN of the role that may write there, where the caller sends no keys of their own.
    role: str | None = None

    @classmethod
    def beneath(cls, ref: SourceRef) -> Destination:
        """Return the destination that a parsed address names; one without a slash at its end gets it."""
        prefix = ref.key if not ref.key or ref.key.endswith("/") else ref.key + "/"
        return cls(ref.bucket, prefix, ref.region, ref.role)

    @property
    def url(self) -> str:
        """Return the destination in its plainest spelling."""
        return f"s3://{self.bucket}/{self.prefix}"

    def at(self, name: str) -> SourceRef:
        """Return the object of a name."""
        return SourceRef(self.bucket, self.prefix + name, self.region)


@dataclass(frozen=True, slots=True)
class Fill:
    """Two members that every exported event has: added at the end of those whose line had none of them, or null.

    None: nothing is added, and every event comes back byte for byte as it went in.
    """

    #: Gets the event's id, written as a UUID. Imported again it is an id like any other that a line holds.
    id: str | None = None
    #: Gets the event's time: UTC, milliseconds, ``Z``.
    time: str | None = None

    def __bool__(self) -> bool:
        """Return whether anything is to be added."""
        return bool(self.id and self.time)

    def id_member(self, event_id: str) -> bytes:
        """Return the member that holds an id, a UUID, as JSON."""
        return _member(self.id or "", event_id)

    def time_member(self, time: str) -> bytes:
        """Return the member that holds a time, in ISO 8601, as JSON."""
        return _member(self.time or "", time)


def _member(name: str, value: str) -> bytes:
    return f'{json.dumps(name)}:"{value}"'.encode()


#: Columns of a CSV.
MOST_COLUMNS = 1000
#: The least and the most bytes of a part that a caller may choose.
LEAST_PART_BYTES, MOST_PART_BYTES = 1024**2, 100 * 1024**3
#: Objects of one export: as many as an import takes in.
MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """A validated request. Stored as it was asked, but for the credentials, which are sealed apart."""

    collection: str
    destination: Destination
    #: With the instants that a relative timeframe meant when it was asked for.
    query: Query = EVERYTHING
    #: The number of an import: then of its events alone.
    import_number: int | None = None
    #: The query in the caller's words: for the manifest, and to tell whether a request is repeated.
    asked: Mapping[str, Any] = field(default_factory=dict)
    #: None where the destination has a role, or is one of our own buckets, which a setting names.
    credentials: Credentials | None = None
    #: NDJSON or CSV.
    format: Format = Format.NDJSON
    #: None, gzip or Zstandard.
    compression: Compression = Compression.NONE
    #: Of CSV: dotted paths; none: the names of all members at the top of any of its events, in their order by code.
    columns: tuple[str, ...] = ()
    fill: Fill = Fill()
    #: Bytes at which an object is full and another begins; None: all of it is one object.
    part_bytes: int | None = None
    #: Events above which the export fails; None: as many as there are.
    most_events: int | None = None
    #: What the names of its objects end with, before that of the compression; "": that of the format.
    suffix: str = ""

    def as_asked(self) -> str:
        """Return the request in one form, without its credentials: equal texts ask for the same export."""
        return "export " + json.dumps([self.collection, dict(self.asked), self._wishes()], sort_keys=True)

    def as_json(self) -> dict[str, Any]:
        """Return all of the request but its credentials; ``from_json`` reads it."""
        return {
            "collection": self.collection,
            "asked": dict(self.asked),
            "query": self.query.as_json(),
            **self._wishes(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ExportSpec:
        """Return the request that ``as_json`` wrote."""
        return cls(
            collection=stored["collection"],
            destination=Destination(**stored["destination"]),
            query=Query.from_json(stored["query"]),
            asked=stored["asked"],
            format=Format(stored["format"]),
            compression=Compression(stored["compression"]),
            columns=tuple(stored["columns"]),
            fill=Fill(**stored["fill"]),
            part_bytes=stored["partBytes"],
            most_events=stored["mostEvents"],
            suffix=stored["suffix"],
            import_number=stored.get("importNumber"),
        )

    def _wishes(self) -> dict[str, Any]:
        return {
            "destination": asdict(self.destination),
            "format": self.format.value,
            "compression": self.compression.value,
            "columns": list(self.columns),
            "fill": asdict(self.fill),
            "partBytes": self.part_bytes,
            "mostEvents": self.most_events,
            "suffix": self.suffix,
            # Left out where there is none: a request of before asks for the same as ever.
            **({} if self.import_number is None else {"importNumber": self.import_number}),
        }

    @property
    def ending(self) -> str:
        """Return what the names of its objects end with."""
        compressed = {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}
        return f".{self.suffix or self.format.value}{compressed[self.compression]}"

    def name_of(self, export_id: str, number: int) -> str:
        """Return the name, below the prefix, of the object with this number, counted from 1."""
        return f"{export_id}/part-{number:05}{self.ending}" if self.part_bytes else f"{export_id}{self.ending}"

    def manifest_of(self, export_id: str) -> str:
        """Return the name of the manifest: beside the folder of the parts, so that the folder holds events alone."""
        return f"{export_id}.manifest.json"


@dataclass(frozen=True, slots=True)
class Export:
    """An export's row, as the engine reads it."""

    id: str
    project_id: str
    collection_id: int
    created_at: datetime
    spec: ExportSpec


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a worker holds while it writes an export."""

    job: Export
    #: From 1.
    number: int
    lease_token: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What a snapshot holds of an export."""

    events: int
    #: Bytes that will be in the bucket; None where only writing them tells (CSV, compressed).
    bytes: int | None

    def plus(self, other: Totals) -> Totals:
        """Return the sums."""
        return Totals(self.events + other.events, (self.bytes or 0) + (other.bytes or 0))


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an attempt has begun in the bucket that shall not stay there."""

    lease_token: int
    number: int
    key: str
    #: None where nobody lived to write it down.
    upload_id: str | None
    #: Whether S3 was told to make the object of its parts, and no later attempt has put its own in that place.
    stands: bool


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """An object that an export has put into the bucket, whole."""

    key: str
    events: int
    #: Bytes of the object as it is stored.
    size: int
    #: Of the same bytes, in hexadecimal.
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """All that a caller may be told; a room renders what its dialect knows of it."""

    id: str
    number: int
    spec: ExportSpec
    state: ExportState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: The database's clock when the row was read.
    read_at: datetime
    #: When the present attempt began, and the instant that its snapshot shows; None until then.
    attempt_started_at: datetime | None = None
    snapshot_at: datetime | None = None
    #: None until counted.
    events_total: int | None = None
    #: None until known: of what is compressed, or CSV, at its end.
    bytes_total: int | None = None
    events_done: int = 0
    bytes_done: int = 0
    error: Failure | None = None
    history: tuple[tuple[ExportState, datetime], ...] = ()
    #: Once it has completed.
    objects: tuple[WrittenObject, ...] = ()
    #: The manifest's key, once it is written.
    manifest: str | None = None
    #: The id of the key that made it.
    key_id: str | None = None
    #: What the trust policy of the destination's role has to ask for; None where it has no role.
    external_id: str | None = None

    def as_admitted(self) -> ExportStatus:
        """Return the status as it was when the export's row was written: what its first caller was told."""
        return replace(
            self,
            state=ExportState.PENDING,
            started_at=None,
            finished_at=None,
            attempt_started_at=None,
            snapshot_at=None,
            events_total=None,
            bytes_total=None,
            events_done=0,
            bytes_done=0,
            error=None,
            history=self.history[:1],
            objects=(),
            manifest=None,
        )

    @property
    def percent(self) -> float:
        """Return what is in the bucket, of all there is: 0 to 100 with two decimals, cut, so that 100 means all.

        Falls where an attempt died, since the next begins from nothing. By bytes, or where those are not known yet by
        events. 100 is left to an export that has completed: before, its objects are not there.
        """
        if self.state is ExportState.COMPLETED:
            return 100.0
        done, total = self.bytes_done, self.bytes_total
        if not total:
            done, total = self.events_done, self.events_total
        return min(int(done * 10_000 // total) / 100, 99.99) if total else 0.0

    @property
    def events_per_second(self) -> int:
        """Return events written a second, over the present attempt."""
        elapsed = self._elapsed
        return round(self.events_done / elapsed) if elapsed > 0 else 0

    @property
    def eta_seconds(self) -> int | None:
        """Return seconds until the end at the pace so far, or None while nothing is known."""
        if self.state is not ExportState.RUNNING or not self.events_done or not self.events_total:
            return None
        left = self.events_total - self.events_done
        return max(round(self._elapsed * left / self.events_done), 0)

    @property
    def _elapsed(self) -> float:
        since = self.attempt_started_at
        return ((self.finished_at or self.read_at) - since).total_seconds() if since else 0.0


def too_many_events(most: int) -> Refusal:
    """Return the answer to an export that is too large to be one."""
    text = f"There are more than {most} events, or 256 MiB of them. Ask for fewer, or export them to S3."
    return Refusal("too_many_events", text, limit=most)


def unknown_export(export_id: str) -> Refusal:
    """Return the one answer to an id that is unknown or another project's: they must not differ (P9)."""
    return Refusal("not_found", f"There is no export with the id {export_id[:64]!r} in this project.")
