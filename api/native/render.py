"""Our vocabulary into the native wire's JSON. Pure; only links are made elsewhere, since they know the host."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from api.rendering import http_status, iso_time, retry_header
from common.errors import Refusal
from common.model.imports import ImportState, ImportStatus
from common.model.rejects import LineError

#: What 401 has to say: how to show a key.
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="penstock"'}


def import_status(status: ImportStatus, link: Callable[[str], str]) -> dict[str, Any]:
    """Return an import's status document."""
    progress, counts = status.progress, status.progress.counts
    path = f"/api/imports/{status.id}"
    return {
        "id": status.id,
        "collection": status.collection,
        "status": status.state.value,
        "createdAt": iso_time(status.created_at),
        "startedAt": iso_time(status.started_at),
        "finishedAt": iso_time(status.finished_at),
        "createdBy": {"keyId": status.key_id} if status.key_id else None,
        "source": {"url": status.source.url, "region": status.source.region},
        "format": "ndjson",
        "compression": "none",
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


def line_error(error: LineError) -> dict[str, Any]:
    """Return a rejected line's place and reason, never its bytes."""
    return {
        "index": error.index,
        "byteOffset": error.byte_offset,
        "length": error.length,
        "code": error.code.value,
        "reason": error.code.sentence,
    }


def retry_after(status: ImportStatus) -> dict[str, str]:
    """Return the header that tells when to ask again, of an import that is under way."""
    active = status.state in (ImportState.PENDING, ImportState.PLANNING, ImportState.RUNNING)
    return {"Retry-After": "1"} if active else {}


def refusal(refused: Refusal) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return body, status and headers of a refusal."""
    status = http_status(refused)
    headers = _CHALLENGE if status == 401 else retry_header(refused)
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
