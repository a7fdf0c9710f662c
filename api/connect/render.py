"""Our vocabulary into Connect's JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from api.rendering import http_status, iso_time, retry_header
from common.errors import Refusal
from common.model.exports import ExportState, ExportStatus
from common.model.imports import ImportState, ImportStatus
from common.model.pushes import Outcome, Verdict
from common.model.rejects import LineError, RejectCode

#: Errors listed in a status; all are counted and kept.
MOST_ERRORS = 1000

#: Bytes of an answer that are handed on at a time.
_PIECE = 64 * 1024

#: The seed's sample prints the status of imports in lower case, its prose with a capital; the sample wins.
_STATUS = {
    ImportState.PENDING: "pending",
    ImportState.PLANNING: "pending",
    ImportState.RUNNING: "running",
    ImportState.PAUSED: "running",
    ImportState.COMPLETED: "complete",
    ImportState.COMPLETED_WITH_ERRORS: "complete",
    ImportState.FAILED: "failed",
    ImportState.CANCELLED: "failed",
}


#: The seed prints the status of exports with a capital.
_EXPORT_STATUS = {
    ExportState.PENDING: "Pending",
    ExportState.RUNNING: "Running",
    ExportState.COMPLETED: "Complete",
    ExportState.FAILED: "Failed",
    ExportState.CANCELLED: "Failed",
}


def import_status(status: ImportStatus, errors: Iterable[LineError]) -> dict[str, Any]:
    """Return the seed's monitor document, field by field."""
    return {
        "collection": status.collection,
        "status": _STATUS[status.state],
        "created": iso_time(status.created_at),
        "started": iso_time(status.started_at),
        "finished": iso_time(status.finished_at),
        "importedEvents": status.progress.counts.imported,
        "duplicateEvents": status.progress.counts.duplicates,
        "percentComplete": status.percent,
        "insertRate": f"{status.events_per_second}/s",
        "error": _error(status),
        "eventErrors": [{"index": error.index, "error": _sentence(error.code, "The line")} for error in errors],
    }


def export_status(status: ExportStatus) -> dict[str, Any]:
    """Return the seed's monitor document, field by field."""
    cancelled = "The export was cancelled." if status.state is ExportState.CANCELLED else None
    return {
        "filename": status.spec.name_of(status.id, 1),
        "collection": status.spec.collection,
        "status": _EXPORT_STATUS[status.state],
        "created": iso_time(status.created_at),
        "started": iso_time(status.started_at),
        "finished": iso_time(status.finished_at),
        "error": status.error.message if status.error else cancelled,
        "percentDone": status.percent,
        "transferredBytes": status.bytes_done,
        "totalBytes": status.bytes_total or 0,
    }


def results(events: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the document of a small export, some KiB at a time; the bytes of the events are none of ours to change."""
    piece, between = bytearray(b'{"results":['), b""
    for event in events:
        piece += between
        piece += event
        between = b","
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + b"]}"


def pushed_event(verdict: Verdict) -> None:
    """Raise Refusal where the event of a request was not taken; of one that was, duplicate or not, nothing is said."""
    if isinstance(verdict, RejectCode):
        raise not_taken(verdict)


def not_taken(code: RejectCode) -> Refusal:
    """Return the answer to an event, the only one of its request, that was not taken."""
    return _NOT_TAKEN.get(code, partial(Refusal, "invalid_event"))(_sentence(code, "The event"))


def pushed_batch(
    batch: Mapping[str, Iterable[bytes | Refusal]], pushed: Mapping[str, Iterable[Verdict]]
) -> dict[str, list[dict[str, Any]]]:
    """Return what became of each event of a batch, in its order, given the verdicts on those that were no Refusal."""
    left = {name: iter(verdicts) for name, verdicts in pushed.items()}
    return {
        name: [_item(event if isinstance(event, Refusal) else next(left[name])) for event in events]
        for name, events in batch.items()
    }


def _item(verdict: Verdict | Refusal) -> dict[str, Any]:
    if isinstance(verdict, Refusal):
        return {"success": False, "message": verdict.public}
    if isinstance(verdict, RejectCode):
        return {"success": False, "message": _sentence(verdict, "The event")}
    return {"success": True, "duplicate": True} if verdict is Outcome.DUPLICATE else {"success": True}


def _sentence(code: RejectCode, what: str) -> str:
    """Return the vendor's words for a code, or ours: of a line of a file, or an event that was none."""
    return _WORDS.get(code) or code.sentence.replace("The line", what)


_WORDS = {
    RejectCode.EVENT_TOO_LARGE: "Maximum event size of 64kb exceeded.",
    RejectCode.INVALID_NAME: "Property names cannot contain a period (.).",
    RejectCode.NAME_TOO_LONG: "Property names cannot be longer than 255 characters.",
    RejectCode.RESERVED_PREFIX: "Property names starting with tp_ are reserved and cannot be set.",
    RejectCode.RESERVED_NAME: "The property name _id is reserved and cannot be set.",
}
#: Of an event's own field, or of all of it; any other code is 400 and a message.
_NOT_TAKEN = {
    **dict.fromkeys(
        (RejectCode.INVALID_ID, RejectCode.EMPTY_ID, RejectCode.ID_TOO_LONG),
        partial(Refusal, "invalid_field", field="id"),
    ),
    RejectCode.INVALID_TIME: partial(Refusal, "invalid_field", field="timestamp"),
    **dict.fromkeys((RejectCode.LINE_TOO_LONG, RejectCode.EVENT_TOO_LARGE), partial(Refusal, "event_too_large")),
}


def refusal(refused: Refusal) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return body, status and headers of a refusal: a list of fields with 422, a message with all others."""
    status, details, headers = http_status(refused), refused.details, retry_header(refused)
    if status == 422:
        fields = [{"field": refused.field or "body", "description": refused.public}]
        return {"errors": details.get("errors", fields)}, status, headers
    return {"errorMessage": refused.public, **details}, status, headers


def _error(status: ImportStatus) -> str | None:
    if status.state is ImportState.CANCELLED:
        return "The import was cancelled."
    return status.error.message if status.error else None
