"""The engine without Celery: real Postgres, Redis and S3, and senders that only write down what was sent.

Tests call the engine's functions themselves, in the order they want, with as many workers (runtimes, each with its
own connection) as they need. That is how races are told here: one step at a time.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import boto3
import redis

from api.callers import ALL_SCOPES, Caller
from api.desk import Desk
from api.exporting import ExportDesk
from common.dispatch import Dispatch, Lane
from common.ledger import chunks, imports
from common.ledger.projects import create_key, create_project, revoke_key
from common.model.chunks import Chunk
from common.model.exports import Destination, ExportSpec, ExportStatus
from common.model.imports import Credentials, ImportSpec, ImportStatus
from common.model.mapping import Mapping
from common.model.sources import SourceRef
from common.runtime import Runtime
from common.settings import Settings
from workers.exports.write import write_export
from workers.imports import load
from workers.imports.lease import Lease
from workers.imports.lines import Lines
from workers.imports.plan import plan_import
from workers.imports.walk import Ending
from workers.imports.work import Work


class Written(Dispatch):
    """Senders that write down what they would send."""

    def __init__(self) -> None:
        self.plans: list[str] = []
        self.loads: list[int] = []
        self.walks: list[int] = []
        self.exports: list[str] = []
        self.waiting: int | None = 0
        self.walks_waiting = 0
        self.exports_waiting = 0

    def plan_import(self, import_id: str) -> bool:
        self.plans.append(import_id)
        return self.waiting is not None

    def load_chunk(self, chunk_id: int, *, first: bool = False, long: bool = False) -> bool:
        (self.walks if long else self.loads).append(chunk_id)
        return self.waiting is not None

    def write_export(self, export_id: str) -> bool:
        self.exports.append(export_id)
        return self.waiting is not None

    def queue_length(self, lane: Lane = Lane.IMPORTS) -> int | None:
        """None of any lane where ``waiting`` is None: there is one broker."""
        others = {Lane.WALKS: self.walks_waiting, Lane.EXPORTS: self.exports_waiting}
        return None if self.waiting is None else others.get(lane, self.waiting)


@dataclass(frozen=True)
class Row:
    """A stored event."""

    offset: int
    payload: bytes


@dataclass
class Stage:
    """A project, and workers that do what a test tells them to."""

    settings: Settings
    bucket: str
    sent: Written = field(default_factory=Written)

    def __post_init__(self) -> None:
        self.runtime = self.worker()
        with self.runtime.database.transaction() as tx:
            project_id = create_project(tx, uuid.uuid4().hex)
            create_key(tx, key_id=project_id[:12], project_id=project_id, secret_sha256=b"", scopes=ALL_SCOPES)
            revoke_key(tx, project_id[:12])  # no door ever sees it, and a project has two live ones at most
        self.caller = Caller(project_id, "stage", project_id[:12], frozenset(ALL_SCOPES))
        self.s3 = boto3.client(
            "s3",
            endpoint_url=self.settings.s3_endpoint_url,
            aws_access_key_id="a",
            aws_secret_access_key="b",
            region_name="us-east-1",
        )

    def close(self) -> None:
        self.s3.close()
        self.runtime.database.close()

    def worker(self, **settings: Any) -> Runtime:
        """Return a runtime with a connection of its own: another worker."""
        runtime = Runtime.build(replace(self.settings, **settings), name="stage")
        runtime.dispatch = self.sent
        return runtime

    @property
    def desk(self) -> Desk:
        return Desk(self.runtime)

    def put(self, body: bytes) -> SourceRef:
        """Store an object under a fresh key."""
        ref = SourceRef(self.bucket, uuid.uuid4().hex)
        self.s3.put_object(Bucket=ref.bucket, Key=ref.key, Body=body)
        return ref

    def start(self, body: bytes | SourceRef, *, collection: str = "events", **spec: Any) -> str:
        """Put an object, ask for its import, and return the import's id."""
        source = body if isinstance(body, SourceRef) else self.put(body)
        keys = Credentials("caller-key", "caller-secret")
        asked = ImportSpec(
            **{"collection": collection, "source": source, "mapping": Mapping(), "credentials": keys, **spec}
        )
        return self.desk.start_import(self.caller, asked).status.id

    def planned(self, body: bytes | SourceRef, **spec: Any) -> list[int]:
        """Start and plan an import, and return the ids of its chunks in order."""
        import_id = self.start(body, **spec)
        plan_import(self.runtime, import_id)
        return self.chunk_ids(import_id)

    def run(self, body: bytes | SourceRef, **spec: Any) -> ImportStatus:
        """Import a whole object, chunk by chunk in order, and return its final status."""
        import_id = self.start(body, **spec)
        plan_import(self.runtime, import_id)
        self.load_all(import_id)
        return self.status(import_id)

    def load_all(self, import_id: str) -> None:
        """Load an import's chunks in order, those too that others make."""
        while ids := self.chunk_ids(import_id, open_only=True):
            load.load_chunk(self.runtime, ids[0])
            assert self.chunk_ids(import_id, open_only=True)[:1] != ids[:1], "it did not get on"

    def export(self, **wishes: Any) -> ExportStatus:
        """Ask for an export, write it, and return how it ended."""
        export_id = self.ask_export(**wishes)
        write_export(self.runtime, export_id)
        return self.export_status(export_id)

    def ask_export(self, **wishes: Any) -> str:
        """Ask for an export of what ``run`` has imported, and return its id."""
        keys = Credentials("caller-key", "caller-secret")
        place = Destination(self.bucket, f"{uuid.uuid4().hex}/")
        asked = ExportSpec(**{"collection": "events", "destination": place, "credentials": keys, **wishes})
        return self.export_desk.start_export(self.caller, asked).status.id

    @property
    def export_desk(self) -> ExportDesk:
        return ExportDesk(self.runtime)

    def export_status(self, export_id: str) -> ExportStatus:
        return self.export_desk.read_export(self.caller, export_id)

    def found(self, prefix: str) -> dict[str, bytes]:
        """Return the objects below a prefix by the rest of their keys."""
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {
            one["Key"].removeprefix(prefix): self.s3.get_object(Bucket=self.bucket, Key=one["Key"])["Body"].read()
            for one in listed
        }

    def uploads_begun(self, prefix: str) -> list[str]:
        """Return the keys below a prefix whose uploads are neither completed nor broken off."""
        begun = self.s3.list_multipart_uploads(Bucket=self.bucket, Prefix=prefix).get("Uploads", [])
        return [one["Key"] for one in begun]

    def status(self, import_id: str) -> ImportStatus:
        return self.desk.read_import(self.caller, import_id)

    def query(self, statement: str, **values: Any) -> list[Any]:
        with self.runtime.database.transaction() as tx:
            return tx.all(statement, **values)

    def chunk_ids(self, import_id: str, *, open_only: bool = False) -> list[int]:
        rows = self.query(
            "SELECT c.id FROM chunks AS c JOIN imports AS i ON i.id = c.import_id"
            " WHERE import_id = %(id)s AND (NOT %(open)s OR c.state <> 'done' AND i.state = 'running')"
            " ORDER BY c.number",
            id=import_id,
            open=open_only,
        )
        return [row.id for row in rows]

    def import_of(self, chunk_id: int) -> str:
        (row,) = self.query("SELECT import_id FROM chunks WHERE id = %(id)s", id=chunk_id)
        return str(row.import_id).replace("-", "")

    def rows(self, collection: str = "events") -> list[Row]:
        """Return the collection's events in the order of import and file."""
        found = self.query(
            "SELECT byte_offset, payload::text AS payload FROM events WHERE collection_id ="
            " (SELECT id FROM collections WHERE project_id = %(project)s AND name = %(name)s)"
            " ORDER BY import_number, source_ordinal, byte_offset",
            project=self.caller.project_id,
            name=collection,
        )
        return [Row(row.byte_offset, row.payload.encode()) for row in found]

    def flush_redis(self) -> None:
        with redis.Redis.from_url(self.settings.redis_url) as client:
            client.flushall()

    def expire_lease(self, chunk_id: int) -> None:
        with self.runtime.database.transaction() as tx:
            tx.run("UPDATE chunks SET lease_expires_at = now() - interval '1 second' WHERE id = %(id)s", id=chunk_id)


