"""The verbs: parse, desk, render."""

from __future__ import annotations

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from api.callers import Caller
from api.connect import parse, render
from api.web import desk, headers_of, idempotency_key, identify, link, read_json, replayed_header, status_of
from common.errors import Refusal, Transient

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


def _caller() -> Caller:
    project = request.headers.get("X-Project-Id", "")
    return identify(request.headers.get("X-API-Key"), project=project)
