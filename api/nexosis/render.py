"""Our vocabulary into Nexosis' JSON. Pure; links are made elsewhere, since they know the host."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

from api.nexosis.queries import Paging
from api.tabling import TableStatus
from common.model.columns import Column, Columns, with_defaults
from common.model.imports import Failure, ImportState, ImportStatus
from common.model.mapping import OnDuplicate
from common.model.rejects import LineError
from common.model.uploads import is_spooled

#: Rejected rows that a status tells of, one by one; all are counted and kept.
MOST_REJECTS = 10

_STATUS = {
    ImportState.PENDING: "requested",
    ImportState.PLANNING: "started",
    ImportState.RUNNING: "started",
    ImportState.PAUSED: "started",
    ImportState.COMPLETED: "completed",
    ImportState.COMPLETED_WITH_ERRORS: "completed",
    ImportState.FAILED: "failed",
    ImportState.CANCELLED: "cancelled",
}

#: By the code of a failure: the service's own sentence. That on columns is the reason itself.
_RECORDED = {
    "source_access_denied": "Response status code does not indicate success: 403 (Forbidden).",
    "source_not_found": (
        "Response status code does not indicate success: 404 (The specified resource does not exist.)."
    ),
    "wrong_shape": "Couldn't determine the type of content (json / csv) for the Import job",
    "invalid_columns": "",
}
_ANYTHING = "Unable to import because we encountered an error"

#: Makes an address of a path.
Link = Callable[[str], str]


# --- imports


def import_detail(status: ImportStatus, errors: Iterable[LineError], link: Link, *, path: str = "") -> dict[str, Any]:
    """Return an ImportDetail, given the first rows that could not be taken.

    ``path`` is that of the request where the import is not what it names.
    """
    found = str(UUID(status.id))
    links = [("self", path or f"/v1/imports/{found}"), ("data", table_path(status.collection))]
    return {
        "importId": found,
        # The others of this wire are not here, and what came by other wires is of S3, too, or was sent to us.
        "type": "s3",
        "status": _STATUS[status.state],
        "dataSetName": status.collection,
        "parameters": _parameters(status),
        "requestedDate": _date(status.created_at),
        "statusHistory": [{"date": _date(at), "status": word} for word, at in _history(status)],
        "messages": [{"severity": severity, "message": text} for severity, text in _messages(status, errors)],
        "columns": _columns(status.columns or ()),
        "links": [{"rel": rel, "href": link(target)} for rel, target in links],
    }


def import_header(status: ImportStatus) -> dict[str, str]:
    """Return the header that tells an import's status: with a capital, which its body has not."""
    return {"Nexosis-Import-Status": _STATUS[status.state].capitalize()}


def _parameters(status: ImportStatus) -> dict[str, str | None]:
    # Where a body is spooled is nobody's business.
    if is_spooled(status.source, status.id):
        return dict.fromkeys(("bucket", "path", "region"))
    return {"bucket": status.source.bucket, "path": status.source.key, "region": status.source.region}


def _history(status: ImportStatus) -> Iterator[tuple[str, datetime]]:
    """Yield each status with the time of its first state, in order: some states of ours are one of theirs.

    The first is of the time of the request, of which its entry is written some milliseconds after.
    """
    before = None
    for state, at in status.history:
        if _STATUS[state] != before:
            yield _STATUS[state], at if before else status.created_at
        before = _STATUS[state]


