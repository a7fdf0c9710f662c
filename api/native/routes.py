"""The verbs: parse, desk, render; and the native form of every error, which unknown paths get too."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from flask import Flask, Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from flask_smorest import Api, Blueprint
from werkzeug.exceptions import HTTPException

from api.native import parse, render, schemas
from api.replies import Started
from api.web import (
    JsonParser,
    RequestBody,
    bearer,
    content_encoding,
    desk,
    headers_of,
    idempotency_key,
    link,
    log_mistake,
    replayed_header,
    request_line,
    runtime,
    status_of,
)
from common.errors import Refusal, Transient
from common.model.imports import ImportStatus
from common.telemetry import get_logger

log = get_logger(__name__)

#: What the OpenAPI document says of all routes.
SPEC = {
    "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    "security": [{"key": []}],
}


#: The header of every POST that creates.
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "Sent again within 24 hours, the request makes nothing new and gets its first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


#: The body with ``?collection=``, beside the JSON that names an object.
_LINES = {"schema": {"type": "string", "format": "binary"}}
EVENTS = {"content": {"application/x-ndjson": _LINES, "text/csv": _LINES, "application/octet-stream": _LINES}}
CONTENT_ENCODING = {
    "in": "header",
    "name": "Content-Encoding",
    "description": "Of a body with events. It is stored as it comes.",
    "schema": {"type": "string", "enum": ["gzip", "zstd", "identity"]},
}

UPLOAD_QUERY = {"in": "query", "schema": schemas.UploadQuery}


class Room(Blueprint):  # type: ignore[misc]  # flask-smorest has no types
    """A part of the native wire."""

    ARGUMENTS_PARSER = JsonParser()


blueprint = Room("imports", __name__, url_prefix="/api/imports", description="Bulk imports of events from S3.")


@blueprint.before_request
def _identify() -> None:
    """Know the caller before anything of the request is looked at: a stranger learns nothing of our schemas."""
    g.caller = bearer()


@blueprint.arguments(schemas.UploadQuery, location="query")
def start_upload(asked: dict[str, Any]) -> ResponseReturnValue:
    """Start an import of the events that are the body of the request."""
    spec = parse.upload_spec(asked, media_type=request.mimetype, compression=content_encoding())
    with RequestBody(patience=runtime().settings.upload_seconds / 2) as body:
        started = desk().start_upload(g.caller, spec, body, request=request_line(), idempotency_key=idempotency_key())
    return _started(started)


def _or_a_body(view: Callable[[], ResponseReturnValue]) -> Callable[[], ResponseReturnValue]:
    """Let a request that names its collection in the query bring its events along."""

    @wraps(view)
    def either() -> ResponseReturnValue:
        if "collection" in request.args:
            return cast("ResponseReturnValue", start_upload())
        parse.check_names_object(request.mimetype)
        return view()

    return either


@blueprint.post("")
@_or_a_body
@blueprint.arguments(schemas.ImportRequest)
@blueprint.response(201, schemas.ImportReply)
@blueprint.doc(parameters=[IDEMPOTENCY_KEY, CONTENT_ENCODING, UPLOAD_QUERY], requestBody=EVENTS)
def start_import(asked: dict[str, Any]) -> ResponseReturnValue:
    """Start an import: of an object in S3 that the body names or, with ``collection`` in the query, of the body itself.

    A request repeated with its Idempotency-Key gets the first answer again; of a body only the query is compared.
    """
    return _started(desk().start_import(g.caller, parse.import_spec(asked), idempotency_key=idempotency_key()))


def _started(started: Started[ImportStatus]) -> ResponseReturnValue:
    return reply_to(started, render.import_status(started.status, link))


def reply_to(started: Started[Any], document: dict[str, Any]) -> ResponseReturnValue:
    """Return the reply to a request that made an import or an export, given what is told of it."""
    headers = {"Location": document["links"]["self"], **render.retry_after(started.status), **replayed_header(started)}
    return document, 201, headers


@blueprint.get("")
@blueprint.arguments(schemas.ListQuery, location="query")
@blueprint.response(200, schemas.ImportListReply)
def list_imports(asked: dict[str, Any]) -> ResponseReturnValue:
    """List the project's imports, newest first."""
    page = desk().list_imports(
        g.caller,
        before=asked.get("cursor"),
        states=asked.get("status"),
        collection=asked.get("collection"),
        limit=asked["limit"],
    )
    return {
        "items": [render.import_status(status, link) for status in page.items],
        "next": str(page.next_before) if page.next_before else None,
    }


