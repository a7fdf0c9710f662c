"""The verbs: parse, desk, render."""

from __future__ import annotations

from secrets import token_bytes
from typing import Any

from flask import Blueprint, Response, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from api.accounts import AccountDesk
from api.callers import Caller
from api.collecting import CollectionDesk
from api.desk import ErrorPage
from api.exporting import ExportDesk
from api.pinpoint import parse, render
from api.pinpoint.entering import account, enter, identify, key_of_request, request_itself
from api.pushing import PushDesk
from api.segmenting import SegmentDesk
from api.web import (
    desk,
    headers_of,
    log_mistake,
    read_body,
    read_json,
    replayed_header,
    runtime,
    status_of,
)
from common.errors import Refusal, Transient
from common.model.accounts import Owned
from common.model.collections import StoredEvent
from common.model.exports import Fill
from common.model.segments import Segment

blueprint = Blueprint("pinpoint", __name__, url_prefix="/v1/apps")

_ENDPOINT = "/<app_id>/endpoints/<path:endpoint_id>"
_FILL = Fill("Id", "CreationDate")


blueprint.before_request(identify)


# --- applications


@blueprint.post("")
def create_app() -> ResponseReturnValue:
    """Make an application: a project of the account."""
    name = parse.application_name(read_json())
    request = request_itself() or token_bytes(32)
    return _application(_accounts().create_project(account(), name, request=request)), 201


@blueprint.get("")
def get_apps() -> ResponseReturnValue:
    """List the applications of the account, itself first, then the oldest first."""
    asked = _page()
    found, begin = _accounts().list_projects(account()), asked.before or 0
    page = found[begin : begin + asked.limit]
    following = begin + asked.limit if begin + asked.limit < len(found) else None
    return render.listed([_application(owned) for owned in page], following)


@blueprint.get("/<app_id>")
def get_app(app_id: str) -> ResponseReturnValue:
    """Return an application."""
    return _application(_accounts().read_project(account(), app_id))


def _application(owned: Owned) -> dict[str, Any]:
    return render.application(owned.id, owned.title, owned.created_at)


# --- import jobs


@blueprint.post("/<app_id>/jobs/import")
def create_import_job(app_id: str) -> ResponseReturnValue:
    """Start an import of endpoints."""
    caller, settings = enter(app_id), runtime().settings
    spec = parse.import_spec(
        read_json(), limit=settings.endpoint_import_limit, most_bytes=settings.endpoint_import_bytes
    )
    started = desk().start_import(caller, spec, idempotency_key=key_of_request())
    return render.import_job(started.status, (), caller.project_id), 201, replayed_header(started)


@blueprint.get("/<app_id>/jobs/import/<job_id>")
def get_import_job(app_id: str, job_id: str) -> ResponseReturnValue:
    """Tell how far an import is, whichever wire it came by."""
    caller = enter(app_id)
    return _import_job(caller, desk().list_errors(caller, job_id, limit=render.MOST_FAILURES))


@blueprint.get("/<app_id>/jobs/import")
def get_import_jobs(app_id: str) -> ResponseReturnValue:
    """List the application's imports, newest first."""
    caller, asked = enter(app_id), _page()
    page = desk().list_imports(caller, before=asked.before, limit=asked.limit)
    found = [desk().first_errors(status, limit=render.MOST_FAILURES) for status in page.items]
    return render.listed([_import_job(caller, one) for one in found], page.next_before)


@blueprint.get("/<app_id>/segments/<segment_id>/jobs/import")
def get_segment_import_jobs(app_id: str, segment_id: str) -> ResponseReturnValue:
    """List the imports that defined a segment, newest first."""
    caller, asked = enter(app_id), _page()
    page = _segments().list_imports(caller, segment_id, before=asked.before, limit=asked.limit)
    found = [desk().list_errors(caller, import_id, limit=render.MOST_FAILURES) for import_id in page.items]
    return render.listed([_import_job(caller, one) for one in found], page.next_before)


def _import_job(caller: Caller, page: ErrorPage) -> dict[str, Any]:
    return render.import_job(page.status, page.items, caller.project_id)


# --- export jobs


@blueprint.post("/<app_id>/jobs/export")
def create_export_job(app_id: str) -> ResponseReturnValue:
    """Start an export of all endpoints, or of those of a segment."""
    caller, wish = enter(app_id), parse.export_wish(read_json())
    number = None
    if wish.segment_id is not None:
        segment = _segments().read_segment(caller, wish.segment_id, version=wish.version)
        number = desk().number_of(caller, segment.import_id)
    started = _exports().start_export(caller, wish.spec(import_number=number), idempotency_key=key_of_request())
    return render.export_job(started.status, caller.project_id), 202, replayed_header(started)


@blueprint.get("/<app_id>/jobs/export/<job_id>")
def get_export_job(app_id: str, job_id: str) -> ResponseReturnValue:
    """Tell how far an export is, whichever wire it came by."""
    caller = enter(app_id)
    return render.export_job(_exports().read_export(caller, job_id), caller.project_id)


@blueprint.get("/<app_id>/jobs/export")
def get_export_jobs(app_id: str) -> ResponseReturnValue:
    """List the application's exports, newest first."""
    caller, asked = enter(app_id), _page()
    page = _exports().list_exports(caller, before=asked.before, limit=asked.limit)
    return render.listed([render.export_job(status, caller.project_id) for status in page.items], page.next_before)