def _messages(status: ImportStatus, errors: Iterable[LineError]) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of an import, the gravest first, each with its severity."""
    if status.error:
        yield from (("error", text) for text in _failure(status.error))
    if status.pieces.total > 1:
        failed = ((piece.key, piece.error.message) for piece in status.pieces.objects if piece.error)
        yield from (("error", f"{key}: {text}") for key, text in failed)
    yield from (("warning", text) for text in _rejects(status, errors))
    yield from (("informational", text) for text in _replaced(status))


def _failure(error: Failure) -> Iterator[str]:
    if first := _RECORDED.get(error.code, _ANYTHING):
        yield first
    yield error.message


def _rejects(status: ImportStatus, errors: Iterable[LineError]) -> Iterator[str]:
    shown = 0
    for shown, error in enumerate(errors, 1):
        place = f"{error.key}, row" if status.pieces.total > 1 else "Row"
        yield f"{place} {error.index + 1}: {error.code.sentence.replace('The line', 'The row')}"
        if shown == MOST_REJECTS:
            break
    if rejected := status.progress.counts.rejected:
        others = f" The first {shown} are above." if shown < rejected and shown else ""
        yield f"Rows that could not be imported: {rejected}.{others}"


def _replaced(status: ImportStatus) -> Iterator[str]:
    counts = status.progress.counts
    if counts.replaced:
        yield f"Rows that took the place of stored rows with the same key or timestamp: {counts.replaced}."
    if counts.duplicates:
        has_later = status.mapping.on_duplicate is OnDuplicate.REPLACE
        why = "a later row has the same key or timestamp" if has_later else "a row with the same id was there before"
        yield f"Rows that were left out, since {why}: {counts.duplicates}."


# --- datasets


def table_path(name: str) -> str:
    """Return the path of a dataset."""
    return f"/v1/data/{quote(name, safe='')}"


def table(status: TableStatus, link: Link) -> dict[str, Any]:
    """Return the summary of a dataset."""
    return {**_summary(status), "links": [{"rel": "data", "href": link(table_path(status.name))}]}


def listed_table(status: TableStatus, link: Link) -> dict[str, Any]:
    """Return the summary of a dataset in a list: earlier versions told its columns there, later ones its counts."""
    counts = {
        "dateCreated": _date(status.created_at),
        "lastModified": _date(status.changed_at or status.created_at),
        "rowCount": status.rows,
        "columnCount": len(status.columns),
    }
    return {**_summary(status), **counts, "links": [{"rel": "data", "href": link(table_path(status.name))}]}


def rows(status: TableStatus, data: Sequence[Any], include: Collection[str] | None) -> dict[str, Any]:
    """Return a dataset with a page of its rows, and those of its columns that were asked for."""
    return {**_summary(status, include), "data": data}


def column_names(status: TableStatus, include: Collection[str] | None) -> list[str]:
    """Return the names of the columns that were asked for, in their order."""
    return [column.name for column in _included(status.columns, include)]


def _summary(status: TableStatus, include: Collection[str] | None = None) -> dict[str, Any]:
    return {
        "dataSetName": status.name,
        "dataSetSize": status.size,
        "isTimeSeries": status.is_time_series,
        "columns": _columns(tuple(map(with_defaults, _included(status.columns, include)))),
    }


def _included(columns: Columns, include: Collection[str] | None) -> Columns:
    return columns if include is None else tuple(column for column in columns if column.name in include)


def _columns(columns: Columns) -> dict[str, dict[str, str]]:
    """Return metadata by column, of each as much as is said of it."""
    return {column.name: dict(_words(column)) for column in columns}


def _words(column: Column) -> Iterator[tuple[str, str]]:
    for member, word in (
        ("dataType", column.type),
        ("role", column.role),
        ("imputation", column.imputation),
        ("aggregation", column.aggregation),
    ):
        if word is not None:
            yield member, word.value


# --- pages


def page(paging: Paging, total: int, path: str, link: Link) -> dict[str, Any]:
    """Return what stands behind the items of a page: its place among all, and where the others are.

    Their addresses ask for what this page's asks, and then for another page: the last one counts.
    """
    pages = -(-total // paging.size)
    here = link(f"{path}?{paging.query}")
    others = [("first", 0)]
    others += [("prev", paging.number - 1)] if paging.number else []
    others += [("next", paging.number + 1)] if paging.number + 1 < pages else []
    others += [("last", max(pages - 1, 0))]
    return {
        "pageNumber": paging.number,
        "totalPages": pages,
        "pageSize": paging.size,
        "totalCount": total,
        "links": [
            {"rel": "self", "href": here},
            *({"rel": rel, "href": f"{here}&page={number}"} for rel, number in others),
        ],
    }


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