@blueprint.get("/<import_id>")
@blueprint.response(200, schemas.ImportReply)
def read_import(import_id: str) -> ResponseReturnValue:
    """Tell how far an import is."""
    status = desk().read_import(g.caller, import_id)
    return render.import_status(status, link), 200, render.retry_after(status)


@blueprint.post("/<import_id>/cancel")
@blueprint.response(200, schemas.ImportReply)
def cancel_import(import_id: str) -> ResponseReturnValue:
    """End an import: after the answer none of its rows is written any more."""
    return render.import_status(desk().cancel_import(g.caller, import_id), link)


@blueprint.get("/<import_id>/errors")
@blueprint.arguments(schemas.ErrorsQuery, location="query")
@blueprint.response(200, schemas.ErrorListReply)
def list_errors(asked: dict[str, Any], import_id: str) -> ResponseReturnValue:
    """List rejected lines with their index in the file, each once its index is known."""
    page = desk().list_errors(
        g.caller, import_id, after=parse.error_position(asked.get("cursor")), limit=asked["limit"]
    )
    return {
        "items": [render.line_error(error) for error in page.items],
        "rejected": page.status.progress.counts.rejected,
        "next": "{}-{}".format(*page.next_after) if page.next_after else None,
    }


def register(app: Flask, api: Api, *rooms: Room) -> None:
    """Mount all parts of the room, and make its form of errors the app's."""
    api.ERROR_SCHEMA = schemas.Problem
    for room in rooms:
        api.register_blueprint(room)
    _describe_errors(api)
    app.register_error_handler(Refusal, _refuse)
    app.register_error_handler(Transient, _postpone)
    app.register_error_handler(Exception, _apologise)


def _describe_errors(api: Api) -> None:
    """Name the type of error bodies in the OpenAPI document: flask-smorest takes them for plain JSON."""
    for answer in api.spec.components.responses.values():
        if "application/json" in answer.get("content", {}):
            answer["content"]["application/problem+json"] = answer["content"].pop("application/json")


def _refuse(refused: Refusal) -> ResponseReturnValue:
    body, status, headers = render.refusal(refused)
    return _problem(body), status, headers


def _postpone(error: Transient) -> ResponseReturnValue:
    log.warning("request_postponed", error=str(error))
    return _problem(render.problem(503, error.code, error.public)), 503, {"Retry-After": "5"}


def refuse_http(error: HTTPException) -> ResponseReturnValue:
    """Answer what Flask or the schemas refuse, with the headers they set."""
    status = status_of(error)
    data: dict[str, Any] = getattr(error, "data", {})
    fields = data.get("messages", {})
    extra = {"errors": fields.get("json") or fields.get("query") or fields} if fields else {}
    code = "invalid_request" if status in (400, 415, 422) else error.name.lower().replace(" ", "_")
    detail = "The request is not valid." if fields else error.description or error.name
    headers = {**headers_of(error), **(data.get("headers") or {})}
    return _problem(render.problem(status, code, detail, **extra)), status, headers


def _apologise(error: Exception) -> ResponseReturnValue:
    """Answer a mistake of ours without its text."""
    return _problem(render.problem(500, "internal_error", log_mistake(error))), 500


def _problem(body: dict[str, Any]) -> Response:
    response = jsonify({**body, "requestId": g.request_id})
    response.mimetype = "application/problem+json"
    return response
