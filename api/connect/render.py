"""Our vocabulary into Connect's JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.rendering import http_status, iso_time, retry_header
from common.errors import Refusal
from common.model.imports import ImportState, ImportStatus
from common.model.rejects import LineError

#: Errors listed in a status; all are counted and kept.
MOST_ERRORS = 1000

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
        "eventErrors": [{"index": error.index, "error": error.code.sentence} for error in errors],
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
