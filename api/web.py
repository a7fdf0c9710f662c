"""Flask mechanics that every room needs: the caller, the body, the links."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import Any, Self, cast

import msgspec
import ujson
from flask import current_app, request
from flask.json.provider import JSONProvider
from marshmallow import RAISE
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import get_input_stream

from api.callers import Caller, Callers
from api.desk import Desk
from api.pushing import Pushed
from api.registering import Made
from api.replies import Started
from api.tabling import Put
from common.errors import Refusal
from common.model.formats import Compression
from common.runtime import Runtime
from common.telemetry import get_logger

log = get_logger(__name__)

HOST = re.compile(r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", re.ASCII)
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_ENCODINGS = {
    "": None,
    "identity": None,
    "gzip": Compression.GZIP,
    "x-gzip": Compression.GZIP,
    "zstd": Compression.ZSTD,
}
#: Bytes. The longest list of keys that a manifest may name in its request has half of it.
MAX_BODY = 2 * 1024 * 1024


class Json(JSONProvider):
    """Writes with ujson; reads with msgspec, since ujson takes NaN and ``01``, which are no JSON."""

    def dumps(self, obj: Any, **_: Any) -> str:
        """Return ``obj`` as JSON."""
        return ujson.dumps(obj, escape_forward_slashes=False, ensure_ascii=False)

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """Return what the JSON text says. Raises ValueError."""
        try:
            return msgspec.json.decode(s)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(str(error)) from None


def runtime() -> Runtime:
    """Return the runtime of the app that answers."""
    return cast(Runtime, current_app.extensions["penstock"])


def desk() -> Desk:
    """Return the desk of the app that answers."""
    return Desk(runtime())


def bearer() -> Caller:
    """Return the caller of ``Authorization: Bearer <key>``. Raises Refusal."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return identify(key.strip() if scheme.lower() == "bearer" else None)


def identify(credential: str | None, *, project: str | None = None, takes_master_keys: bool = False) -> Caller:
    """Return the caller that shows the credential, and the project if its dialect sends one. Raises Refusal."""
    callers = cast(Callers, current_app.extensions["penstock-callers"])
    address = request.remote_addr or ""
    return callers.identify(credential, address=address, project=project, takes_master_keys=takes_master_keys)


class JsonParser(FlaskParser):
    """Reads requests for the schemas: bodies as ``read_json`` does, and no parameter that the schema does not know."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE}  # noqa: RUF012  webargs' own

    def load_json(self, _request: Any, _schema: Any) -> Any:
        """Return the body. Webargs' own way takes NaN, and fell over 10,000 brackets."""
        return read_json()


def read_json() -> Any:
    """Return the body as JSON, whatever type it claims to be. Raises Refusal ``malformed_json``, ``malformed_body``."""
    try:
        return current_app.json.loads(read_body())
    except ValueError:
        raise Refusal("malformed_json", "The body of the request is not valid JSON.") from None


def read_body(*, most: int | None = None) -> bytes:
    """Return the body, up to ``most`` bytes where that is not the app's limit. Raises Refusal ``malformed_body``.

    RequestEntityTooLarge, and not a byte is read, where it is longer.
    """
    if most is not None:
        request.max_content_length = most
    try:
        return request.get_data(cache=True)
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  every server has errors of its own for a body that breaks off
        raise broken_body() from None


