"""One line a request, and an id on every line of it: the caller's own or a fresh one, sent back with every answer."""

from __future__ import annotations

import re
import time

from flask import Flask, Response, g, request

from common.model.ids import new_id
from common.telemetry import bind, get_logger, unbind

log = get_logger(__name__)

HEADER = "X-Request-Id"
#: What is taken from a caller: long enough to mean one request, and nothing that a reader of logs could stumble over.
_GIVEN = re.compile(r"[A-Za-z0-9._-]{8,64}")


def watch_requests(app: Flask) -> None:
    """Bind and log every request of the app. Has to come before anything else that looks at requests."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(lambda _: unbind())


def _begin() -> None:
    given = request.headers.get(HEADER, "")
    g.request_id = given if _GIVEN.fullmatch(given) else new_id()
    g.begun = time.perf_counter()
    # As a worker does before each task: whatever this thread did before is another piece of work.
    unbind()
    bind(request_id=g.request_id)


def _end(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    # The rule, never the path or the query: dialects put there what nobody may read.
    tell = log.debug if request.blueprint == "health" else log.info
    tell(
        "request",
        method=request.method,
        route=request.url_rule.rule if request.url_rule else None,
        status=response.status_code,
        milliseconds=round((time.perf_counter() - g.begun) * 1000, 1),
    )
    return response