@dataclass
class Hand:
    """A worker that has claimed a chunk and read its lines, and has yet to commit."""

    work: Work
    lines: Lines

    @classmethod
    def takes(cls, runtime: Runtime, chunk_id: int) -> Hand:
        with runtime.database.transaction() as tx:
            chunk = chunks.claim_chunk(tx, chunk_id, lease_seconds=runtime.settings.lease_seconds)
            assert chunk, "the chunk was not free"
            assert chunk.id == chunk_id
            job = imports.read_import(tx, chunk.import_id)
            source = imports.read_source(tx, chunk.import_id, chunk.source_ordinal)
        work = Work(runtime, job, source, chunk, Lease(runtime, chunk))
        return cls(work, load.read_lines(work))

    @property
    def chunk(self) -> Chunk:
        return self.work.chunk

    def commits(self) -> load.Done:
        return load.commit(self.work, self.lines, Ending())


def ndjson(*events: dict[str, Any] | bytes) -> bytes:
    """Return lines: dicts as JSON, bytes as they are."""
    return b"\n".join(event if isinstance(event, bytes) else json.dumps(event).encode() for event in events) + b"\n"


def event(unique_id: str | None, note: str = "", size: int = 100) -> dict[str, Any]:
    """Return an event of about ``size`` bytes, so that two or three fill a chunk."""
    return {**({"$unique_id": unique_id} if unique_id else {}), "note": note, "filler": "x" * size}
