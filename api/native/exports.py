"""The verbs of exports: parse, desk, render."""

from __future__ import annotations

from typing import Any

from flask import g
from flask.typing import ResponseReturnValue

from api.exporting import ExportDesk
from api.native import parse, render, schemas
from api.native.routes import IDEMPOTENCY_KEY, Room, reply_to
from api.web import bearer, idempotency_key, link, runtime

blueprint = Room("exports", __name__, url_prefix="/api/exports", description="Events back out, into objects of S3.")


@blueprint.before_request
def _identify() -> None:
    g.caller = bearer()


def _desk() -> ExportDesk:
    return ExportDesk(runtime())


@blueprint.post("")
@blueprint.arguments(schemas.ExportRequest)
@blueprint.response(201, schemas.ExportReply)
@blueprint.doc(parameters=[IDEMPOTENCY_KEY])
def start_export(asked: dict[str, Any]) -> ResponseReturnValue:
    """Start an export of a collection, or of those of its events that a query asks for, to S3.

    All of it shows one instant. Its objects are there when it has completed, and none of them before it is whole; of an
    export that fails or is cancelled nothing stays.
    """
    spec = parse.export_spec(asked, now=_desk().read_clock())
    started = _desk().start_export(g.caller, spec, idempotency_key=idempotency_key())
    return reply_to(started, render.export_status(started.status, link))


@blueprint.get("")
@blueprint.arguments(schemas.ExportsQuery, location="query")
@blueprint.response(200, schemas.ExportListReply)
def list_exports(asked: dict[str, Any]) -> ResponseReturnValue:
    """List the project's exports, newest first."""
    page = _desk().list_exports(
        g.caller,
        before=asked.get("cursor"),
        states=asked.get("status"),
        collection=asked.get("collection"),
        limit=asked["limit"],
    )
    return {
        "items": [render.export_status(status, link) for status in page.items],
        "next": str(page.next_before) if page.next_before else None,
    }


@blueprint.get("/<export_id>")
@blueprint.response(200, schemas.ExportReply)
def read_export(export_id: str) -> ResponseReturnValue:
    """Tell how far an export is."""
    status = _desk().read_export(g.caller, export_id)
    return render.export_status(status, link), 200, render.retry_after(status)


@blueprint.post("/<export_id>/cancel")
@blueprint.response(200, schemas.ExportReply)
def cancel_export(export_id: str) -> ResponseReturnValue:
    """End an export. Whatever of it is in the bucket is deleted."""
    return render.export_status(_desk().cancel_export(g.caller, export_id), link)
