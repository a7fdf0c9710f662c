"""Wiring: settings in, a Flask app with all rooms out. ``gunicorn "api.app:create_app()"``."""

from __future__ import annotations

from flask import Flask, request
from flask.typing import ResponseReturnValue
from flask_smorest import Api
from werkzeug.exceptions import HTTPException

from api import connect, health, native, nexosis, pinpoint, scarf
from api.access import watch_requests
from api.callers import Callers
from api.proxies import BelievedProxies
from api.signers import Signers
from api.web import MAX_BODY, Json, check_host
from common.runtime import Runtime
from common.settings import Settings
from common.telemetry import configure_logs


def create_app(settings: Settings | None = None) -> Flask:
    """Return the app. Opens no connection yet."""
    settings = settings or Settings.from_environment()
    configure_logs(settings.log_level, settings.log_format)
    app = Flask("penstock", static_folder=None)
    app.url_map.merge_slashes = False
    app.json = Json(app)
    runtime = app.extensions["penstock"] = Runtime.build(settings, name="penstock-web")
    app.extensions["penstock-callers"] = Callers(runtime.database, runtime.failures, runtime.sealer)
    app.extensions["penstock-signers"] = Signers(runtime.database, runtime.failures, runtime.sealer)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY,
        API_TITLE="Penstock",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/api",
        OPENAPI_JSON_PATH="openapi.json",
    )
    app.wsgi_app = BelievedProxies(app.wsgi_app, settings.proxies)  # type: ignore[method-assign]  # Flask's own way
    app.wsgi_app = nexosis.FoldedPaths(app.wsgi_app)  # type: ignore[method-assign]
    watch_requests(app)
    app.before_request(check_host)
    health.register(app, runtime.database)
    app.register_blueprint(connect.blueprint)
    app.register_blueprint(scarf.blueprint)
    app.register_blueprint(pinpoint.blueprint)
    app.register_blueprint(nexosis.blueprint)
    native.register(app, Api(app, spec_kwargs=native.SPEC))
    app.register_error_handler(HTTPException, _refuse_http)
    return app


def _refuse_http(error: HTTPException) -> ResponseReturnValue:
    """Answer unknown paths and methods in the form of the room they are nearest to."""
    rooms = (connect, scarf, pinpoint, nexosis)
    nearest = (room.refuse_http for room in rooms if request.path.startswith(room.PATHS))
    return next(nearest, native.refuse_http)(error)
