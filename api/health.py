"""``/healthz``: the process answers. ``/readyz``: and its database does. Redis is not asked: nothing depends on it."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from api.web import runtime
from common.errors import PenstockError

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Answer."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Answer 200 once requests can be served, 503 before."""
    try:
        with runtime().database.transaction():
            return {"status": "ok"}
    except PenstockError:
        return {"status": "database_away"}, 503, {"Retry-After": "2"}
