"""The verbs: parse, desk, render."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from flask import Blueprint, Response, request, stream_with_context
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from api.callers import Caller
from api.desk import ErrorPage
from api.registering import RegistryDesk
from api.scarf import parse, render
from api.web import (
    RequestBody,
    bearer,
    content_encoding,
    desk,
    headers_of,
    idempotency_key,
    read_json,
    replayed_header,
    request_line,
    runtime,
    status_of,
)
from common.errors import Refusal, Transient
from common.model.ids import parse_id
from common.model.imports import ImportStatus
from common.model.rejects import LineError, RejectCode

blueprint = Blueprint("scarf", __name__, url_prefix="/v2")

#: Rejected lines that are read at a time for a log; and that a status is sampled from.
_PAGE = 1000


@blueprint.post("/<owner>/import")
def import_events(owner: str) -> ResponseReturnValue:
    """Import the body's events, each of which names its artifact."""
    return _start(_caller(owner), owner)


@blueprint.post("/packages/<owner>/<package_id>/import")
def import_package_events(owner: str, package_id: str) -> ResponseReturnValue:
    """Import the body's events, those of the package where they name none."""
    return _start(_caller(owner), owner, (parse.PACKAGE, package_id))


@blueprint.post("/tracking-pixels/<owner>/<tracking_pixel_id>/import")
def import_pixel_events(owner: str, tracking_pixel_id: str) -> ResponseReturnValue:
    """Import the body's events, those of the tracking pixel where they name none."""
    return _start(_caller(owner), owner, (parse.PIXEL, tracking_pixel_id))


def _start(caller: Caller, owner: str, artifact: tuple[str, str] | None = None) -> ResponseReturnValue:
    if artifact:
        kind, named = artifact
        artifact = (kind, _registry().find(caller, kind, named))
    spec = parse.import_spec(artifact, compression=content_encoding())
    with RequestBody(patience=runtime().settings.upload_seconds / 2) as body:
        started = desk().start_upload(caller, spec, body, request=request_line(), idempotency_key=idempotency_key())
    return render.event_import(started.status, owner), 200, replayed_header(started)


@blueprint.get("/imports/<owner>")
def list_imports(owner: str) -> ResponseReturnValue:
    """List the project's imports, whichever wire they came by, newest first."""
    caller = _caller(owner)
    asked = parse.import_list(request.args.to_dict(flat=False))
    before = desk().number_of(caller, asked.after) if asked.after else None
    page = desk().list_imports(caller, before=before, states=asked.states, limit=asked.limit)
    return {"event_imports": [_document(desk().first_errors(status, limit=_PAGE), owner) for status in page.items]}


@blueprint.get("/imports/<owner>/<import_id>")
def read_import(owner: str, import_id: str) -> ResponseReturnValue:
    """Tell how far an import is."""
    return _document(desk().list_errors(_caller(owner), import_id, limit=_PAGE), owner)


def _document(page: ErrorPage, owner: str) -> dict[str, Any]:
    return render.event_import(page.status, owner, _entries(page.status, render.sample(page.items)))


@blueprint.get("/imports/<owner>/<import_id>/log")
def read_log(owner: str, import_id: str) -> ResponseReturnValue:
    """Tell of every line that could not be taken, and of the import's progress at the end."""
    caller = _caller(owner)
    # The first page is read before the answer begins: what refuses it is an answer of its own.
    page = desk().list_errors(caller, import_id, limit=_PAGE)
    return Response(stream_with_context(_log(caller, page)), mimetype="application/x-ndjson")


def _log(caller: Caller, page: ErrorPage) -> Iterator[bytes]:
    yield render.log_lines(_entries(page.status, page.items))
    while page.next_after:
        page = desk().list_errors(caller, page.status.id, after=page.next_after, limit=_PAGE)
        yield render.log_lines(_entries(page.status, page.items))
    yield render.log_lines([render.progress(page.status)])


def _entries(status: ImportStatus, errors: Iterable[LineError]) -> list[dict[str, Any]]:
    errors = [*errors]
    unknown = [error for error in errors if error.code is RejectCode.UNKNOWN_REFERENCE]
    lines = desk().read_rejected(status, unknown)
    return render.log_entries(status, errors, {place: render.named_artifacts(line) for place, line in lines})


@blueprint.post("/imports/<owner>/<import_id>/abort")
def abort_import(owner: str, import_id: str) -> ResponseReturnValue:
    """End an import. One that has ended stays as it is."""
    try:
        desk().cancel_import(_caller(owner), import_id)
    except Refusal as refusal:
        if refusal.code != "import_ended":
            raise
    return "", 204


@blueprint.get("/packages/<owner>")
def list_packages(owner: str) -> ResponseReturnValue:
    """List the project's packages."""
    return _list_artifacts(_caller(owner), parse.PACKAGE)


@blueprint.post("/packages/<owner>")
def make_package(owner: str) -> ResponseReturnValue:
    """Register a new package."""
    return _make_artifact(_caller(owner), parse.PACKAGE)


@blueprint.get("/tracking-pixels/<owner>")
def list_pixels(owner: str) -> ResponseReturnValue:
    """List the project's tracking pixels."""
    return _list_artifacts(_caller(owner), parse.PIXEL)


@blueprint.post("/tracking-pixels/<owner>")
def make_pixel(owner: str) -> ResponseReturnValue:
    """Register a new tracking pixel."""
    return _make_artifact(_caller(owner), parse.PIXEL)


def _list_artifacts(caller: Caller, kind: str) -> ResponseReturnValue:
    return {"results": [render.artifact(found) for found in _registry().list(caller, kind)]}


def _make_artifact(caller: Caller, kind: str) -> ResponseReturnValue:
    read_json()
    made = _registry().make(caller, kind, idempotency_key=idempotency_key())
    return render.artifact(made.id), 201, replayed_header(made)


@blueprint.errorhandler(Refusal)
def refuse(refusal: Refusal) -> ResponseReturnValue:
    """Answer in Scarf's form of errors."""
    return render.refusal(refusal)


@blueprint.errorhandler(Transient)
def postpone(error: Transient) -> ResponseReturnValue:
    """Ask the caller to come again."""
    return render.error(error.code, error.public), 503, {"Retry-After": "5"}


@blueprint.errorhandler(HTTPException)
def refuse_http(error: HTTPException) -> ResponseReturnValue:
    """Answer what Flask itself refuses: an unknown path, say, or a method, with the headers that belong to it."""
    return render.error(error.name, error.description or error.name), status_of(error), headers_of(error)


def _registry() -> RegistryDesk:
    return RegistryDesk(runtime())


def _caller(owner: str) -> Caller:
    """Return the caller, whose project the owner of the path has to be, by its name or its id."""
    caller = bearer()
    if owner != caller.project_name and parse_id(owner) != caller.project_id:
        raise Refusal("not_found", f"There is no owner {owner[:64]!r}, or this API key is not theirs.")
    return caller