class RequestBody:
    """The body of the request, piece by piece, to be read by a desk. A context manager: a watch ends with it.

    Whoever sends it has so many seconds for each piece. gunicorn itself waits without end, a thread each: for a client
    that went silent, and for one that sends a byte now and then, which no timeout of a socket ends.
    """

    PIECE = 64 * 1024

    def __init__(self, *, patience: float) -> None:
        """Take the body of the present request, and the seconds that a piece of it may take."""
        self.length = request.content_length
        self._stream = get_input_stream(request.environ)
        self._socket: socket.socket | None = request.environ.get("gunicorn.socket")
        self._patience = patience
        self._read = 0
        self._waiting_since: float | None = None
        self._hung_up = False
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, name="body-watch", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._watch.ident:
            self._watch.join()

    def read(self) -> bytes:
        """Return up to 64 KiB, nothing at the end. Raises Refusal ``malformed_body``, ``body_too_slow``."""
        if self._socket and not self._watch.ident:
            self._watch.start()
        self._waiting_since = time.monotonic()
        try:
            piece: bytes = self._stream.read(self.PIECE)
        except Exception:  # noqa: BLE001  every server has errors of its own for a body that breaks off
            piece, is_broken = b"", True
        else:
            self._read += len(piece)
            is_broken = not piece and self.length not in (None, self._read)
        self._waiting_since = None
        if self._hung_up:
            text = f"The body came too slowly: its next {self.PIECE} bytes did not come within {self._patience:g} s."
            raise Refusal("body_too_slow", text)
        if is_broken:
            raise broken_body()
        return piece

    def _look(self) -> None:
        while not self._done.wait(min(self._patience / 4, 1.0)):
            since = self._waiting_since
            if since is not None and time.monotonic() > since + self._patience and self._socket:
                self._hung_up = True
                # Wakes the thread that reads, which then sees an end; it can still answer.
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RD)


def broken_body() -> Refusal:
    """Return the answer to a body that broke off."""
    return Refusal("malformed_body", "The body of the request could not be read to its end.")


def content_encoding() -> Compression | None:
    """Return what the body is compressed with, if the request says so. Raises Refusal ``unsupported_encoding``."""
    named = request.headers.get("Content-Encoding", "").strip().lower()
    if named not in _ENCODINGS:
        text = "A body may be sent as it is or with Content-Encoding gzip or zstd, once."
        raise Refusal("unsupported_encoding", text, field="Content-Encoding")
    return _ENCODINGS[named]


def request_line() -> str:
    """Return what stands for a request whose body nobody reads twice: method, path and query."""
    return f"{request.method} {request.path}?{request.query_string.decode('latin-1')}"


def idempotency_key() -> str | None:
    """Return the request's Idempotency-Key, if it has one. Raises Refusal ``invalid_idempotency_key``."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        text = "An Idempotency-Key has 1 to 255 printable ASCII characters; a fresh UUID is a good one."
        raise Refusal("invalid_idempotency_key", text, field="Idempotency-Key")
    return key


def replayed_header(started: Started[Any] | Pushed | Made | Put) -> dict[str, str]:
    """Return the header that tells a repeated request from the first one."""
    return {"Idempotent-Replayed": "true"} if started.replayed else {}


def check_host() -> None:
    """Refuse a request whose links we could not write: before the desk does anything for it. Raises Refusal.

    Health checks have no links, and come from load balancers that may name no host.
    """
    if request.blueprint == "health" or runtime().settings.base_url:
        return
    if not HOST.fullmatch(request.headers.get("Host", "")):
        raise Refusal("malformed_host", "The Host header of the request is not the name of a host.")


def link(path: str) -> str:
    """Return the address at which callers reach ``path``."""
    # Not werkzeug's host_url: it decodes international names, and fails on some.
    base = runtime().settings.base_url or f"{request.scheme}://{request.headers['Host']}"
    return base.rstrip("/") + path


def log_mistake(error: Exception) -> str:
    """Log the kind and the place of a mistake of ours, whose text could hold anything, and return what to tell."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
    log.error("request_failed", error=type(error).__name__, where=where)
    return "The service made a mistake. It is logged; trying again may help."


def status_of(error: HTTPException) -> int:
    """Return the HTTP status that an error of werkzeug stands for."""
    return error.code or 500


def headers_of(error: HTTPException) -> dict[str, str]:
    """Return the headers that belong to an error of werkzeug: 405 has to name what is allowed."""
    return {name: value for name, value in error.get_headers() if name != "Content-Type"}
