"""The verbs: parse, desk, render."""

from __future__ import annotations

from itertools import chain
from typing import Any, cast

import msgspec
from flask import Blueprint, Response, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from api.callers import Caller
from api.collecting import CollectionDesk
from api.nexosis import cells, errors, parse, queries, render
from api.nexosis.rows import MAX_BODY, Sheet, read_csv_rows, read_json_rows
from api.tabling import TableDesk
from api.web import (
    content_encoding,
    desk,
    headers_of,
    idempotency_key,
    identify,
    link,
    log_mistake,
    read_body,
    read_json,
    replayed_header,
    runtime,
    status_of,
)
from common.errors import Refusal, Transient
from common.model.collections import check_collection
from common.model.imports import ImportStatus
from common.telemetry import get_logger

log = get_logger(__name__)

blueprint = Blueprint("nexosis", __name__, url_prefix="/v1")

_JSON, _CSV = "application/json", "text/csv"
_NEVER_KEPT = {"Cache-Control": "no-cache"}
#: Stands where nothing is limited: the largest number that all clients read. The disk is the limit.
_NO_LIMIT = 2**31 - 1


@blueprint.before_request
def _identify() -> None:
    g.caller = identify(request.headers.get("api-key"))


@blueprint.after_request
def _tell_quotas(response: Response) -> Response:
    response.headers.update(_NEVER_KEPT)
    # Who has waited in vain for Postgres does not wait again.
    if "caller" in g and response.status_code not in (500, 503):
        response.headers.update(_quotas(_caller()))
    return response


def _quotas(caller: Caller) -> dict[str, str]:
    """Return what an account has and may have: nothing is paid for here, and there are no sessions or predictions."""
    told = dict.fromkeys(("PredictionCount-Allotted", "PredictionCount-Current"), "0")
    told |= dict.fromkeys(("SessionCount-Allotted", "SessionCount-Current"), "0")
    told |= {"DataSetSize-Allotted": str(_NO_LIMIT), "Balance": "0.00 USD"}
    try:
        counted = str(TableDesk(runtime()).count_tables(caller))
        told = {"DataSetCount-Allotted": str(_NO_LIMIT), "DataSetCount-Current": counted, **told}
    except Exception as error:  # noqa: BLE001  no answer is to be lost for the sake of a number
        log.warning("tables_not_counted", error=type(error).__name__)
    return {**{f"Nexosis-Account-{name}": value for name, value in told.items()}, "Nexosis-Request-Cost": "0.00 USD"}


# --- imports


@blueprint.post("/imports/s3")
def start_import() -> ResponseReturnValue:
    """Start an import of an object in S3 into a dataset."""
    started = desk().start_import(_caller(), parse.import_spec(read_json()), idempotency_key=idempotency_key())
    document = render.import_detail(started.status, (), link, path="/v1/imports/s3")
    return _answer(document, headers={**render.import_header(started.status), **replayed_header(started)})


@blueprint.post("/imports/url")
@blueprint.post("/imports/azure")
def start_other_import() -> ResponseReturnValue:
    """Refuse an import from elsewhere."""
    text = (
        "This service imports from S3 alone. Put the file to S3 and use POST /v1/imports/s3, or send its rows with "
        "PUT /v1/data/{dataSetName}."
    )
    raise Refusal("no_such_import_source", text)


@blueprint.get("/imports/<import_id>")
def read_import(import_id: str) -> ResponseReturnValue:
    """Tell how far an import is, whichever wire it came by."""
    status = desk().read_import(_caller(), parse.import_id(import_id))
    return _answer(_import(status), headers=render.import_header(status))


@blueprint.get("/imports")
def list_imports() -> ResponseReturnValue:
    """List the project's imports, whichever wire they came by."""
    asked = queries.import_list(request.args.items(multi=True))
    found = desk().page_imports(_caller(), asked.listing, page=asked.paging.number, size=asked.paging.size)
    items = list(map(_import, found.items))
    return _answer({"items": items, **render.page(asked.paging, found.total, "/v1/imports", link)})


def _import(status: ImportStatus) -> dict[str, Any]:
    rejected = desk().first_errors(status, limit=render.MOST_REJECTS)
    return render.import_detail(status, rejected.items, link)


# --- datasets


