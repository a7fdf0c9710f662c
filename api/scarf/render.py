"""Our vocabulary into Scarf's JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from api.rendering import exact_time, headers_of_refusal, http_status
from common.errors import Refusal
from common.model.imports import ImportState, ImportStatus
from common.model.rejects import LineError, RejectCode
from common.model.uploads import is_spooled

#: Scarf knows three. The reason of a failure, for which it has no word, stands in the log.
STATUS = {
    ImportState.PENDING: "importing",
    ImportState.PLANNING: "importing",
    ImportState.RUNNING: "importing",
    ImportState.PAUSED: "importing",
    ImportState.COMPLETED: "done",
    ImportState.COMPLETED_WITH_ERRORS: "done",
    ImportState.FAILED: "aborted",
    ImportState.CANCELLED: "aborted",
}

#: Entries of each sample in a status; all are counted, kept, and in the log.
_MOST_SAMPLED = 10
#: Characters that are shown of what an event has in the place of an artifact's id.
_MOST_OF_ID = 64

_ERROR, _WARNING, _INFO = "error", "warning", "info"
#: The vendor's own sentence.
_NO_OBJECT = "Not a valid JSON object"

#: By the member of an event, in order of preference: what the log calls it. The first that there is counts.
_ARTIFACTS = {"$package": "package_id", "$tracking_pixel": "tracking_pixel_id", "$pixel": "tracking_pixel_id"}
_KINDS = {"package_id": "package", "tracking_pixel_id": "tracking pixel"}
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])

#: By the place of a line: the ids of artifacts that it names.
Named = Mapping[tuple[int, int], Mapping[str, str]]


def event_import(status: ImportStatus, owner: str, entries: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return an EventImport; ``entries`` are those of the log that are to be shown with it."""
    counts, shown = status.progress.counts, [*entries]
    if status.state is ImportState.FAILED:
        shown.insert(0, progress(status))
    return {
        "id": _uuid(status.id),
        "owner": owner,
        "status": STATUS[status.state],
        "events_total": counts.lines - counts.blank,
        "events_successfully_imported": counts.stored,
        "events_failed_to_import": counts.rejected,
        "error_log_sample": [entry for entry in shown if entry["class"] == _ERROR],
        "warning_log_sample": [entry for entry in shown if entry["class"] == _WARNING],
        "created_at": exact_time(status.created_at),
        "updated_at": exact_time(_updated(status)),
    }


def _updated(status: ImportStatus) -> datetime:
    """Return the time that a status tells of: the counts of an import under way are those of the moment."""
    return status.finished_at or (status.created_at if status.state is ImportState.PENDING else status.read_at)


def sample(errors: Iterable[LineError]) -> list[LineError]:
    """Return the first lines of each class."""
    found: dict[str, list[LineError]] = {_ERROR: [], _WARNING: []}
    for error in errors:
        of_class = found[_class(error.code)]
        if len(of_class) < _MOST_SAMPLED:
            of_class.append(error)
    return [*found[_ERROR], *found[_WARNING]]


def _class(code: RejectCode) -> str:
    """Return how grave it is: an event of an artifact that nobody registered yet may be sent again later."""
    return _WARNING if code is RejectCode.UNKNOWN_REFERENCE else _ERROR


def named_artifacts(line: bytes) -> dict[str, str]:
    """Return the ids of artifacts that a rejected line names, by what the log calls them.

    None where too little of the line was kept to read it.
    """
    try:
        members = _MEMBERS.decode(line)
        found = {name: msgspec.json.decode(members[name]) for name in _ARTIFACTS if name in members}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    ids: dict[str, str] = {}
    for name, value in found.items():
        if isinstance(value, str):
            ids.setdefault(_ARTIFACTS[name], value[:_MOST_OF_ID])
    return ids


def log_entries(status: ImportStatus, errors: Iterable[LineError], named: Named) -> list[dict[str, Any]]:
    """Return an ImportLog for each rejected line of an import."""
    return [_entry(status, error, named.get(error.position, {})) for error in errors]


def _entry(status: ImportStatus, error: LineError, ids: Mapping[str, str]) -> dict[str, Any]:
    unknown = error.code is RejectCode.UNKNOWN_REFERENCE
    return {
        "type": "artifact-not-found" if unknown else "failed-to-decode",
        "class": _class(error.code),
        "line": error.index + 1,
        "human_friendly_message": _message(error.code, ids) + _place(status, error),
        **(ids if unknown else {}),
    }


def _message(code: RejectCode, ids: Mapping[str, str]) -> str:
    if code in (RejectCode.INVALID_JSON, RejectCode.NOT_AN_OBJECT):
        return _NO_OBJECT
    if code is RejectCode.UNKNOWN_REFERENCE and ids:
        named = [f"{_KINDS[member]} {found}" for member, found in ids.items()]
        lacks = f"no {named[0]}" if len(named) == 1 else f"not both {named[0]} and {named[1]}"
        return f"This owner has {lacks}."
    return code.sentence


def _place(status: ImportStatus, error: LineError) -> str:
    """Return which object a line stands in, where the import, of another wire, has several."""
    return f" (in {error.key})" if status.pieces.total > 1 and not is_spooled(status.source, status.id) else ""


def progress(status: ImportStatus) -> dict[str, Any]:
    """Return the ImportLog that tells how far an import is, or how it ended: the last one of its log."""
    counts, failed = status.progress.counts, status.state is ImportState.FAILED
    return {
        "type": "progress",
        "class": _ERROR if failed else _INFO,
        "line": counts.lines,
        "human_friendly_message": _story(status),
        "events_count": counts.lines - counts.blank,
        "failed_events_count": counts.rejected,
    }


def _story(status: ImportStatus) -> str:
    counts = status.progress.counts
    told = f"Events imported: {counts.stored}, duplicates: {counts.duplicates}, failed: {counts.rejected}."
    if status.state is ImportState.CANCELLED:
        return f"The import was aborted. {told}"
    return f"{status.error.message} {told}" if status.error else told


def log_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Return entries of a log as they are sent: one a line."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def artifact(found: str) -> dict[str, str]:
    """Return all that is known of an artifact. It has no name here."""
    return {"id": found}


def refusal(refused: Refusal) -> tuple[dict[str, str], int, dict[str, str]]:
    """Return body, status and headers of a refusal.

    Too many active imports are 422 here, in the words of the document: clients look for them, and for that status.
    """
    if refused.code == "too_many_active_imports":
        return error(refused.code, "too many active imports"), 422, headers_of_refusal(refused)
    return error(refused.code, refused.public), http_status(refused), headers_of_refusal(refused)


def error(code: str, message: str) -> dict[str, str]:
    """Return the body of an error, with its code as this wire spells them."""
    return {"code": code.lower().replace("_", "-").replace(" ", "-"), "message": message}


def _uuid(found: str) -> str:
    return str(UUID(found))
