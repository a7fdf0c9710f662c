"""The verbs: parse, desk, render."""

from __future__ import annotations

from urllib.parse import quote

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from api.callers import Caller
from api.collecting import CollectionDesk
from api.connect import events, parse, render
from api.exporting import ExportDesk
from api.pushing import PushDesk
from api.web import (
    desk,
    headers_of,
    idempotency_key,
    identify,
    link,
    read_body,
    read_json,
    replayed_header,
    runtime,
    status_of,
)
from common.errors import Refusal, Transient
from common.model.collections import check_collection
from common.model.rejects import RejectCode

blueprint = Blueprint("connect", __name__)


@blueprint.post("/event-import")
def start_import() -> ResponseReturnValue:
    """Start an import; the answer's Location tells where to watch it."""
    caller = _caller()
    started = desk().start_import(caller, parse.import_spec(read_json()), idempotency_key=idempotency_key())
    return "", 201, {"Location": link(f"/event-import/{started.status.id}"), **replayed_header(started)}


@blueprint.get("/event-import/<import_id>")
def read_import(import_id: str) -> ResponseReturnValue:
    """Tell how far the import is, and which lines could not be taken."""
    caller = _caller()
    page = desk().list_errors(caller, import_id, limit=render.MOST_ERRORS)
    return render.import_status(page.status, page.items)


@blueprint.post("/events/<collection>")
def push_event(collection: str) -> ResponseReturnValue:
    """Store an event. One whose id is stored already changes nothing, and the answer is the same."""
    caller = _caller()
    try:
        event = events.read_event(read_body(most=events.MAX_EVENT_BODY))
    except RequestEntityTooLarge:
        raise render.not_taken(RejectCode.EVENT_TOO_LARGE) from None
    lines = {check_collection(collection): [event]}
    pushed = PushDesk(runtime()).push(caller, lines, mapping=parse.MAPPING, idempotency_key=idempotency_key())
    render.pushed_event(pushed.verdicts[collection][0])
    return "", 200, {"Content-Type": "application/json", **replayed_header(pushed)}


@blueprint.post("/events")
@blueprint.post("/events/")
def push_events() -> ResponseReturnValue:
    """Store a batch of events, and tell of each whether it was taken. Of those that were, all are stored or none."""
    caller = _caller()
    batch = events.read_batch(read_body(most=events.MAX_BATCH_BODY))
    lines = {name: [event for event in found if isinstance(event, bytes)] for name, found in batch.items()}
    pushed = PushDesk(runtime()).push(caller, lines, mapping=parse.MAPPING, idempotency_key=idempotency_key())
    return render.pushed_batch(batch, pushed.verdicts), 200, replayed_header(pushed)


@blueprint.get("/events/<collection>/export")
def export_events(collection: str) -> ResponseReturnValue:
    """Answer with up to 10,000 events."""
    caller = _caller()
    query = parse.small_query(request.args.get("query"), now=_exports().read_clock())
    found = _exports().small_export(caller, collection, query, fill=parse.FILL)
    return Response(render.results(found), mimetype="application/json")


@blueprint.post("/events/<collection>/export")
def start_export(collection: str) -> ResponseReturnValue:
    """Start an export to S3; the answer's Location tells where to watch it."""
    caller = _caller()
    spec = parse.export_spec(collection, read_json(), now=_exports().read_clock())
    started = _exports().start_export(caller, spec, idempotency_key=idempotency_key())
    path = f"/events/{quote(collection, safe='')}/export/{started.status.id}"
    return "", 201, {"Location": link(path), **replayed_header(started)}


@blueprint.get("/events/<collection>/export/<export_id>")
def read_export(collection: str, export_id: str) -> ResponseReturnValue:
    """Tell how far the export is."""
    return render.export_status(_exports().read_export(_caller(), export_id, collection=collection))


@blueprint.delete("/collections/<collection>")
def delete_collection(collection: str) -> ResponseReturnValue:
    """Delete a collection and all of its events."""
    CollectionDesk(runtime()).delete_collection(_caller(), collection)
    return "", 204


@blueprint.errorhandler(Refusal)
def refuse(refusal: Refusal) -> ResponseReturnValue:
    """Answer in Connect's form of errors."""
    return render.refusal(refusal)


@blueprint.errorhandler(Transient)
def postpone(error: Transient) -> ResponseReturnValue:
    """Ask the caller to come again."""
    return {"errorMessage": error.public}, 503, {"Retry-After": "5"}


@blueprint.errorhandler(HTTPException)
def refuse_http(error: HTTPException) -> ResponseReturnValue:
    """Answer what Flask itself refuses: a body over the limit, say, or a method, with the headers that belong to it."""
    return {"errorMessage": error.description or error.name}, status_of(error), headers_of(error)


def _exports() -> ExportDesk:
    return ExportDesk(runtime())


def _caller() -> Caller:
    project = request.headers.get("X-Project-Id", "")
    return identify(request.headers.get("X-API-Key"), project=project, takes_master_keys=True)