# --- endpoints


@blueprint.get(_ENDPOINT)
def get_endpoint(app_id: str, endpoint_id: str) -> ResponseReturnValue:
    """Return an endpoint."""
    caller = enter(app_id)
    return _endpoint(caller, endpoint_id, _collections().find_event(caller, parse.COLLECTION, endpoint_id))


@blueprint.delete(_ENDPOINT)
def delete_endpoint(app_id: str, endpoint_id: str) -> ResponseReturnValue:
    """Delete an endpoint, and return it as it was."""
    caller = enter(app_id)
    gone = _collections().delete_event(caller, parse.COLLECTION, endpoint_id, request=request_itself())
    return _endpoint(caller, endpoint_id, gone), 202


def _endpoint(caller: Caller, endpoint_id: str, found: StoredEvent | None) -> Response:
    if found is None:
        raise Refusal("not_found", f"There is no endpoint with the id {endpoint_id[:64]!r} in this application.")
    return _json(render.endpoint(found, caller.project_id))


@blueprint.put(_ENDPOINT)
def update_endpoint(app_id: str, endpoint_id: str) -> ResponseReturnValue:
    """Store an endpoint, whole: one that has its id is replaced."""
    caller = enter(app_id)
    return _push(caller, [parse.endpoint_line(read_body(), endpoint_id)])


@blueprint.put("/<app_id>/endpoints")
def update_endpoints(app_id: str) -> ResponseReturnValue:
    """Store up to a hundred endpoints in one transaction."""
    caller = enter(app_id)
    return _push(caller, parse.endpoint_lines(read_body()))


def _push(caller: Caller, lines: list[bytes]) -> ResponseReturnValue:
    pushed = PushDesk(runtime()).push(
        caller, {parse.COLLECTION: lines}, mapping=parse.MAPPING, idempotency_key=key_of_request()
    )
    render.check_taken(pushed.verdicts[parse.COLLECTION])
    return render.message("Accepted", g.request_id), 202, replayed_header(pushed)


@blueprint.get("/<app_id>/users/<path:user_id>")
def get_user_endpoints(app_id: str, user_id: str) -> ResponseReturnValue:
    """Return the endpoints of a user. All endpoints are looked through for them."""
    caller = enter(app_id)
    query = parse.user_query(user_id)
    found = _exports().small_export(caller, parse.COLLECTION, query, fill=_FILL, most=parse.MOST_OF_A_USER)
    lines = [*found]
    if not lines:
        raise Refusal("not_found", f"There is no user {user_id[:64]!r} in this application.")
    return _json(render.endpoints(lines, caller.project_id))


# --- segments


@blueprint.get("/<app_id>/segments/<segment_id>")
def get_segment(app_id: str, segment_id: str) -> ResponseReturnValue:
    """Return a segment as of its latest version."""
    caller = enter(app_id)
    return _segment(caller, _segments().read_segment(caller, segment_id))


@blueprint.get("/<app_id>/segments")
def get_segments(app_id: str) -> ResponseReturnValue:
    """List the application's segments, newest first."""
    caller, asked = enter(app_id), _page()
    page = _segments().list_segments(caller, before=asked.before, limit=asked.limit)
    return render.listed([_segment(caller, found) for found in page.items], page.next_before)


def _segment(caller: Caller, found: Segment) -> dict[str, Any]:
    return render.segment(found, desk().read_import(caller, found.import_id), caller.project_id)


# --- what all of them share


@blueprint.after_request
def _name_request(response: Response) -> Response:
    response.headers["x-amzn-RequestId"] = g.request_id
    return response


@blueprint.errorhandler(Refusal)
def refuse(refusal: Refusal) -> ResponseReturnValue:
    """Answer in Pinpoint's form of errors."""
    return render.refusal(refusal, g.request_id)


@blueprint.errorhandler(Transient)
def postpone(error: Transient) -> ResponseReturnValue:
    """Ask the caller to come again, as the SDKs do by themselves."""
    return render.error(503, error.public, g.request_id, {"Retry-After": "5"})


@blueprint.errorhandler(Exception)
def apologise(error: Exception) -> ResponseReturnValue:
    """Answer a mistake of ours without its text."""
    return render.error(500, log_mistake(error), g.request_id)


@blueprint.errorhandler(HTTPException)
def refuse_http(error: HTTPException) -> ResponseReturnValue:
    """Answer what Flask itself refuses: an unknown path, say, or a method, with the headers that belong to it."""
    # Unknown paths are no blueprint's, and come here all the same.
    headers = {**headers_of(error), "x-amzn-RequestId": g.request_id}
    return render.error(status_of(error), error.description or error.name, g.request_id, headers)


def _json(document: bytes) -> Response:
    return Response(document, mimetype="application/json")


def _page() -> parse.Page:
    return parse.page(request.args.to_dict(flat=False))


def _accounts() -> AccountDesk:
    return AccountDesk(runtime())


def _exports() -> ExportDesk:
    return ExportDesk(runtime())


def _collections() -> CollectionDesk:
    return CollectionDesk(runtime())


def _segments() -> SegmentDesk:
    return SegmentDesk(runtime())