@blueprint.get("/data")
def list_tables() -> ResponseReturnValue:
    """List the project's datasets by name: all of its collections."""
    asked = queries.table_list(request.args.items(multi=True))
    found = _tables().list_tables(
        _caller(), containing=asked.containing, page=asked.paging.number, size=asked.paging.size
    )
    items = [render.listed_table(status, link) for status in found.items]
    return _answer({"items": items, **render.page(asked.paging, found.total, "/v1/data", link)})


@blueprint.get("/data/<name>")
def read_table(name: str) -> ResponseReturnValue:
    """Return a page of a dataset's rows, as JSON or as CSV."""
    name, asked = parse.known_name(name), queries.row_list(request.args.items(multi=True))
    found = _tables().read_rows(
        _caller(),
        name,
        since=asked.times.since,
        until=asked.times.until,
        page=asked.paging.number,
        size=asked.paging.size,
    )
    rows, include = cells.read_cells(found.items, found.table.columns), asked.include
    if include is not None:
        names = [*render.column_names(found.table, None), *chain.from_iterable(rows)]
        include = cells.choose_names(include, names)
        rows = cells.restrict(rows, include)
    if request.accept_mimetypes.best_match([_JSON, _CSV], default=_JSON) == _CSV:
        text = cells.write_csv(rows, render.column_names(found.table, include))
        return Response(text, content_type=f"{_CSV}; charset=utf-8")
    document = render.rows(found.table, rows, include)
    return _answer({**document, **render.page(asked.paging, found.total, render.table_path(name), link)})


@blueprint.put("/data/<name>")
def put_rows(name: str) -> ResponseReturnValue:
    """Store rows in a dataset, which is made where there is none: all of them or none."""
    check_collection(name, field="dataSetName")
    sheet = _sheet()
    put = _tables().put_rows(_caller(), name, sheet.rows, declared=sheet.columns, idempotency_key=idempotency_key())
    headers = {"Location": link(render.table_path(name)), **replayed_header(put)}
    return _answer(render.table(put.table, link), 201, headers)


def _sheet() -> Sheet:
    if content_encoding() is not None:
        raise Refusal("unsupported_encoding", "Rows are sent as they are here: import what is compressed from S3.")
    body = read_body(most=MAX_BODY)
    return read_csv_rows(body) if request.mimetype == _CSV else read_json_rows(body)


@blueprint.delete("/data/<name>")
def delete_rows(name: str) -> ResponseReturnValue:
    """Delete the rows of a timeframe; without one the dataset."""
    name, times = parse.known_name(name), queries.timeframe(request.args.items(multi=True))
    if times.since or times.until:
        _tables().delete_rows(_caller(), name, since=times.since, until=times.until)
    else:
        CollectionDesk(runtime()).delete_collection(_caller(), name)
    return "", 204


# --- errors


@blueprint.errorhandler(Refusal)
def refuse(refusal: Refusal) -> ResponseReturnValue:
    """Answer in Nexosis' form of errors."""
    return _error(errors.refusal(refusal, item=_item()))


@blueprint.errorhandler(Transient)
def postpone(error: Transient) -> ResponseReturnValue:
    """Ask the caller to come again."""
    return _error(errors.postponed(error.public))


@blueprint.errorhandler(Exception)
def apologise(error: Exception) -> ResponseReturnValue:
    """Answer a mistake of ours without its text."""
    log_mistake(error)
    return _error(errors.mistake())


@blueprint.errorhandler(HTTPException)
def refuse_http(error: HTTPException) -> ResponseReturnValue:
    """Answer what Flask itself refuses: an unknown path, say, or a method, with the headers that belong to it."""
    # Unknown paths are no blueprint's, and come here all the same.
    headers = {**headers_of(error), **_NEVER_KEPT}
    return _error(errors.http(status_of(error), error.name, error.description or error.name, headers))


def _item() -> tuple[str, str] | None:
    """Return what the path of the request names: its type and its name."""
    named = request.view_args or {}
    if "import_id" in named:
        return "import", named["import_id"]
    return ("dataSet", named["name"]) if "name" in named else None


def _error(answer: errors.Answer) -> Response:
    document, status, headers = answer
    return Response(msgspec.json.encode(document), status, headers, mimetype=_JSON)


def _answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), status, headers, content_type=f"{_JSON}; charset=utf-8")


def _caller() -> Caller:
    return cast(Caller, g.caller)


def _tables() -> TableDesk:
    return TableDesk(runtime())
