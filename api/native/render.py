"""Our vocabulary into the native wire's JSON. Pure; only links are made elsewhere, since they know the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from api.rendering import exact_time, headers_of_refusal, http_status, iso_time
from common.errors import Refusal
from common.model.collections import CollectionStatus, StoredEvent
from common.model.exports import ExportStatus
from common.model.imports import ImportState, ImportStatus, ObjectStatus
from common.model.mapping import Mapping
from common.model.rejects import LineError
from common.model.uploads import is_spooled


def import_status(status: ImportStatus, link: Callable[[str], str]) -> dict[str, Any]:
    """Return an import's status document."""
    progress, counts, pieces = status.progress, status.progress.counts, status.pieces
    path = f"/api/imports/{status.id}"
    return {
        "id": status.id,
        "collection": status.collection,
        "status": status.state.value,
        "createdAt": iso_time(status.created_at),
        "startedAt": iso_time(status.started_at),
        "finishedAt": iso_time(status.finished_at),
        "createdBy": {"keyId": status.key_id} if status.key_id else None,
        "source": _source(status),
        "format": _one_of(pieces.formats, status.format),
        "compression": _one_of(pieces.compressions, status.compression),
        "pieces": {"total": pieces.total, "completed": pieces.completed, "failed": pieces.failed},
        "objects": [_object(piece) for piece in pieces.objects],
        "previousImport": status.previous_id,
        "mapping": _mapping(status.mapping),
        "progress": {
            "percent": status.percent,
            "bytesRead": progress.bytes_done,
            "bytesTotal": status.bytes_total,
            "eventsPerSecond": status.events_per_second,
            "etaSeconds": status.eta_seconds,
            "chunks": {
                "total": status.chunks_total,
                "done": progress.chunks_done,
                "running": status.chunks_running,
                # A chunk never fails by itself: it is tried again, or its import fails.
                "failed": 0,
            },
        },
        "counts": {
            "lines": counts.lines,
            "imported": counts.imported,
            "replaced": counts.replaced,
            "duplicates": counts.duplicates,
            "rejected": counts.rejected,
            "blank": counts.blank,
        },
        "error": {"code": status.error.code, "message": status.error.message} if status.error else None,
        "statusHistory": [{"status": state.value, "at": iso_time(at)} for state, at in status.history],
        "links": {"self": link(path), "errors": link(f"{path}/errors"), "cancel": link(f"{path}/cancel")},
    }


def _object(piece: ObjectStatus) -> dict[str, Any]:
    return {
        "key": piece.key,
        "bytes": piece.size,
        "format": piece.layout.format.value if piece.layout else None,
        "compression": piece.layout.compression.value if piece.layout else None,
        "status": piece.state.value,
        "error": {"code": piece.error.code, "message": piece.error.message} if piece.error else None,
    }


def _one_of(values: Sequence[StrEnum], asked: str) -> str:
    """Return what all objects are, or ``mixed``; as asked for while none was looked at."""
    if not values:
        return asked
    return values[0].value if len(values) == 1 else "mixed"


def _mapping(mapping: Mapping) -> dict[str, Any]:
    return {
        "id": list(mapping.id_names),
        "time": list(mapping.time_names),
        "onDuplicate": mapping.on_duplicate.value,
        "types": {column: kind.value for column, kind in mapping.types},
        "quotedLineBreaks": mapping.quoted_line_breaks,
    }


def _source(status: ImportStatus) -> dict[str, Any]:
    """Return the source as asked for. Where a body is spooled is nobody's business."""
    source = status.source
    if is_spooled(source, status.id):
        return {"type": "upload"}
    role = {"roleArn": source.role, "externalId": status.external_id} if source.role else {}
    return {"url": source.url, "type": source.kind.value, "region": source.region, **role}


def export_status(status: ExportStatus, link: Callable[[str], str]) -> dict[str, Any]:
    """Return an export's status document."""
    spec, path = status.spec, f"/api/exports/{status.id}"
    place, fill, window = spec.destination, spec.fill, spec.query
    role = {"roleArn": place.role, "externalId": status.external_id} if place.role else {}
    return {
        "id": status.id,
        "collection": spec.collection,
        "status": status.state.value,
        "createdAt": iso_time(status.created_at),
        "startedAt": iso_time(status.started_at),
        "finishedAt": iso_time(status.finished_at),
        "snapshotAt": exact_time(status.snapshot_at),
        "createdBy": {"keyId": status.key_id} if status.key_id else None,
        "query": dict(spec.asked),
        "timeframe": {"start": exact_time(window.start), "end": exact_time(window.end)},
        "destination": {"url": place.url, "region": place.region, **role},
        "format": spec.format.value,
        "compression": spec.compression.value,
        "columns": list(spec.columns),
        "fill": {"id": fill.id, "time": fill.time} if fill else None,
        "partBytes": spec.part_bytes,
        "progress": {
            "percent": status.percent,
            "eventsWritten": status.events_done,
            "eventsTotal": status.events_total,
            "bytesWritten": status.bytes_done,
            "bytesTotal": status.bytes_total,
            "eventsPerSecond": status.events_per_second,
            "etaSeconds": status.eta_seconds,
        },
        "objects": [
            {"key": one.key, "events": one.events, "bytes": one.size, "sha256": one.sha256} for one in status.objects
        ],
        "manifest": status.manifest,
        "error": {"code": status.error.code, "message": status.error.message} if status.error else None,
        "statusHistory": [{"status": state.value, "at": iso_time(at)} for state, at in status.history],
        "links": {"self": link(path), "cancel": link(f"{path}/cancel")},
    }


def line_error(error: LineError) -> dict[str, Any]:
    """Return a rejected line's place and reason, never its bytes."""
    return {
        "object": error.key,
        "index": error.index,
        "byteOffset": error.byte_offset,
        "length": error.length,
        "code": error.code.value,
        "reason": error.code.sentence,
    }


def collection_status(status: CollectionStatus) -> dict[str, Any]:
    """Return what a collection holds."""
    return {
        "name": status.name,
        "events": status.events,
        "bytes": status.size,
        "firstTime": exact_time(status.first_time),
        "lastTime": exact_time(status.last_time),
        "createdAt": iso_time(status.created_at),
        "timeIndex": status.time_index,
    }


def event_page(events: Sequence[StoredEvent], next_after: str | None) -> bytes:
    """Return a page of events as JSON. Their bytes are put in as they are: parsed, 25.00 would become 25.0."""
    items = b",".join(
        b'{"id":"%b","time":"%b","event":%b}' % (event.id.encode(), str(exact_time(event.time)).encode(), event.payload)
        for event in events
    )
    following = b'"%b"' % next_after.encode() if next_after else b"null"
    return b'{"items":[%b],"next":%b}' % (items, following)


def retry_after(status: ImportStatus | ExportStatus) -> dict[str, str]:
    """Return the header that tells when to ask again, of a job that is under way."""
    waits = not status.state.ended and status.state is not ImportState.PAUSED
    return {"Retry-After": "1"} if waits else {}


def refusal(refused: Refusal) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return body, status and headers of a refusal."""
    status = http_status(refused)
    headers = headers_of_refusal(refused)
    extra = {"field": refused.field, **refused.details} if refused.field else dict(refused.details)
    return problem(status, refused.code, refused.public, **extra), status, headers


def problem(status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    """Return a problem document. ``about:blank`` says that there is no page to read beyond the code."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **extra,
    }
