"""The verbs of collections: parse, desk, render."""

from __future__ import annotations

from typing import Any

from flask import Response, g
from flask.typing import ResponseReturnValue

from api.collecting import CollectionDesk
from api.native import parse, render, schemas
from api.native.routes import Room
from api.web import bearer, runtime

blueprint = Room("collections", __name__, url_prefix="/api/collections", description="What is stored, and its end.")


@blueprint.before_request
def _identify() -> None:
    g.caller = bearer()


def _desk() -> CollectionDesk:
    return CollectionDesk(runtime())


@blueprint.get("")
@blueprint.arguments(schemas.CollectionsQuery, location="query")
@blueprint.response(200, schemas.CollectionListReply)
def list_collections(asked: dict[str, Any]) -> ResponseReturnValue:
    """List the project's collections by name, with what they hold. No event is counted for it: the ledger knows."""
    page = _desk().list_collections(g.caller, after=asked.get("cursor"), limit=asked["limit"])
    return {"items": [render.collection_status(status) for status in page.items], "next": page.next_after}


@blueprint.get("/<name>")
@blueprint.response(200, schemas.CollectionReply)
def read_collection(name: str) -> ResponseReturnValue:
    """Tell what a collection holds."""
    return render.collection_status(_desk().read_collection(g.caller, name))


@blueprint.get("/<name>/events")
@blueprint.arguments(schemas.EventsQuery, location="query")
@blueprint.response(200, schemas.EventListReply)
def read_events(asked: dict[str, Any], name: str) -> ResponseReturnValue:
    """Read a collection's events in the order of their ids, each with the bytes that came in.

    A page ends early when it has 4 MiB, or when 20,000 events were looked at: while ``next`` is not null there may be
    more, also behind a page without any.
    """
    query, after = parse.events_query(asked), asked.get("cursor")
    page = _desk().read_events(g.caller, name, query, after=after and str(after), limit=asked["limit"])
    return Response(render.event_page(page.items, page.next_after), mimetype="application/json")


@blueprint.delete("/<name>")
@blueprint.response(204)
def delete_collection(name: str) -> ResponseReturnValue:
    """Delete a collection and all of its events; takes a key with the scope admin.

    Its name is free for another at once, while the space of its events is given back bit by bit. Imports into it stay
    listed. Refused while an import or export of it is active.
    """
    _desk().delete_collection(g.caller, name)
    return "", 204
